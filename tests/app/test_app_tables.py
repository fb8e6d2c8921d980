"""Tests the Tables page, and how runs become its rows."""

from pathlib import Path
import re
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from app import accuracy, cells, sources
from sdpg.records.schemas import EVALUATION_SCHEMA
from sdpg.results.paper import TABLES
from sdpg.results.statistics.estimates import ProblemCounts

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "app" / "sample"


def project(tmp_path: Path) -> Path:
    """A copy of the sample as a project of its own."""
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    return tmp_path


def second_seed(root: Path, name: str, seed: int = 1) -> Path:
    """The run once more as another seed's."""
    method = name.rsplit("-", 1)[0]
    for folder in ("runs", "evaluations"):
        shutil.copytree(root / folder / name, root / folder / f"{method}-{seed}")
    config = root / "runs" / f"{method}-{seed}" / "config.yaml"
    lines = config.read_text().replace("\nseed: 0\n", f"\nseed: {seed}\n", 1)
    assert f"\nseed: {seed}\n" in lines
    config.write_text(lines)
    return config.parent


def gathered(root: Path, *seeds: int) -> accuracy.Gathered:
    runs = accuracy.by_place(sources.discover(root))["workspace"]
    return accuracy.gather(runs, seeds or sorted({run.seed for run in runs}))


def opened(root: Path, monkeypatch: pytest.MonkeyPatch, **params: str) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app/main.py"), default_timeout=60)
    for key, value in params.items():
        at.query_params[key] = value
    at.switch_page("views/tables.py")
    return at.run()


def rewrite(path: Path, change: object) -> None:
    table = pq.read_table(path)
    pq.write_table(change(table), path)  # type: ignore[operator]


def test_rows_are_the_evaluations_own(tmp_path: Path) -> None:
    root = project(tmp_path)
    found = gathered(root)
    rows = {(row.method, row.benchmark): row for row in accuracy.main_table(found)}
    assert found.results is not None
    for method, runs in found.runs.items():
        last = runs[0].path(f"evaluations/step-{rows[method, 'chain-3'].last_step:06d}.parquet")
        table = pq.read_table(last).to_pandas()
        own = table[table["benchmark"] == "chain-3"]
        assert rows[method, "chain-3"].last == pytest.approx((own["status"] == "correct").mean())
    base = pq.read_table(root / "models/base-evaluations/sampled.parquet").to_pandas()
    own = base[(base["method"] == "base") & (base["benchmark"] == "chain-3") & (base["temperature"] > 0)]
    assert rows["base", "chain-3"].last == pytest.approx((own["status"] == "correct").mean())


def test_seeds_are_averaged_and_incomplete_methods_named(tmp_path: Path) -> None:
    root = project(tmp_path)
    names = sorted(path.name for path in (root / "runs").iterdir())
    second_seed(root, "grpo-0")
    both = gathered(root)
    assert list(both.runs) == ["grpo"] and [run.seed for run in both.runs["grpo"]] == [0, 1]
    assert len(both.left_out) == len(names) - 1
    assert all("no run of seed 1" in line for line in both.left_out)
    assert accuracy.main_table(both)[-1].seeds == 2
    one = gathered(root, 0)
    assert len(one.runs) == len(names) and not one.left_out


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "evaluations" / "step-000060.parquet").write_bytes(b"PAR1"), "is damaged"),
        (lambda run: (run / "curves.csv").write_text("step\n0\n"), "no column"),
        (lambda run: (run / "curves.csv").unlink(), "does not exist"),
        (lambda run: rewrite(run / "evaluations" / "step-000060.parquet",
                             lambda table: table.filter(pc.not_equal(table["problem_id"], "chain-3-0"))),
         "different problems|other problems|rows give"),
    ],
)  # fmt: skip
def test_a_damaged_run_leaves_the_others(tmp_path: Path, damage: object, said: str) -> None:
    root = project(tmp_path)
    step = max((root / "runs/rlsd-0/evaluations").iterdir())
    assert step.name == "step-000060.parquet"
    damage(root / "runs" / "rlsd-0")  # type: ignore[operator]
    found = gathered(root)
    assert "rlsd" not in found.runs and "grpo" in found.runs
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("RLSD")

    assert re.search(said, found.left_out[0])
    assert {row.method for row in accuracy.main_table(found)} >= {"grpo", "sdpg-ufkl", "base"}


def test_a_curve_that_is_not_the_evaluations_own_is_left_out(tmp_path: Path) -> None:
    root = project(tmp_path)
    path = root / "runs/rlsd-0/curves.csv"
    *lines, last = path.read_text().splitlines()
    step, *values = last.split(",")
    path.write_text("\n".join([*lines, ",".join([step, *["0.987" for _ in values]])]) + "\n")
    found = gathered(root)
    assert "rlsd" not in found.runs and "curves.csv ends with 0.9870" in found.left_out[0]
    assert accuracy.main_table(found)


def test_other_problems_than_grpo_are_not_paired(tmp_path: Path) -> None:
    root = project(tmp_path)
    renamed = {}
    for path in (root / "runs/rlsd-0/evaluations").iterdir():
        rewrite(path, lambda table: table.set_column(
            table.schema.get_field_index("problem_id"), table.schema.field("problem_id"),
            pc.binary_join_element_wise("x", table["problem_id"], "-"),
        ))  # fmt: skip
        renamed[path.name] = True
    found = gathered(root)
    assert renamed and found.left_out == ["RLSD: it was evaluated on other problems of 'chain-3' than GRPO"]


def test_without_base_and_final_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path)
    shutil.rmtree(root / "models")
    shutil.rmtree(root / "evaluations" / "rlsd-0")
    found = gathered(root)
    assert {row.method for row in accuracy.main_table(found)} == set(found.runs)
    rows, without = accuracy.final_table(found)
    assert without == ["RLSD"] and {row.method for row in rows} == set(found.runs) - {"rlsd"}
    assert all(row.gain is None for row in rows)
    at = opened(root, monkeypatch, numbers="Larger samples")
    assert not at.exception and any("RLSD" in each.value for each in at.warning)


def test_rows_follow_a_file_that_changes(tmp_path: Path) -> None:
    root = project(tmp_path)
    before = accuracy.final_table(gathered(root))[0]
    path = root / "evaluations/grpo-0/final.parquet"
    wrong = pa.array(["wrong"] * pq.read_metadata(path).num_rows)
    rewrite(path, lambda table: table.set_column(table.schema.get_field_index("status"), "status", wrong))
    after = accuracy.final_table(gathered(root))[0]
    means = [{row.benchmark: row.mean for row in rows if row.method == "grpo"} for rows in (before, after)]
    assert set(means[1].values()) == {0.0} and set(means[0].values()) != {0.0}


def test_counts_of_a_row_are_averaged_over_seeds() -> None:
    first = ProblemCounts(("a", "b"), np.array([4, 0]), 4)
    second = ProblemCounts(("b", "c"), np.array([2, 4]), 8)
    row = accuracy.Solved("m", "M", (first, second), ())
    assert row.by_problem == {"a": 1.0, "b": 0.125, "c": 0.5}
    table = accuracy.matrix([row, accuracy.Solved("n", "N", (first,), ())])
    assert list(table.index) == ["a", "c", "b"] and table.loc["b", "n"] == 0.0 and np.isnan(table.loc["c", "n"])


def test_each_lower_name_stands_for_one_benchmark() -> None:
    columns, behind = cells.column_names({"x": "X", "y": "Y"}, ("Last", "Best*"))
    assert len(set(columns.get_level_values(1))) == 5
    assert [behind[name] for name in columns.get_level_values(1)[1:]] == ["x", "x", "y", "y"]
    assert [name.strip() for name in columns.get_level_values(1)[1:]] == ["Last", "Best*"] * 2


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path)
    at = opened(root, monkeypatch)
    assert not at.exception and not at.error and not at.warning
    ours, paper = at.dataframe[0].value, at.dataframe[1].value
    assert "GRPO" in ours.iloc[:, 0].tolist() and "OPCD" not in ours.iloc[:, 0].tolist()
    text = " ".join(each.value for each in at.caption)
    assert "selected on the test set" in text and "not a public benchmark" in text
    assert TABLES[0].label.split(",")[0] in text.replace("\\", "")
    # What the paper reports stands in a table of its own, and no number of ours in it.
    assert paper.columns.get_level_values(0).tolist()[1] == "AIME24"
    assert not any("AIME" in name for name in ours.columns.get_level_values(0))


def test_differences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(project(tmp_path), monkeypatch, numbers="Difference to GRPO")
    assert not at.exception and not at.error
    shown = at.dataframe[0].value
    assert set(shown["Method − GRPO"]) == {"RLSD", "SDPG-UFKL"}
    assert "p, Holm" in shown.columns


def test_a_cell_leads_to_its_problems(tmp_path: Path) -> None:
    found = gathered(project(tmp_path))
    target = cells.problems_of("rlsd", "chain-4", "last evaluation", found.runs)
    assert target["run"] == "rlsd-0" and target["benchmark"] == "chain-4" and target["place"] == "workspace"
    assert cells.problems_of("base", "chain-4", "last evaluation", found.runs)["run"] in {"grpo-0", "rlsd-0"}


def test_unfinished_runs_are_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = project(tmp_path)
    for run in (root / "runs").iterdir():
        (run / "COMPLETE").unlink()
    at = opened(root, monkeypatch)
    assert not at.exception
    assert any("No run is finished yet" in each.value for each in at.info)
    assert len(at.dataframe) == len(TABLES)


def test_greedy_answers_beside_the_sampled_ones_do_not_count_as_last(tmp_path: Path) -> None:
    root = project(tmp_path)
    before = {(row.method, row.benchmark): row.last for row in accuracy.main_table(gathered(root))}
    at = EVALUATION_SCHEMA.get_field_index("temperature")

    def with_greedy(table: pa.Table) -> pa.Table:
        greedy = table.filter(pc.equal(table["sample"], 0))
        greedy = greedy.set_column(at, table.schema.field(at), pa.array([0.0] * len(greedy)))
        status = table.schema.get_field_index("status")
        greedy = greedy.set_column(status, table.schema.field(status), pa.array(["correct"] * len(greedy)))
        return pa.concat_tables([table, greedy])

    rewrite(root / "runs/rlsd-0/evaluations/step-000060.parquet", with_greedy)
    found = gathered(root)
    assert not found.left_out
    assert {(row.method, row.benchmark): row.last for row in accuracy.main_table(found)} == before
