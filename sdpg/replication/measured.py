"""Reads a study's runs, and estimates differences over bases, seeds and problems from them.

Axes: B bases, P problems.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdpg.errors import UserError
from sdpg.params import PARAMS_FILE, Params, load_params
from sdpg.records.schemas import BASE
from sdpg.replication.design import project_folder
from sdpg.results.claims import window
from sdpg.results.runs import Results, read_results
from sdpg.results.statistics.estimates import Array, Interval, ProblemCounts, accuracy_matrix
from sdpg.results.statistics.replication import Replicated, over_bases, replicated_difference

LAST, GREEDY = "last", "greedy"
WAYS = {LAST: "Last", GREEDY: "greedy"}
"""How a policy answers: the last evaluation in training at its temperature, and the final policy greedily."""


@dataclass(frozen=True)
class SeveralBases:
    """Runs of the same methods from several bases; their problems are the same, their seeds are their own."""

    every: Sequence[Results]
    """The results of each base."""
    paired: str = "paired difference, with an interval over bases, their seeds and problems"
    over_steps: str = "mean over its steps, with a t interval over bases"

    @property
    def confidence(self) -> float:
        """Returns the confidence of the report, which all bases share."""
        return self.every[0].params.report.confidence

    def accuracies(self, method: str, benchmark: str, way: str) -> Array:
        """Returns a method's accuracies with its seeds averaged, (B, P); the method ``base`` is the bases' own."""
        return self._table(lambda results: _counts(results, method, benchmark, way), f"{method} on {benchmark}")

    def difference(self, a: str, b: str, benchmark: str, way: str) -> Replicated:
        """Returns the accuracy of a minus that of b, way by way."""
        ours, theirs = (self.accuracies(method, benchmark, way) for method in (a, b))
        return replicated_difference(ours - theirs, self.confidence)

    def last_difference(self, a: str, b: str, benchmark: str) -> Interval:
        """Returns Last of a minus Last of b."""
        return Interval(*self.difference(a, b, benchmark, LAST)[:3])

    def pooled_difference(self, a: str, at: int, b: str, other: int) -> Interval:
        """Returns the accuracy of a at a step minus that of b at another, over all benchmarks."""
        table = np.stack([results.at_step(a, at) - results.at_step(b, other) for results in self.every])
        return Interval(*replicated_difference(table, self.confidence)[:3])

    def series_difference(self, name: str, a: str, b: str, start: float) -> Interval:
        """Returns a training metric of a minus that of b, from a fraction of the run on: means of each base."""
        differences = [
            float(np.mean(window(results, a, name, start)) - np.mean(window(results, b, name, start)))
            for results in self.every
        ]
        return over_bases(differences, self.confidence)

    def _table(self, counts: Callable[[Results], Sequence[ProblemCounts]], what: str) -> Array:
        found = [counts(results) for results in self.every]
        if len({each.problems for base in found for each in base}) != 1:
            raise UserError(f"{what}: the bases were evaluated on different problems: run `sdpg study` again")
        return np.stack([accuracy_matrix(base).mean(axis=0) for base in found])


def _counts(results: Results, method: str, benchmark: str, way: str) -> list[ProblemCounts]:
    if method == BASE:
        return [results.base[BASE, benchmark, way == GREEDY].counts]
    if way == GREEDY:
        return [run.final[benchmark, True].counts for run in results.runs[method]]
    return results.last(method, benchmark)


def read_study(params: Params, root: Path = Path()) -> dict[str, SeveralBases]:
    """Reads the finished runs of a study below ``root``: the name of the runs → what was measured on their bases.

    Raises:
        UserError: if a run is missing or damaged.
    """
    found = {}
    for name, runs in params.study.runs.items():
        folders = [root / project_folder(name, base) for base in range(runs.bases)]
        found[name] = SeveralBases([read_results(load_params(folder / PARAMS_FILE), folder) for folder in folders])
    return found
