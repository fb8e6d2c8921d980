"""Tests how a run that was made again is compared: cell by cell, step by step, and by what made it."""

from pathlib import Path
import shutil

import pytest

from sdpg.errors import UserError
from sdpg.reproduction.cells import compare_tables
from sdpg.reproduction.divergence import differing_files, environment_differences, first_differences, first_row
from sdpg.reproduction.verification import Report, RunReport, find_recorded, report_text
from sdpg.results.runs import Results, read_results
from tests.helpers.fabricated import params_with, write_base, write_run
from tests.helpers.finished import make_finished

PARAMS = params_with(["grpo", "rlsd"], [0], report={"resamples": 50})


def results(folder: Path, more: int) -> Results:
    """Two runs; RLSD answers the first ``more`` problems of chain-3 right more often: once, and all if all ten."""
    often = 3 if more == 10 else 1
    write_base(folder)
    write_run(folder, "grpo", 0, lambda name, step, problem: 1 + problem % 3, greedy_right=3)
    write_run(folder, "rlsd", 0, lambda name, step, problem: 1 + often * (name == "chain-3" and problem < more))
    return read_results(PARAMS, folder)


def test_cells_are_identical_within_the_interval_or_different(tmp_path: Path) -> None:
    first, same, near, far = (results(tmp_path / str(at), more) for at, more in enumerate((3, 3, 4, 10)))
    cells = compare_tables(first, same)
    assert len(cells) > 60 and {cell.verdict for cell in cells} == {"bit-identical"}
    measures = {"last", "best", "selected", "difference to GRPO", "mean", "greedy", "gain", "pass@4"}
    assert {cell.measure for cell in cells} >= measures

    def changed(other: Results) -> dict[tuple[str, str], str]:
        found = [cell for cell in compare_tables(first, other) if cell.verdict != "bit-identical"]
        # Elsewhere at most the p-value that is adjusted for all comparisons.
        elsewhere = {cell.measure for cell in found if (cell.benchmark, cell.method) != ("chain-3", "RLSD")}
        assert elsewhere <= {"difference to GRPO"}
        found = [cell for cell in found if cell.benchmark == "chain-3"]
        return {(cell.table, cell.measure): cell.verdict for cell in found}

    assert set(changed(near).values()) == {"within interval"}
    assert changed(far)["main", "last"] == changed(far)["larger samples", "mean"] == "different"
    # An equal estimate beside another p-value is not the same cell.
    adjusted = [
        cell for cell in compare_tables(first, far) if cell.benchmark == "chain-4" and cell.found == cell.recorded
    ]
    assert "within interval" in {cell.verdict for cell in adjusted}


def test_a_cell_that_is_gone_is_different(tmp_path: Path) -> None:
    first = results(tmp_path, 3)
    fewer = Results(first.params, {"grpo": first.runs["grpo"]}, first.base)
    gone = [cell for cell in compare_tables(first, fewer) if cell.method == "RLSD"]
    assert gone and {(cell.verdict, cell.found) for cell in gone} == {("different", None)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verified")
    config = {"git": {"commit": "0" * 40}, "versions": {"torch": "2.13.0"}, "hardware": {"threads": "1"}}
    make_finished(root, config)
    return root


def write_digests(run: Path, *weights: str) -> None:
    rows = [f"{step},aa,{each}\n" for step, each in enumerate(weights, start=1)]
    (run / "digests.csv").write_text("step,rollouts,weights\n" + "".join(rows))


def test_the_first_step_and_metric_that_differ_are_named(finished: Path, tmp_path: Path) -> None:
    run, other = finished / "runs/grpo-0", tmp_path / "grpo-0"
    shutil.copytree(run, other)
    write_digests(run, "b1", "b2", "b3", "b4")
    write_digests(other, "b1", "b2", "b3", "b4")
    assert first_differences(run, other) == [] and differing_files(run, other) == []
    write_digests(other, "b1", "b2", "c3", "c4")
    lines = (other / "metrics.csv").read_text().splitlines(keepends=True)
    cells = lines[7].split(",")
    lines[7] = ",".join([cells[0], cells[1], "1.0000000000000002", *cells[3:]])
    (other / "metrics.csv").write_text("".join(lines[:30]))
    assert first_differences(run, other) == [
        "step 3: the first digest that differs is weights: b3 recorded, c3 now",
        f"step 7: the first metric that differs is entropy: {cells[2]} recorded, 1.0000000000000002 now",
    ]
    assert first_differences(run, other, 2) == []
    assert differing_files(run, other) == ["digests.csv", "metrics.csv"]
    # The first steps alone, where the other run was ended after them, or before.
    write_digests(other, "b1", "b2")
    assert first_differences(run, other, 2) == []
    assert first_differences(run, other, 3)[0] == "step 3: only the recorded run has a line in digests.csv"
    # A stage that wrote nothing has not shown that it writes the same.
    (other / "digests.csv").unlink()
    assert first_differences(run, other, 2) == ["digests.csv was not written now"]
    (run / "digests.csv").unlink()


def test_the_first_row_of_a_record_that_differs_is_named(finished: Path) -> None:
    rollouts = finished / "runs/grpo-0/rollouts"
    assert first_row(*[rollouts / "step-000001-rank-0.parquet"] * 2) == "the same rows, written otherwise"
    pair = rollouts / "step-000001-rank-0.parquet", rollouts / "step-000002-rank-0.parquet"
    assert first_row(*pair) == "column step, row 0"
    evaluation = finished / "evaluations/grpo-0/final.parquet"
    assert first_row(pair[0], evaluation) == "other columns"


def test_environments_are_compared_value_by_value() -> None:
    one = {"versions": {"torch": "2.13.0", "numpy": "2"}, "hardware": {"aten_cpu_capability": "AVX2"}, "params": {}}
    other = {"versions": {"torch": "2.12.0", "numpy": "2"}, "hardware": {"aten_cpu_capability": "AVX512"}, "params": 1}
    assert environment_differences(one, other) == [
        "versions.torch: 2.13.0 recorded, 2.12.0 now", "hardware.aten_cpu_capability: AVX2 recorded, AVX512 now",
    ]  # fmt: skip
    assert environment_differences(one, one) == []


def test_the_exit_code_follows_what_was_found(finished: Path, tmp_path: Path) -> None:
    cells = compare_tables(*[read_results(PARAMS, finished)] * 2)
    whole = Report([RunReport("grpo-0")], cells)
    assert not whole.different and f"{len(cells)} bit-identical, 0 within interval, 0 different" in report_text(whole)
    rounded = RunReport("grpo-0", differing=["policy/model.safetensors"], parted=["step 3: …"])
    assert not Report([rounded], cells).different, "other bits, and every cell within its interval"
    assert "not bit-identical" in report_text(Report([rounded], cells))
    assert Report([rounded]).different, "nothing says that these bits do not matter"
    assert Report([rounded], steps=5).different and Report([RunReport("a", altered=["x"])], cells).different
    assert "altered: x" in report_text(Report([RunReport("a", altered=["x"])], cells))


def test_runs_are_found_by_name_and_by_folder(finished: Path, tmp_path: Path) -> None:
    for found in (find_recorded("grpo-0", finished), find_recorded(str(finished / "runs/grpo-0"), tmp_path)):
        assert found.name == "grpo-0" and found.root == finished.resolve()
    assert find_recorded("grpo-0", finished).origin == find_recorded("rlsd-0", finished).origin
    trial = tmp_path / "runs/tune/a/0"
    shutil.copytree(finished / "runs/grpo-0", trial)
    text = (trial / "config.yaml").read_text(encoding="utf-8")
    (trial / "config.yaml").write_text(text.replace("{", '{"run": "a/0", ', 1), encoding="utf-8")
    with pytest.raises(UserError, match="a/0, a run of a study"):
        find_recorded("tune/a/0", tmp_path)
    with pytest.raises(UserError, match=r"there are: grpo-0, rlsd-0"):
        find_recorded("grpo-1", finished)
