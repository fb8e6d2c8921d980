"""Reads finished runs from disk: curves, metrics and evaluations per method and seed, and those of the base."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sdpg import paths
from sdpg.errors import UserError
from sdpg.params import Params, read_yaml
from sdpg.records.manifest import Manifest, check_folder, check_origin
from sdpg.records.schemas import BASE, VALIDATION, read_evaluations
from sdpg.records.watch import read_history
from sdpg.results.statistics.estimates import Array, ProblemCounts, accuracy_matrix
from sdpg.results.statistics.summaries import COLUMNS, EvaluationSummary, summarise
from sdpg.rewards.extraction import normalise_answer

BASE_TEACHER = "base-teacher"


@dataclass(frozen=True)
class Run:
    """A training run; ``curves`` has one value per evaluation, ``metrics`` one per training step."""

    method: str
    seed: int
    folder: Path
    config: dict[str, Any]
    curves: dict[str, Array]
    metrics: dict[str, Array]
    final: dict[tuple[str, bool], EvaluationSummary]
    """(benchmark, greedy or not) → the final policy's larger samples."""
    read: dict[int, dict[str, EvaluationSummary]] = field(default_factory=dict, repr=False, compare=False)
    """Step → its evaluation, where that was read before."""

    @property
    def last_step(self) -> int:
        """Returns the step of the last in-training evaluation."""
        return int(self.curves["step"][-1])

    def evaluation(self, step: int) -> dict[str, EvaluationSummary]:
        """Returns the in-training evaluation of a step: benchmark → its answers."""
        if step not in self.read:
            path = self.folder / "evaluations" / f"step-{step:06d}.parquet"
            _require(path, f"train@{self.method}-{self.seed}")
            answers = _read_answers(path).items()
            self.read[step] = {benchmark: found for (_, benchmark, greedy), found in answers if not greedy}
        return self.read[step]


@dataclass(frozen=True)
class Results:
    """Everything that the report reads."""

    params: Params
    runs: dict[str, list[Run]]
    """Method → its runs in the order of ``run.seeds``."""
    base: dict[tuple[str, str, bool], EvaluationSummary]
    """(``base`` or ``base-teacher``, benchmark, greedy or not) → its answers."""

    @property
    def benchmarks(self) -> dict[str, str]:
        """Returns benchmark → its title."""
        return {name: benchmark.title for name, benchmark in self.params.data.benchmarks.items()}

    def title(self, method: str) -> str:
        """Returns the name of a method in tables."""
        return self.params.method(method).title

    def last_answers(self, method: str, benchmark: str) -> list[EvaluationSummary]:
        """Returns the last in-training evaluation, one entry per seed."""
        return [_pick(run.evaluation(run.last_step), benchmark, run) for run in self.runs[method]]

    def last(self, method: str, benchmark: str) -> list[ProblemCounts]:
        """Returns counts of the last in-training evaluation, one entry per seed."""
        return [found.counts for found in self.last_answers(method, benchmark)]

    def at_step(self, method: str, step: int) -> Array:
        """Returns the accuracy per problem at an evaluation step, seeds averaged, with all benchmarks in one row."""
        evaluations = [(run, run.evaluation(step)) for run in self.runs[method]]
        parts = [
            accuracy_matrix([_pick(found, benchmark, run).counts for run, found in evaluations]).mean(axis=0)
            for benchmark in self.benchmarks
        ]
        return np.concatenate(parts)

    def metric(self, method: str, name: str) -> Array:
        """Returns a training metric per step, seeds averaged."""
        runs = self.runs[method]
        shortest = min(len(run.metrics[name]) for run in runs)
        return np.mean([run.metrics[name][:shortest] for run in runs], axis=0)


_normalised = lru_cache(maxsize=65_536)(normalise_answer)  # answers repeat, over samples and over runs


def _read_answers(path: Path) -> dict[tuple[str, str, bool], EvaluationSummary]:
    return summarise(read_evaluations(path, COLUMNS), str(path), _normalised)


def _pick(found: dict[str, EvaluationSummary], benchmark: str, run: Run) -> EvaluationSummary:
    if benchmark not in found:
        raise UserError(f"{run.folder}/evaluations have no rows of benchmark {benchmark!r}: the run is older than "
                        f"data.benchmarks; run the stage train@{run.method}-{run.seed}")  # fmt: skip
    return found[benchmark]


def _require(path: Path, stage: str) -> None:
    if not path.exists():
        raise UserError(f"{path} does not exist: run the stage {stage} (dvc repro {stage}), or `sdpg repro` for all")


def _read_csv(path: Path, needed: list[str], stage: str) -> dict[str, Array]:
    """Returns columns of numbers; an empty cell is NaN, and a column of words, of another version, is left out."""
    _require(path, stage)
    columns = read_history(path, needed)
    if not columns["step"]:
        raise UserError(f"{path} has no rows: run the stage {stage} again")
    return {name: np.array(values) for name, values in columns.items()}


def read_run(root: Path, method: str, seed: int, benchmarks: list[str]) -> Run:
    """Reads ``runs/<method>-<seed>`` and ``evaluations/<method>-<seed>`` under ``root``.

    Raises:
        UserError: if the run is missing, unfinished, damaged or altered; it names the folder and the stage to run.
    """
    name = f"{method}-{seed}"
    folder = root / "runs" / name
    _require(folder, f"train@{name}")
    if not (folder / "COMPLETE").exists():
        raise UserError(f"{folder} has no file COMPLETE, so its training did not end: run the stage train@{name} "
                        f"(dvc repro train@{name}), or `sdpg repro` for all")  # fmt: skip
    config = folder / "config.yaml"
    _require(config, f"train@{name}")
    final = root / "evaluations" / name / "final.parquet"
    _require(final, f"evaluate@{name}")
    described = read_yaml(config) or {}
    of = described.get("method", method), described.get("seed", seed)
    if of != (method, seed):
        raise UserError(f"{config} is of {of[0]}-{of[1]}, so that {folder} holds another run than its name says: put "
                        f"each run back into its own folder, or run the stage train@{name} again")  # fmt: skip
    noted = check_folder(folder)
    check_origin(final.parent, check_folder(final.parent), _origin(noted))
    answers = _read_answers(final)
    for benchmark in benchmarks:
        for greedy in (False, True):
            if (method, benchmark, greedy) not in answers:
                raise UserError(f"{final} has no {'greedy' if greedy else 'sampled'} rows of {method} on "
                                f"{benchmark!r}: run the stage evaluate@{name} again")  # fmt: skip
    return Run(
        method, seed, folder,
        config=described,
        curves=_read_csv(folder / "curves.csv", ["step", *benchmarks, VALIDATION], f"train@{name}"),
        metrics=_read_csv(folder / "metrics.csv", ["step", "reward", "entropy", "length"], f"train@{name}"),
        final={(benchmark, greedy): found for (_, benchmark, greedy), found in answers.items()},
    )  # fmt: skip


def _origin(run: Manifest | None) -> dict[str, str]:
    """Returns what the final evaluation of a run was made from, as far as the run's manifest tells."""
    prepared = str(paths.PREPARED)
    return {} if run is None else {"policy": run.digest("policy/*"), prepared: run.made_from.get(prepared, "")}


def read_results(params: Params, root: Path) -> Results:
    """Reads every run of ``run.methods`` × ``run.seeds`` and the base's evaluations under the folder ``root``."""
    benchmarks = list(params.data.benchmarks)
    path = root / "models" / "base-evaluations" / "sampled.parquet"
    _require(path, "base")
    check_folder(path.parent)
    base = _read_answers(path)
    for benchmark in benchmarks:
        for greedy in (False, True):
            if (BASE, benchmark, greedy) not in base:
                raise UserError(f"{path} has no {'greedy' if greedy else 'sampled'} rows of the base on {benchmark!r}: "
                                "run the stage base again")  # fmt: skip
    runs = {
        method: [read_run(root, method, seed, benchmarks) for seed in params.run.seeds] for method in params.run.methods
    }
    return Results(params, runs, base)
