"""Tests what the app reads of a run: right numbers, no needless reads, and a new read when a file changes."""

from pathlib import Path
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from app import store
from app.sources import SAMPLE, RunEntry, discover
from sdpg.errors import UserError
from sdpg.records.schemas import read_rollouts


@pytest.fixture
def run(tmp_path: Path) -> RunEntry:
    """A run with a teacher, in a project of its own."""
    shutil.copytree(SAMPLE, tmp_path / "project")
    return discover(tmp_path / "project").runs["sdpg-ufkl-0"]


def rollout_files(run: RunEntry) -> list[Path]:
    return [run.path(f"rollouts/{name}") for name in run.names("rollouts")]


def test_metrics_and_curves(run: RunEntry) -> None:
    metrics, curves = store.metrics(run), store.curves(run)
    assert list(metrics["step"]) == list(range(1, run.params["train"]["steps"] + 1))
    assert curves["step"][0] == 0 and set(store.benchmarks(run)) < set(curves)
    assert list(store.timing(run)["step"]) == list(metrics["step"])


def test_a_line_that_is_being_written_is_not_read(run: RunEntry) -> None:
    path = run.path("metrics.csv")
    before = len(store.metrics(run))
    with path.open("a") as file:
        file.write("61,0.2")
    assert len(store.metrics(run)) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [("", "damaged"), ("a,b\n1,2\n", "no column step"), ("step,reward\n1,fast\n", "no number in column reward")],
)
def test_a_damaged_table_names_its_file(run: RunEntry, content: str, says: str) -> None:
    run.path("metrics.csv").write_text(content)
    with pytest.raises(UserError, match=says) as caught:
        store.metrics(run)
    assert str(run.path("metrics.csv")) in str(caught.value)


def test_a_missing_table_names_its_file(run: RunEntry) -> None:
    run.path("timing.csv").unlink()
    with pytest.raises(UserError, match=r"timing\.csv does not exist"):
        store.timing(run)


def test_index_has_a_row_per_rollout_with_its_own_means(run: RunEntry) -> None:
    index, notices = store.index(run)
    rows = [row for path in rollout_files(run) for row in read_rollouts(path).to_pylist()]
    assert len(index) == len(rows) and not notices
    assert store.recorded_tokens(run) == sum(len(row["completion_ids"]) for row in rows)
    for at, row in enumerate(rows):
        for name in store.MEANS:
            expected = np.nan if row[name] is None else np.mean(row[name])
            np.testing.assert_allclose(index[name][at], expected, rtol=1e-9, equal_nan=True)
        assert (index["group"][at], index["sibling"][at]) == (row["group"], row["sibling"])
    assert index["kl_to_teacher"].notna().any() and index["kl_to_teacher"].isna().any()


def test_a_damaged_record_is_named_and_the_others_are_read(run: RunEntry) -> None:
    files = rollout_files(run)
    files[0].write_bytes(files[0].read_bytes()[:1000])
    table = pq.read_table(files[1])
    pq.write_table(table.replace_schema_metadata({b"sdpg_schema_version": b"9", b"sdpg_kind": b"rollout"}), files[1])
    index, notices = store.index(run)
    assert len(notices) == 2 and str(files[0]) in notices[0] and "schema version 9" in notices[1]
    assert len(index) == sum(pq.read_metadata(path).num_rows for path in files[2:])


def test_one_rollout(run: RunEntry) -> None:
    step = store.rollout_steps(run)[1]
    row = store.rollout(run, step, 3, 5)
    assert (row["step"], row["group"], row["sibling"]) == (step, 3, 5) and len(row["tokens"]) == row["length"]
    with pytest.raises(UserError, match="no group 3 with a sibling 99"):
        store.rollout(run, step, 3, 99)
    with pytest.raises(UserError, match="no records of step 7"):
        store.step_rollouts(run, 7)


def test_ranks_of_a_step_are_read_together(run: RunEntry) -> None:
    step = store.rollout_steps(run)[0]
    first = run.path(f"rollouts/step-{step:06d}-rank-0.parquet")
    table = pq.read_table(first)
    pq.write_table(table.slice(0, 40), first)
    pq.write_table(table.slice(40), first.with_name(f"step-{step:06d}-rank-1.parquet"))
    assert store.step_rollouts(run, step).num_rows == table.num_rows
    assert store.rollout(run, step, 15, 7)["completion"] == table["completion"][-1].as_py()


def test_search_finds_whatever_its_case(run: RunEntry) -> None:
    step = store.rollout_steps(run)[0]
    row = store.rollout(run, step, 2, 1)
    hits = store.search(run, row["completion"].upper())
    assert (step, 2, 1) in hits
    rows = [row for path in rollout_files(run) for row in read_rollouts(path).to_pylist()]
    wanted = row["completion"].lower()
    everything = {(r["step"], r["group"], r["sibling"]) for r in rows if wanted in r["completion"].lower()}
    assert hits == everything
    assert store.search(run, "[.*") == set(), "a text, not a pattern"


def test_evaluations(run: RunEntry) -> None:
    steps = store.evaluation_steps(run)
    assert steps[-1] == run.params["train"]["steps"]
    assert set(store.benchmarks(run)) < set(store.evaluation(run, steps[0])["benchmark"].to_pylist())
    assert set(store.final(run)["method"].to_pylist()) == {run.method}
    assert {"base", "base-teacher"} <= set(store.base(run)["method"].to_pylist())
    run.place.files.path(f"evaluations/{run.name}/final.parquet").unlink()
    with pytest.raises(UserError, match=f"dvc repro evaluate@{run.name}"):
        store.final(run)


def test_what_is_read_is_kept_until_the_file_changes(run: RunEntry) -> None:
    step = store.rollout_steps(run)[0]
    first = store.step_rollouts(run, step)
    assert store.step_rollouts(run, step) is first
    path = rollout_files(run)[0]
    pq.write_table(pq.read_table(path).slice(0, 8), path)
    assert store.step_rollouts(run, step).num_rows == 8
