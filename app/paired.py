"""Compares two runs on the same problems: differences with intervals, by benchmark and problem. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from app import evaluations, store
from app.run_rows import confidence
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.results.statistics.comparisons import holm
from sdpg.results.statistics.estimates import Difference, ProblemCounts, paired_difference

LAST, FINAL = "last", "final"
EVALUATIONS = {LAST: "last in training", FINAL: "final policy, larger samples"}


@dataclass(frozen=True)
class Paired:
    """The accuracy of the second run minus the first's on one benchmark.

    Attributes:
        benchmark, title: the benchmark's name and title.
        first, second: the answers of each run, by problem.
        difference: the difference of the accuracies, paired by problem.
        adjusted: its p-value, adjusted by Holm's method over the benchmarks that are compared.
    """

    benchmark: str
    title: str
    first: ProblemCounts
    second: ProblemCounts
    difference: Difference
    adjusted: float = 1.0

    @property
    def by_problem(self) -> pd.DataFrame:
        """Returns a row per problem: ``problem``, ``first``, ``second``, ``difference``; the largest difference
        first."""
        table = pd.DataFrame({
            "problem": self.first.problems, "first": self.first.accuracy, "second": self.second.accuracy,
            "difference": self.second.accuracy - self.first.accuracy,
        })  # fmt: skip
        return table.sort_values(["difference", "problem"], ascending=[False, True], ignore_index=True)


def counts(run: RunEntry, which: str) -> dict[str, ProblemCounts]:
    """Returns benchmark → answers by problem.

    Raises:
        UserError: if the evaluation was not made, or is damaged.
    """
    if which == FINAL:
        answers = {
            benchmark: summary.counts for (benchmark, greedy), summary in evaluations.final(run).items() if not greedy
        }
        if not answers:
            store.final(run)  # raises and names the stage that is missing
        return answers
    steps = store.evaluation_steps(run)
    if not steps:
        raise UserError(f"{run.label_of('evaluations')} holds no evaluation yet: wait for the first, or run its stage")
    return {benchmark: summary.counts for benchmark, summary in evaluations.in_training(run, max(steps)).items()}


def compare(first: RunEntry, second: RunEntry, which: str) -> tuple[list[Paired], list[str]]:
    """Returns the comparison on every benchmark that both answered, and sentences on why others are left out.

    Raises:
        UserError: if an evaluation of either is missing or damaged.
    """
    ours, theirs = counts(second, which), counts(first, which)
    report = {"resamples": 10_000, "seed": 0} | (first.params.get("report") or {})
    pairs, left_out = [], []
    for name, title in {**store.benchmarks(second), **store.benchmarks(first)}.items():
        if name not in ours or name not in theirs:
            left_out.append(f"{title}: {(second if name not in ours else first).id} was not evaluated on it")
        elif ours[name].problems != theirs[name].problems:
            left_out.append(f"{title}: the two were evaluated on different problems, which cannot be paired")
        else:
            difference = _difference(
                _Accuracy(ours[name]), _Accuracy(theirs[name]), confidence(first), int(report["resamples"]),
                int(report["seed"]),
            )  # fmt: skip
            pairs.append(Paired(name, title, theirs[name], ours[name], difference))
    adjusted = holm([pair.difference.p_value for pair in pairs]).tolist() if pairs else []
    return [
        Paired(pair.benchmark, pair.title, pair.first, pair.second, pair.difference, p_value)
        for pair, p_value in zip(pairs, adjusted, strict=True)
    ], left_out


class _Accuracy:
    """Accuracies by problem that are compared by their values, as the cache of permutation tests needs it."""

    def __init__(self, found: ProblemCounts) -> None:
        self.values = found.accuracy

    def __hash__(self) -> int:
        return hash(self.values.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Accuracy) and np.array_equal(self.values, other.values)


@lru_cache(maxsize=256)
def _difference(a: _Accuracy, b: _Accuracy, level: float, resamples: int, seed: int) -> Difference:
    return paired_difference(a.values, b.values, level, resamples, seed)


def rows(found: Sequence[Paired], first: str, second: str) -> list[dict[str, Any]]:
    """Returns rows of numbers for a table and a CSV; ``first`` and ``second`` name the columns."""
    return [
        {
            "benchmark": pair.title, first: float(pair.first.accuracy.mean()),
            second: float(pair.second.accuracy.mean()), "difference": pair.difference.mean,
            "low": pair.difference.low, "high": pair.difference.high, "p": pair.difference.p_value,
            "p, Holm": pair.adjusted, "problems": len(pair.first.problems),
            "samples": f"{pair.first.samples}" if pair.first.samples == pair.second.samples
            else f"{pair.first.samples} and {pair.second.samples}",
        }
        for pair in found
    ]  # fmt: skip
