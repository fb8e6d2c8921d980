"""Tests that several processes evaluate a finished policy as one does: each row, to the last bit, in the same order."""

import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from sdpg.evaluation.evaluation import Identity
from sdpg.evaluation.final import evaluate_policy, evaluate_run
from sdpg.evaluation.portions import deal_portions
from sdpg.models.launching import on_one_machine
from sdpg.params import Params
from sdpg.params.train import DistributedParams
from sdpg.params.tree import PORTIONS
from sdpg.problems.prepare import prepare, write_prepared
from sdpg.problems.prompts import PreparedRow
from sdpg.records.schemas import read_evaluations
from tests.evaluation.test_base import ROOT, params, project

__all__ = ["project"]
POLICY = Path("inputs/models/tiny")
BATCH = 8
"""Of 20 samples two portions are made, and one of ten greedy answers, so that the second rank has none of them."""


def settings(**changes: Any) -> Params:
    # This verifier has no processes of its own, which take time to start.
    return params(evaluation__batch=BATCH, reward__verifier="exact", **changes)


@pytest.fixture
def prepared(project: Path) -> Path:
    write_prepared(prepare(params()), Path("data"))
    return project


def test_rows_are_in_the_order_of_the_problems(prepared: Path) -> None:
    rows = evaluate_policy(settings(), Identity("run", "m", 0, 3), POLICY, teacher=True)
    # 10 problems: two samples each, one greedy answer, and two as teacher; those of a problem side by side.
    assert len(rows) == 20 + 10 + 20
    keys = [(row["benchmark"], row["problem_id"], row["sample"]) for row in rows]
    assert keys[:20] == keys[30:] == [(name, problem, sample) for name, problem, _ in keys[20:30] for sample in (0, 1)]
    assert [row["benchmark"] for row in rows[20:30]] == ["sums"] * 6 + ["validation"] * 4
    # Samples of a problem differ, and so do portions.
    assert len({row["completion"] for row in rows[:20]}) > 10


def prepared_rows(count: int, teacher: bool = True) -> list[PreparedRow]:
    return [PreparedRow(str(i), "", "", "", "", "", "" if teacher else None, 1, 1) for i in range(count)]


def test_portions_hold_every_problem_once_and_about_a_batch() -> None:
    sets = {"a": prepared_rows(30), "b": prepared_rows(3)}
    for samples, batch, count in ((1, 33, 1), (1, 34, 1), (1, 16, 2), (32, 88, PORTIONS), (4, 33, 4), (1, 1, PORTIONS)):
        dealt = deal_portions(sets, samples, batch)
        assert len(dealt) == count
        for name, rows in sets.items():
            assert sorted(int(row.id) for part in dealt for row in part[name]) == list(range(len(rows)))
        sizes = [sum(map(len, part.values())) for part in dealt]
        assert max(sizes) - min(sizes) <= 1


def test_the_stage_starts_two_processes_whose_rows_are_those_of_one(prepared: Path) -> None:
    spread = {"processes": 2, "strategy": "ddp", "config": None}
    several = settings(train__distributed=spread)
    shutil.copytree(POLICY, "runs/grpo-0/policy")
    shutil.copytree(ROOT / "configs", "configs")
    with Path("params.yaml").open("w") as file:
        YAML().dump(written(several), file)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.evaluate", "grpo", "0"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # One of the two says so.
    assert done.stdout.count("Next: dvc repro") == 1
    rows = read_evaluations(Path("evaluations/grpo-0/final.parquet")).to_pylist()
    folder = evaluate_run(settings(), "grpo", 0)
    assert folder is not None and read_evaluations(folder / "final.parquet").to_pylist() == rows
    assert len(rows) == 30


def written(found: Params) -> dict[str, Any]:
    tree = found.model_dump(mode="json")
    tree["methods"] = {name: one.model_dump(include=one.model_fields_set) for name, one in found.methods.items()}
    return tree


def test_of_several_machines_one_process_evaluates(tmp_path: Path) -> None:
    for machines, expected in ((1, "ddp"), (2, "none")):
        path = tmp_path / f"{machines}.yaml"
        path.write_text(f"distributed_type: MULTI_CPU\nnum_machines: {machines}\n")
        found = on_one_machine(DistributedParams(processes=4, strategy="ddp", config=str(path)))
        assert (found.strategy, found.processes) == (expected, 4 if machines == 1 else 1)
    # What is wrong with it the launcher says.
    missing = DistributedParams(processes=2, strategy="ddp", config=str(tmp_path / "none.yaml"))
    assert on_one_machine(missing) == missing
