"""Finds how several runs differ, by :mod:`sdpg.results.matched`: each run against the first. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from pandas.io.formats.style import Styler

from app import ui
from app.series import record
from app.sources import RunEntry
from sdpg.results.matched import ABSENT, Comparison, Difference, compare_runs

MARK = "background-color: rgba(230, 159, 0, 0.22)"
Kept = Literal["compared", "rest", "without_effect"]


@dataclass
class Leaf:
    """One path, with its values in the first run and in each run that differs from it."""

    kind: str
    path: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Differences:
    """The differences of several runs from the first.

    Attributes:
        compared: the leaves of what is compared: the fields of different methods.
        rest: every other leaf that may change a result.
        without_effect: leaves that are recorded and have no effect.
        caveats: sentences that say what the records cannot show.
        methods: the number of methods.
    """

    compared: list[Leaf]
    rest: list[Leaf]
    without_effect: list[Leaf]
    caveats: list[str]
    methods: int

    @property
    def matched(self) -> bool:
        """Says whether nothing differs but what is compared."""
        return not self.rest

    @property
    def compared_words(self) -> str:
        """Returns what is compared, in words."""
        return "the method" if self.methods > 1 else "what is compared: the runs are of one method with one seed"


def differences(runs: Sequence[RunEntry]) -> Differences:
    """Returns every leaf in which a run differs from the first.

    Raises:
        UserError: if the metrics of a run cannot be read.
    """
    records = [record(run) for run in runs]
    leaves_of: dict[Kept, dict[str, Leaf]] = {"compared": {}, "rest": {}, "without_effect": {}}
    caveats: list[str] = []
    for run, other in zip(runs[1:], records[1:], strict=True):
        comparison = compare_runs(records[0], other)
        caveats += [caveat for caveat in comparison.caveats if caveat not in caveats]
        for kept, leaves in leaves_of.items():
            for difference in _of(comparison, kept):
                path = _path(difference.path, run)
                leaf = leaves.setdefault(path, Leaf(difference.kind, path, {runs[0].id: difference.a}))
                leaf.values[run.id] = difference.b
    leaves = {kept: list(by_path.values()) for kept, by_path in leaves_of.items()}
    return Differences(
        leaves["compared"], leaves["rest"], leaves["without_effect"], caveats, len({run.method for run in runs})
    )


def _of(comparison: Comparison, kept: Kept) -> list[Difference]:
    return {
        "compared": comparison.compared, "rest": comparison.rest, "without_effect": comparison.without_effect
    }[kept]  # fmt: skip


def _path(path: str, run: RunEntry) -> str:
    """Returns the path with the run's own method called ``method``, whether or not it is the first run's."""
    own = f"methods.{run.method}."
    return f"method.{path.removeprefix(own)}" if path.startswith(own) else path


def highlighted(leaves: Sequence[Leaf], runs: Sequence[RunEntry]) -> Styler:
    """Returns the table, with the values marked that differ from the first run's."""
    first, others = ui.printable(runs[0].id), [ui.printable(run.id) for run in runs[1:]]

    def marks(row: pd.Series) -> list[str]:
        values = row.to_dict()
        return [MARK if name in others and value != values[first] else "" for name, value in values.items()]

    return table(leaves, runs).style.apply(marks, axis=1)


def table(leaves: Sequence[Leaf], runs: Sequence[RunEntry]) -> pd.DataFrame:
    """Returns a row per leaf, a column per run; a run that does not differ from the first has the first's value."""
    rows = []
    for leaf in leaves:
        first = leaf.values[runs[0].id]
        cells = {ui.printable(run.id): text(leaf.values.get(run.id, first)) for run in runs}
        rows.append({"": leaf.kind, "Path": ui.printable(leaf.path), **cells})
    return pd.DataFrame(rows)


def text(value: Any) -> str:
    """Returns a value as the table shows it."""
    if value is None:
        return "null"
    if value == ABSENT:
        return "–"
    return ui.printable(str(value))


def budgets(runs: Sequence[RunEntry]) -> pd.DataFrame:
    """Returns the steps, rollouts and response tokens of each run."""
    rows = []
    for run in runs:
        budget = record(run).budget
        numbers = {"Steps": budget.steps, "Rollouts": budget.rollouts, "Response tokens": budget.response_tokens}
        shown = {name: "unknown" if value is None else f"{value:,}" for name, value in numbers.items()}
        rows.append({"Run": ui.printable(run.id), **shown})
    return pd.DataFrame(rows)
