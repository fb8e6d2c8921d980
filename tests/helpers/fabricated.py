"""Makes small finished runs by hand, for tests of what reads them."""

from collections.abc import Callable
import csv
import json
from pathlib import Path
from typing import Any

from sdpg.files import write_json
from sdpg.params import Params, parse_params, read_yaml
from sdpg.records.schemas import write_evaluations

PROJECT = Path(__file__).parents[2]
BENCHMARKS = ("chain-3", "chain-4", "carry-3")
SETS = (*BENCHMARKS, "validation")
STEPS = (10, 20, 30, 40)

Correct = Callable[[str, int, int], int]
"""(benchmark, step, problem) → the number of samples that are right."""


def params_with(methods: list[str], seeds: list[int], **changes: Any) -> Params:
    """params.yaml with fewer steps and resamples; ``changes`` are merged section by section."""
    tree = read_yaml(PROJECT / "params.yaml")
    tree["run"] = {"methods": methods, "seeds": seeds}
    tree["report"]["resamples"] = 500
    for section, values in changes.items():
        tree[section].update(values)
    return parse_params(tree)


def _rows(
    method: str, seed: int, step: int, benchmark: str, right: list[int], samples: int, temperature: float
) -> list[dict[str, Any]]:
    return [
        {
            "run": f"{method}-{seed}", "method": method, "seed": seed, "step": step, "benchmark": benchmark,
            "problem_id": f"{benchmark}/{problem:03d}", "sample": sample, "prompt": "p", "completion": "c",
            "status": "correct" if sample < count else "wrong", "reward": 1.0 if sample < count else -1.0,
            "extracted_answer": "1", "gold": "1", "length": 1, "truncated": False, "temperature": temperature,
            "verifier": "math_verify", "verifier_version": "0",
        }
        for problem, count in enumerate(right)
        for sample in range(samples)
    ]  # fmt: skip


def write_base(root: Path, problems: int = 10, samples: int = 4, right: int = 1, greedy_right: int = 0) -> None:
    """The base: ``right`` of the samples of every problem, and the first ``greedy_right`` problems when greedy."""
    rows = []
    for benchmark in SETS:
        greedy = [int(problem < greedy_right) for problem in range(problems)]
        rows += _rows("base", 0, 0, benchmark, [right] * problems, samples, 1.0)
        rows += _rows("base", 0, 0, benchmark, greedy, 1, 0.0)
        rows += _rows("base-teacher", 0, 0, benchmark, [samples] * problems, samples, 1.0)
    write_evaluations(root / "models" / "base-evaluations" / "sampled.parquet", rows)
    counts = ("exact_in_source", "exact", "exact_validation", "ngram_problems", "ngram_train")
    overlap = {name: {count: place + 10 for place, count in enumerate(counts)} for name in BENCHMARKS}
    write_json(root / "data" / "prepare.json", {"overlap": overlap})


def write_run(
    root: Path, method: str, seed: int, correct: Correct, greedy_right: int = 0, problems: int = 10, samples: int = 4,
    metrics: dict[str, Callable[[int], float]] | None = None, config: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """A finished run with its evaluation; step 0 of the curves is ``correct(benchmark, 0, problem)``."""
    folder = root / "runs" / f"{method}-{seed}"
    folder.mkdir(parents=True)
    curves = []
    for step in (0, *STEPS):
        right = {name: [correct(name, step, problem) for problem in range(problems)] for name in SETS}
        curves.append({"step": step, **{name: sum(right[name]) / (problems * samples) for name in SETS}})
        if step:
            rows = [row for name in SETS for row in _rows(method, seed, step, name, right[name], samples, 1.0)]
            write_evaluations(folder / "evaluations" / f"step-{step:06d}.parquet", rows)
    _write_csv(folder / "curves.csv", curves)
    functions = {"reward": lambda step: step / 100, "entropy": lambda _: 1.0, "length": lambda _: 30.0,
                 **(metrics or {})}  # fmt: skip
    _write_csv(folder / "metrics.csv", [
        {"step": step, **{name: function(step) for name, function in functions.items()}, "gate_rate": ""}
        for step in range(1, STEPS[-1] + 1)
    ])  # fmt: skip
    recorded = {"method": method, "seed": seed, "params": {}, "git": {"commit": "abcdef0123456789", "dirty": False},
                "versions": {"torch": "2.13"}, "hardware": {"cpu": "two cores"}, **(config or {})}  # fmt: skip
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(recorded), encoding="utf-8")
    (folder / "COMPLETE").write_text("")
    final = []
    for name in SETS:
        final += _rows(method, seed, STEPS[-1], name,
                       [correct(name, STEPS[-1], problem) for problem in range(problems)], samples, 1.0)  # fmt: skip
        final += _rows(method, seed, STEPS[-1], name, [int(problem < greedy_right) for problem in range(problems)], 1,
                       0.0)  # fmt: skip
    write_evaluations(root / "evaluations" / f"{method}-{seed}" / "final.parquet", final)
    return folder


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
