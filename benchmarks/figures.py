"""The goal and the result of each benchmark: one JSON line per figure, tables for people."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
import operator
from typing import Any

from rich.console import Console
from rich.table import Table

COMPARISONS = {"<=": operator.le, ">=": operator.ge}

console = Console(stderr=True)
"""The console for people. The JSON lines go to stdout, so that they can be piped on."""


@dataclass(frozen=True)
class Target:
    """A measurement: what is measured against what, and the ratio to reach.

    Attributes:
        name: the name of the figure.
        against: the denominator of the ratio.
        goal: a comparison and a number, such as ``<= 0.6``; None where there is nothing to reach.
    """

    name: str
    against: str
    goal: str | None = None

    def measured(self, ratio: float, **extra: Any) -> "Figure":
        """Returns the figure with its ratio and further values."""
        return Figure(self, ratio, extra)

    def skipped(self, reason: str) -> "Figure":
        """Returns the figure of a benchmark that could not be run here."""
        return Figure(self, None, {"skipped": reason})


@dataclass(frozen=True)
class Figure:
    """The result of one benchmark.

    Attributes:
        target: the measurement and its goal.
        ratio: ours / theirs; None where it was not measured.
        extra: the further keys of the JSON line.
    """

    target: Target
    ratio: float | None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Says whether the goal is reached; None without a goal or a ratio."""
        if self.ratio is None or self.target.goal is None:
            return None
        comparison, bound = self.target.goal.split()
        return COMPARISONS[comparison](self.ratio, float(bound))

    def line(self) -> dict[str, Any]:
        """Returns the JSON object: name, ratio, against, goal, met, then the extra keys."""
        target = self.target
        promised = {"name": target.name, "ratio": self.ratio, "against": target.against, "goal": target.goal}
        return promised | {"met": self.met} | self.extra


class SkippedError(Exception):
    """Raised by a benchmark that cannot be run here; the message is the reason."""


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], note: str = "") -> None:
    """Prints a table for people, with a line above and a note below; columns after the first are right-aligned."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(str, row))
    # These lines are printed outside the table: rich would wrap them to its width.
    console.print(f"\n{title}", style="bold", markup=False, highlight=False)
    console.print(table)
    if note:
        console.print(note, markup=False, highlight=False)


def summary(figures: Sequence[Figure]) -> None:
    """Prints all figures side by side."""
    rows = []
    for figure in figures:
        ratio = "–" if figure.ratio is None else f"{figure.ratio:.3f}"
        verdict = {True: "yes", False: "NO", None: "–"}[figure.met]
        rows.append((figure.target.name, ratio, figure.target.goal or "–", verdict, figure.target.against))
    show("All figures", ["figure", "ratio", "goal", "met", "against"], rows)
