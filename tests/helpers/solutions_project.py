"""Makes a project folder whose training problems lack solutions, and runs the command in it."""

from copy import deepcopy
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from transformers import Qwen3Config

from sdpg.params import read_yaml
from sdpg.problems.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{n}", "problem": f"What is {n}+{n + 1}?", "answer": str(2 * n + 1)} for n in range(count)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def params_tree(**changes: object) -> dict[str, Any]:
    """The project's params.yaml with local problems and a local model; keys of ``changes`` have dots."""
    tree = deepcopy(read_yaml(ROOT / "params.yaml"))
    values = {
        "data.train": {"kind": "file", "path": "raw.jsonl", "columns": {"id": "id"}},
        "data.validation_size": 2,
        "data.benchmarks": {
            "digits": {"title": "Digits", "source": {"kind": "synthetic", "families": {"digit-2": 1}, "count": 5}}
        },
        "base.model": {"kind": "folder", "path": "m"},
        "prompts.max_student_tokens": 300,
        "prompts.max_teacher_tokens": 600,
        "rollout.max_tokens": 100,
        "evaluation.max_tokens": 100,
        "reward.timeout": 20.0,
    }
    for key, value in (values | changes).items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return tree


def make_project(folder: Path, rows: list[dict[str, Any]], **changes: object) -> Path:
    model = folder / "inputs/models/m"
    train_tokenizer(["Solve step by step: What is "] * 9, 300).save_pretrained(model)
    Qwen3Config(max_position_embeddings=1000).save_pretrained(model)
    (folder / "params.yaml").write_text(json.dumps(params_tree(**changes)), encoding="utf-8")
    write_lines(folder / "inputs/problems/raw.jsonl", rows)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipelines.solutions", *arguments]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | variables


def solve(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(**variables), capture_output=True, text=True, timeout=120
    )
