"""Tests gate and signal by difficulty, against numbers worked out by hand."""

import json
from pathlib import Path
import shutil

import pandas as pd
import pytest

from app import difficulty, filters, sources, store
from app.sources import SAMPLE
from tests.helpers import pages


def index_of(*rows: tuple[int, int, str, float, float, int, float | None]) -> pd.DataFrame:
    """step, group, status, reward, gate, length, KL."""
    table = pd.DataFrame(rows, columns=["step", "group", "status", "reward", "gate", "length", "kl_to_teacher"])
    return table.assign(kl_to_teacher=table["kl_to_teacher"].astype(float), problem_id="p" + table["group"].astype(str))


INDEX = index_of(
    (1, 0, "correct", 1.0, 1.0, 10, 0.4), (1, 0, "wrong", -1.0, 0.0, 12, 3.0), (1, 0, "wrong", -1.0, 0.0, 12, None),
    (1, 0, "wrong", -1.0, 0.0, 20, None),
    (1, 1, "wrong", -1.0, 0.0, 30, 2.0), (1, 1, "truncated", -1.0, 0.0, 30, None),
    (4, 0, "correct", 1.0, 1.0, 10, 0.2), (4, 0, "correct", 1.0, 0.0, 11, None),
)  # fmt: skip


def test_the_numbers_of_each_bin() -> None:
    bins = difficulty.by_accuracy(INDEX)
    assert bins.tolist() == ["1–25%"] * 4 + ["0%"] * 2 + ["100%"] * 2
    rows = difficulty.table(INDEX, bins).set_index("bin")
    assert list(rows.index) == ["0%", "1–25%", "100%"]
    assert rows["gate"].tolist() == [0.0, 0.25, 0.5] and rows["flat"].tolist() == [1.0, 0.0, 1.0]
    assert rows["distilled"].tolist() == pytest.approx([0.0, 0.2, 0.2])
    assert rows["rollouts"].tolist() == [2, 4, 2] and rows["recorded"].tolist() == [1, 2, 1]
    over = difficulty.table(INDEX, bins, over_time=True)
    assert over["step"].tolist() == [1, 1, 4] and over["share"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(("right", "bin"), [(0, "0%"), (1, "1–25%"), (2, "1–25%"), (3, "26–50%"), (4, "26–50%"),
                                            (5, "51–75%"), (7, "76–99%"), (8, "100%")])  # fmt: skip
def test_bins_of_accuracy(right: int, bin: str) -> None:
    rows = [(1, 0, "correct" if at < right else "wrong", 0.0, 0.0, 1, None) for at in range(8)]
    assert set(difficulty.by_accuracy(index_of(*rows))) == {bin}


def test_bins_of_length_hold_all_and_are_named_by_their_limits() -> None:
    lengths = [3, 3, 3, 4, 5, 6, 7, 8, 9, 50]
    index = index_of(*[(1, 0, "wrong", 0.0, 0.0, length, None) for length in lengths])
    bins = difficulty.by_length(index)
    for name, length in zip(bins, lengths, strict=True):
        low, _, high = str(name).partition("–")
        assert int(low) <= length <= int(high or low)
    assert bins.cat.categories[0] == "3" and bins.cat.categories[-1].endswith("–50")
    alike = difficulty.by_length(index.assign(length=7))
    assert alike.tolist() == ["7"] * len(lengths)


def test_spans_have_as_many_steps_as_each_other() -> None:
    middle = difficulty.spans(pd.Series([*range(1, 25), 24]))
    assert middle.tolist() == [at + 0.5 for at in range(1, 25, 2) for _ in range(2)] + [23.5]
    assert difficulty.spans(pd.Series([7])).tolist() == [7]


def test_families_come_from_the_data_that_the_run_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    run = sources.discover(tmp_path).runs["grpo-0"]
    assert difficulty.families_of(run) == {}
    at = pages.opened("gating", tmp_path, monkeypatch, run="grpo-0")
    assert not at.exception and any("Families need" in each.value for each in at.caption)
    index = store.index(run)[0]
    prepared = tmp_path / "data" / "prepared" / "train.jsonl"
    prepared.parent.mkdir(parents=True)
    first = index.iloc[0]
    prompt = filters.texts(run, first["step"], first["group"])[0]["student_prompt"]
    rows = [{"id": name, "source": f"synthetic/chain-{at % 2}", "student_prompt": prompt}
            for at, name in enumerate(sorted(set(index["problem_id"])))]  # fmt: skip
    prepared.write_text("\n".join(map(json.dumps, rows)) + "\nno row\n", encoding="utf-8")
    found = difficulty.families_of(run)
    assert set(found.values()) == {"chain-0", "chain-1"}
    at = pages.opened("gating", tmp_path, monkeypatch, run="grpo-0", bins=difficulty.FAMILY)
    assert not at.exception and not at.warning and len(at.get("vega_lite_chart")) >= 7
    # The same ids of other data say nothing.
    prepared.write_text("\n".join(json.dumps(row | {"student_prompt": "another"}) for row in rows), encoding="utf-8")
    assert difficulty.families_of(run) == {}
