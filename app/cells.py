"""Cells of the tables: the names of their columns, and the page that a click on a cell opens."""

from collections.abc import Mapping, Sequence

import pandas as pd

from app import accuracy, ui
from app.sources import RunEntry


def column_names(benchmarks: Mapping[str, str], numbers: Sequence[str]) -> tuple[pd.MultiIndex, dict[str, str]]:
    """Returns columns in two levels, and the benchmark behind each name of the lower level.

    The browser reports only the lower name of a clicked cell, so equal names get spaces at their end, which are
    invisible.
    """
    pairs = [("", "Method")]
    behind: dict[str, str] = {}
    for place, (benchmark, title) in enumerate(benchmarks.items()):
        for number in numbers:
            name = number + " " * place
            pairs.append((ui.printable(title), name))
            behind[name] = benchmark
    return pd.MultiIndex.from_tuples(pairs), behind


def problems_of(
    method: str, benchmark: str, answers: str, runs: Mapping[str, Sequence[RunEntry]]
) -> dict[str, str | None]:
    """Returns the parameters of the link to the problems of a method, or of the base, which lies beside every run."""
    run = runs[method][0] if method in runs else next(run for group in runs.values() for run in group)
    return {
        "run": run.id, "benchmark": benchmark, "answers": answers, "problem": None,
        "place": run.place.key or accuracy.WORKSPACE, "step": None, "group": None, "sibling": None,
    }  # fmt: skip
