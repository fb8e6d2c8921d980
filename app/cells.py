"""Cells of the tables: what their columns are called, and where a click on one leads."""

from collections.abc import Mapping, Sequence

import pandas as pd

from app import accuracy, ui
from app.sources import RunEntry


def column_names(benchmarks: Mapping[str, str], numbers: Sequence[str]) -> tuple[pd.MultiIndex, dict[str, str]]:
    """Columns in two levels, and which benchmark stands behind each name of the lower one.

    The browser says of a cell only the lower name, so that equal ones get spaces at their end, which nobody sees.
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
    """Parameters of the link to the problems of a method, or of the base, which is beside every run."""
    run = runs[method][0] if method in runs else next(run for its in runs.values() for run in its)
    return {
        "run": run.id, "benchmark": benchmark, "answers": answers, "problem": None,
        "place": run.place.key or accuracy.WORKSPACE, "step": None, "group": None, "sibling": None,
    }  # fmt: skip
