"""Tests the Gating page and the numbers on it."""

from functools import partial
import math
from pathlib import Path
import shutil

import pandas as pd
import pytest

from app import gates, sources
from tests.helpers import pages

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "app" / "sample"


opened = partial(pages.opened, "gating")


def rollouts(*rows: tuple[int, int, int, str, str, float, int, float | None]) -> pd.DataFrame:
    """step, group, sibling, problem, status, gate, length, KL."""
    names = ["step", "group", "sibling", "problem_id", "status", "gate", "length", "kl_to_teacher"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(kl_to_teacher=table["kl_to_teacher"].astype(float))


def test_divergences_count_and_separate() -> None:
    index = rollouts(
        *[(1, 0, at, "a", "correct", 1.0, 4, value) for at, value in enumerate((0.1, 0.2, 0.3, 0.4))],
        (1, 1, 0, "b", "wrong", 0.0, 4, 2.0), (1, 1, 1, "b", "wrong", 0.0, 4, None),
        (5, 0, 0, "a", "wrong", 0.0, 4, 1.0), (5, 0, 1, "a", "wrong", 0.0, 4, 3.0),
    )  # fmt: skip
    rows = {(row["step"], row["where"]): row for row in gates.divergences(index).to_dict("records")}
    assert set(rows) == {(1, "inside"), (1, "outside"), (5, "outside")}
    inside = rows[1, "inside"]
    assert inside["value"] == pytest.approx(0.25) and inside["rollouts"] == 4
    # Without skewness these are t limits, 0.25 ± 3.18 · 0.129/2, but for the sum of squares that is added.
    assert 0.0 <= inside["low"] < 0.1 and 0.4 < inside["high"] < 1.5
    assert rows[1, "outside"]["rollouts"] == 1 and math.isnan(rows[1, "outside"]["low"])
    assert rows[5, "outside"]["value"] == 2.0 and math.isnan(rows[5, "outside"]["high"])


def test_share_of_kl_that_is_kept_out_is_by_token() -> None:
    index = rollouts(
        (1, 0, 0, "a", "correct", 1.0, 10, 0.5), (1, 0, 1, "a", "wrong", 0.0, 30, 0.5),
        (1, 0, 2, "a", "wrong", 0.0, 99, None),
    )  # fmt: skip
    assert gates.excluded_share(index) == pytest.approx(0.75)
    assert gates.excluded_share(index[index["kl_to_teacher"].isna()]) is None


def test_problems_never_inside_and_why() -> None:
    index = rollouts(
        (1, 0, 0, "a", "wrong", 0.0, 4, None), (1, 0, 1, "a", "wrong", 0.0, 4, None),
        (3, 2, 0, "a", "wrong", 0.0, 4, None), (3, 2, 1, "a", "wrong", 0.0, 4, None),
        (1, 1, 0, "b", "correct", 0.0, 4, None), (1, 1, 1, "b", "correct", 0.0, 4, None),
        (2, 0, 0, "c", "wrong", 0.0, 4, None), (2, 0, 1, "c", "correct", 1.0, 4, None),
    )  # fmt: skip
    table = gates.never_inside(index)
    assert table["problem_id"].tolist() == ["a", "b"]  # the one drawn more often first
    first, second = table.to_dict("records")
    assert (first["groups"], first["rollouts"], first["last"], first["group"]) == (2, 4, 3, 2)
    assert first["reason"] == "never solved" and second["reason"] == "always solved"
    assert gates.reason(0.5) == "no reward above its group's mean"


def test_highest_outside_first() -> None:
    index = rollouts(
        (1, 0, 0, "a", "wrong", 0.0, 4, 0.2), (1, 0, 1, "a", "correct", 1.0, 4, 9.0),
        (1, 0, 2, "a", "wrong", 0.0, 4, 0.7), (1, 0, 3, "a", "wrong", 0.0, 4, None),
    )  # fmt: skip
    assert gates.highest_outside(index)["sibling"].tolist() == [2, 0]
    assert gates.highest_outside(index, limit=1)["sibling"].tolist() == [2]


def sample_run(method: str) -> sources.RunEntry:
    return next(run for run in sources.discover(Path("/nonexistent")).runs.values() if run.method == method)


def test_kinds_of_gate() -> None:
    assert gates.kind(sample_run("sdpg-ufkl")) == gates.Kind(True, "positive", False)
    assert gates.kind(sample_run("rlsd")) == gates.Kind(False, "positive", True)
    assert gates.kind(sample_run("grpo")) == gates.Kind(False, "positive", False)


@pytest.mark.parametrize(
    ("method", "said"), [("grpo", "does not distil"), ("rlsd", "has no gate"), ("sdpg-ufkl", None)]
)
def test_page_says_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, said: str | None
) -> None:
    at = opened(tmp_path, monkeypatch, run=sample_run(method).id)
    assert not at.exception and not at.error
    about = [each.value for each in at.info if "gate" in each.value and "sample" not in each.value]
    assert (len(about) == 0) if said is None else said in about[0]
    assert [each.label for each in at.metric] == ["Gate open", "Mean KL inside", "Mean KL outside", "KL kept out"]
    assert any("rollouts a step" in each.value for each in at.caption)


@pytest.mark.parametrize(
    ("gate", "said"), [("all", "nothing is kept out"), ("later", "the gate later, which this version does not know")]
)
def test_page_of_another_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str, said: str) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "runs/sdpg-ufkl-0/config.yaml"
    text = path.read_text()
    assert "gate: positive" in text
    path.write_text(text.replace("gate: positive", f"gate: {gate}"))
    at = opened(tmp_path, monkeypatch, run="sdpg-ufkl-0")
    assert not at.exception and any(said in each.value for each in at.info)


def test_page_without_rollouts_still_shows_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs/grpo-0/rollouts")
    at = opened(tmp_path, monkeypatch, run="grpo-0")
    assert not at.exception and any("no more to show" in each.value for each in at.info)
    assert not at.metric
