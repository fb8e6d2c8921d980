"""Turns shown figures into files: SVG and PNG in the style of the report's figures, and their data as CSV."""

from collections.abc import Sequence
import io
import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from app import ui
from app.charts import Style
from app.series import Panel

if TYPE_CHECKING:  # matplotlib is loaded only when a figure is wanted
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sdpg.colours import FileFormat

COLUMNS = 3


def data(panels: Sequence[Panel]) -> bytes:
    """Returns the values of all panels, a row per panel, series and step; a value that a panel lacks is empty."""
    columns = ["panel", "series", "step", "value", "low", "high", "raw", "applied"]
    parts = [panel.table.assign(panel=panel.title) for panel in panels if len(panel.table)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    out = io.StringIO()
    table[[name for name in columns if name in table]].to_csv(out, index=False, lineterminator="\n")
    return out.getvalue().encode("utf-8", "replace")


def figure(panels: Sequence[Panel], shown: Sequence[Style], file_format: "FileFormat", note: str = "") -> bytes:
    """Draws the panels on white, three a row, with one legend; the same panels give the same bytes.

    Args:
        panels: the panels of the page.
        shown: the series of the panels.
        file_format: the format of the file.
        note: the text under the panels, which explains lines and bands.
    """
    from sdpg.results.figures import drawn

    rows = max(1, math.ceil(len(panels) / COLUMNS))
    columns = min(COLUMNS, max(1, len(panels)))
    size = (4 * columns, 3.3 * rows + 0.8)
    return drawn(size, file_format, "light", lambda on: _draw(on, panels, shown, note, rows, columns))


def _draw(
    on: "Figure", panels: Sequence[Panel], shown: Sequence[Style], note: str, rows: int, columns: int
) -> None:  # fmt: skip
    from sdpg.colours import INK
    from sdpg.results.figures import legend, plain_text, tidy

    grid = on.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        axes.set_title(plain_text(panel.title))
        axes.set_xlabel("training step")
        tidy(axes, "light")
        for style in shown:
            _line(axes, panel.table, style, panel.points)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    named = max(grid, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    if named.get_legend_handles_labels()[1]:
        legend(on, named)
    if note:
        on.supxlabel(plain_text(note), fontsize=9, color=INK["light"][1])


def _line(axes: "Axes", table: pd.DataFrame, style: Style, points: bool) -> None:
    from sdpg.colours import DASHES, MARKERS, PALETTE
    from sdpg.results.figures import plain_text

    table = table.loc[[name == style.name for name in table["series"].map(ui.printable)]].sort_values("step")
    if table.empty:
        return
    colour = PALETTE["light"][style.place % len(PALETTE["light"])]
    kept = table[table["value"].notna()]
    settings: dict[str, Any] = {"color": colour, "linestyle": DASHES[style.place % len(DASHES)], "linewidth": 1.8}
    axes.plot(kept["step"], kept["value"], label=plain_text(style.name), markersize=4.5,
              marker=MARKERS[style.place % len(MARKERS)] if points else None, **settings)  # fmt: skip
    if "low" in table and table["low"].notna().to_numpy().any():
        axes.fill_between(kept["step"], kept["low"], kept["high"], color=colour, alpha=0.15, linewidth=0)
    if "raw" in table:
        axes.plot(table["step"], table["raw"], color=colour, alpha=0.3, linewidth=0.8)
    if "applied" in table:
        axes.plot(table["step"], table["applied"], color=colour, linestyle="none", marker="o", markersize=3,
                  markerfacecolor="none", alpha=0.9)  # fmt: skip
