"""Tests the Problems page: heatmap, one problem through training, its answers, training problems."""

from functools import partial
from pathlib import Path
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from app import accuracy, sources, training_problems
from tests.helpers import pages

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "app" / "sample"


opened = partial(pages.opened, "problems")


def runs_of(root: Path) -> list[sources.RunEntry]:
    return next(iter(accuracy.by_place(sources.discover(root)).values()))


def table_named(at: AppTest, column: str) -> pd.DataFrame:
    return next(each.value for each in at.dataframe if column in each.value.columns)


def test_a_problem_through_training_is_the_evaluations_own(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    table, notices = accuracy.through_training(runs, "chain-3", "chain-3-0")
    assert not notices and set(table["run"]) == {run.id for run in runs}
    run = runs[0]
    for row in table[table["run"] == run.id].to_dict("records"):
        answers = pq.read_table(run.path(f"evaluations/step-{row['step']:06d}.parquet")).to_pandas()
        own = answers[(answers["benchmark"] == "chain-3") & (answers["problem_id"] == "chain-3-0")]
        assert row["accuracy"] == pytest.approx((own["status"] == "correct").mean()) and row["samples"] == len(own)


def test_rows_are_methods_or_runs_after_the_base(tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    rows, notices = accuracy.solved(runs, "chain-4", accuracy.final_of("chain-4"), each_run=False)
    assert not notices and [row.key for row in rows] == ["base", "grpo", "rlsd", "sdpg-ufkl"]
    rows, _ = accuracy.solved(runs, "chain-4", accuracy.last_of("chain-4"), each_run=True)
    assert [row.key for row in rows][1:] == [run.id for run in runs]
    table = accuracy.matrix(rows)
    assert table.mean(axis=1).is_monotonic_decreasing


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, benchmark="chain-4", problem="chain-4-7")
    assert not at.exception and not at.error
    runs = runs_of(tmp_path)
    answers = pq.read_table(next(run for run in runs if run.method == "grpo").place.files.path(
        "evaluations/grpo-0/final.parquet")).to_pandas()  # fmt: skip
    own = answers[(answers["benchmark"] == "chain-4") & (answers["problem_id"] == "chain-4-7")
                  & (answers["temperature"] > 0)]  # fmt: skip
    votes = table_named(at, "answer")
    assert votes["GRPO"].sum() == len(own)
    right = votes[votes[" "] == "●"]
    assert right["GRPO"].sum() == (own["status"] == "correct").sum()
    assert any(own["gold"].iloc[0] in each.value for each in at.markdown)
    listed = table_named(at, "statement")
    assert listed["mean"].is_monotonic_increasing
    # What all prompts share is left out of the statements.
    assert not any("im_start" in text for text in listed["statement"])


def test_votes_do_not_mix_greedy_answers_or_the_teacher_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, benchmark="chain-3", problem="chain-3-1")
    base = pq.read_table(SAMPLE / "models/base-evaluations/sampled.parquet").to_pandas()
    own = base[(base["method"] == "base") & (base["problem_id"] == "chain-3-1") & (base["temperature"] > 0)]
    assert table_named(at, "answer")["Base"].sum() == len(own)


def test_most_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, benchmark="chain-3", sorted="most different", a="rlsd", b="grpo")
    assert not at.exception
    listed = table_named(at, "A − B")
    assert listed["A − B"].abs().is_monotonic_decreasing
    assert (listed["RLSD"] - listed["GRPO"]).to_numpy() == pytest.approx(100 * listed["A − B"].to_numpy())


def test_last_evaluation_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, benchmark="validation", answers="last evaluation", rows="runs")
    assert not at.exception and not at.error
    assert "grpo-0" in table_named(at, "answer").columns


def test_unknown_problem_and_benchmark_give_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, benchmark="AIME24", problem="../x", answers="odd", rows="odd")
    assert not at.exception and not at.error


def test_without_final_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "evaluations")
    at = opened(tmp_path, monkeypatch, benchmark="chain-3")
    assert not at.exception and not at.error
    assert "60 problems" not in "".join(each.value for each in at.info)
    at = opened(tmp_path, monkeypatch, benchmark="chain-3", answers="larger samples")
    assert not at.exception and any("No run of this place has such answers" in each.value for each in at.info)


def test_a_damaged_evaluation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "evaluations/rlsd-0/final.parquet").write_bytes(b"PAR1")
    at = opened(tmp_path, monkeypatch, benchmark="chain-3")
    assert not at.exception
    assert any("rlsd-0/final.parquet" in each.value.replace("\\", "") for each in at.warning)


def test_groups_of_training_problems() -> None:
    index = pd.DataFrame({
        "step": [1, 1, 1, 1, 2, 2], "group": [0, 0, 1, 1, 0, 0], "problem_id": ["a", "a", "b", "b", "a", "a"],
        "sibling": [0, 1, 0, 1, 0, 1], "reward": [1.0, -1.0, -1.0, -1.0, 1.0, 1.0],
        "gate": [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "status": ["correct", "wrong", "wrong", "wrong", "correct", "correct"],
    })  # fmt: skip
    groups = training_problems.met(index)
    assert groups["flagged"].tolist() == [False, True, True] and groups["correct"].tolist() == [0.5, 0.0, 1.0]
    rows = training_problems.by_problem(groups).to_dict("records")
    assert [row["problem_id"] for row in rows] == ["a", "b"]
    assert (rows[0]["groups"], rows[0]["rollouts"], rows[0]["correct"], rows[0]["gate"]) == (2, 4, 0.75, 0.25)
    assert (rows[0]["last"], rows[0]["flagged"], rows[1]["flagged"]) == (2, 1, 1)


def test_training_problems_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(tmp_path)
    at = opened(tmp_path, monkeypatch, benchmark="training", run=runs[-1].id)
    assert not at.exception and not at.error
    listed, groups = at.dataframe[0].value, at.dataframe[1].value
    assert listed["groups"].is_monotonic_decreasing and len(groups) == listed["groups"][0]
