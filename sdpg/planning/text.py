"""Writes tables and numbers of a plan as text."""

from collections.abc import Sequence
import io
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sdpg.planning.memory import Layout
from sdpg.planning.plan import exists
from sdpg.planning.work import Range

GIB = 2**30
WIDTH = 140
MISSING = "*"
"""The mark of a layout that has not been tried on a GPU; nothing else of a plan has been tried either."""


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> str:
    """Returns a table with a title and a note below; rows that begin with = end a section."""
    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index else "left")
    for row in rows:
        made.add_row(*map(str, row), end_section=row[0].startswith("="))
    stream = io.StringIO()
    Console(file=stream, width=WIDTH, color_system=None, markup=False, highlight=False).print(made)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + (f"\n{note}" if note else "")


def gib(value: float) -> str:
    """Returns bytes in GiB, with more digits for small models."""
    return f"{value / GIB:.1f}" if value >= GIB / 20 or value == 0 else f"{value / GIB:.4f}"


def marked(layout: Layout) -> str:
    """Returns the label of a layout, marked where the layout has not been tried on a GPU."""
    return layout.label + ("" if exists(layout) else MISSING)


def span(values: Range, digits: int | None = None) -> str:
    """Returns the smaller and the larger value, or one number where both read the same."""

    def one(value: float) -> str:
        places = digits if digits is not None else 0 if value >= 100 else 1 if value >= 1 else 3
        return f"{value:,.{places}f}"

    low, high = sorted((values.low, values.high))
    return one(low) if one(low) == one(high) else f"{one(low)}–{one(high)}"
