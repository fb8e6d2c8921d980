"""Property test of addresses: whatever one names, and however often, no page breaks on it."""

from pathlib import Path
import random
from typing import Any

import pytest
from streamlit.runtime.state import QueryParamsProxy

from app import selection
from tests.helpers import pages

KNOWN = {
    "run": ["grpo-0", "rlsd-0", "sdpg-ufkl-0"], "step": ["1", "20", "60"], "group": ["0", "3", "15"],
    "sibling": ["0", "7"], "benchmark": ["chain-3", "chain-4", "carry-3"], "token": ["0", "3"],
}  # fmt: skip
ODD = [
    "", " ", "0", "-1", "1.5", "1e400", "nan", "inf", "-inf", "None", "null", "9" * 40, "0x10", "٣", "1_000", "+1",
    "true", "<script>alert(1)</script>", "../../etc/passwd", "%00", "\x00", "\n", "$\\frac{1}{0}$", ":material/home:",
    "(", "[", "[a](b)", "a|b", "\\", "-5-200", "80-20", "20-80-3", "x" * 5000, "\u202etxt", "\U0001f642", "{}",
    "grpo-0/../rlsd-0",
]  # fmt: skip
ADDRESSES = 5
"""Of each page."""


@pytest.mark.parametrize("page", list(selection.PAGES))
def test_no_address_breaks_a_page(page: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    reads = {name: getattr(QueryParamsProxy, name) for name in ("get", "get_all", "__contains__")}

    def reading(name: str) -> Any:
        def read(proxy: QueryParamsProxy, key: str, *default: Any) -> Any:
            asked.add(key)
            return reads[name](proxy, key, *default)

        return read

    for name in reads:
        monkeypatch.setattr(QueryParamsProxy, name, reading(name))
    at = pages.opened(page, root, monkeypatch, run="rlsd-0", step="20")
    assert not at.exception and len(asked) > 2
    source = random.Random(page)
    for number in range(ADDRESSES):
        params = {key: source.choice(ODD) for key in sorted(asked) if source.random() < 0.7}
        params |= {key: source.choice(KNOWN[key]) for key in sorted(KNOWN) if source.random() < 0.5}
        if number % 2:
            repeated = source.choice(sorted(asked))
            params[repeated] = [source.choice(ODD), *KNOWN.get(repeated, ODD)[:3], source.choice(ODD)]
        at.query_params.clear()
        at.query_params.update(params)
        at.run()
        assert not at.exception, params
        boxes = [each.value for kind in (at.error, at.warning, at.info) for each in kind]
        assert not [box for box in boxes if "Traceback" in box or "Error(" in box], params
        assert all(len(box) < 2000 for box in boxes), "what it does not know is cut"
