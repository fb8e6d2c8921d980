"""Turns shown figures into files: SVG, PDF and PNG in the style of the report's figures, and their data as CSV."""

from collections.abc import Sequence
import io
import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from app import end_labels, ui
from app.charts import FAINT, Style
from app.series import Panel

if TYPE_CHECKING:  # matplotlib is loaded only when a figure is wanted
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sdpg.colours import FileFormat

COLUMNS = 3
HEIGHT = 225.0  # of a panel's axes, in units of which a name at a line's end takes 12


def data(panels: Sequence[Panel]) -> bytes:
    """Returns the values of all panels, a row per panel, series and step; a value that a panel lacks is empty."""
    columns = ["panel", "series", "step", "x", "value", "low", "high", "raw", "applied"]
    parts = [panel.table.assign(panel=panel.title) for panel in panels if len(panel.table)]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    out = io.StringIO()
    table[[name for name in columns if name in table]].to_csv(out, index=False, lineterminator="\n")
    return out.getvalue().encode("utf-8", "replace")


def figure(
    panels: Sequence[Panel], shown: Sequence[Style], file_format: "FileFormat", note: str = "",
    across: str = "training step", log: bool = False,
) -> bytes:  # fmt: skip
    """Draws the panels on white, three a row, with one legend; the same panels give the same bytes.

    Args:
        panels: the panels of the page.
        shown: the series of the panels.
        file_format: the format of the file.
        note: the text under the panels, which explains lines and bands.
        across: the title of the horizontal axes.
        log: whether the vertical axes are logarithmic.
    """
    from sdpg.results.figures import drawn

    rows = max(1, math.ceil(len(panels) / COLUMNS))
    columns = min(COLUMNS, max(1, len(panels)))
    size = (4 * columns, 3.3 * rows + 0.8)

    def draw(on: "Figure") -> None:
        grid = on.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_xlabel(across)
            axes.set_yscale("log" if log else "linear")
            _draw(axes, panel, shown, log)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        _explain(on, grid, note)

    return drawn(size, file_format, "light", draw)


def _draw(axes: "Axes", panel: Panel, shown: Sequence[Style], log: bool) -> None:
    from sdpg.results.figures import plain_text, tidy

    axes.set_title(plain_text(panel.title))
    tidy(axes, "light")
    table = panel.table.assign(series=panel.table["series"].map(ui.printable))
    for style in shown:
        _line(axes, table, style, panel.points)
    limits = end_labels.domain(table, log)
    axes.set_ylim(*limits)
    if len(shown) > 1:
        names = end_labels.placed(table, [style.name for style in shown], limits, HEIGHT, log)
        looks = {style.name: style for style in shown}
        for name, value in zip(names["series"], names["value"], strict=True):
            text = plain_text(end_labels.cut(ui.printable(looks[name].short or name)))
            axes.annotate(text, (1.01, value), xycoords=("axes fraction", "data"), fontsize=7.5, va="center",
                          color=_colour(looks[name]), annotation_clip=False)  # fmt: skip


def _explain(on: "Figure", grid: Sequence["Axes"], note: str) -> None:
    from sdpg.colours import INK
    from sdpg.results.figures import legend, plain_text

    named = max(grid, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    if named.get_legend_handles_labels()[1]:
        legend(on, named)
    if note:
        on.supxlabel(plain_text(note), fontsize=9, color=INK["light"][1])


def _colour(style: Style) -> str:
    from sdpg.colours import PALETTE

    return style.own or PALETTE["light"][style.place % len(PALETTE["light"])]


def _line(axes: "Axes", table: pd.DataFrame, style: Style, points: bool) -> None:
    from sdpg.colours import DASHES, MARKERS
    from sdpg.results.figures import plain_text

    table = table.loc[table["series"] == style.name].sort_values("step")
    if table.empty:
        return
    colour = _colour(style)
    kept = table[table["value"].notna()]
    settings: dict[str, Any] = {"color": colour, "linestyle": DASHES[style.place % len(DASHES)], "linewidth": 1.8,
                                "alpha": FAINT if style.faint else 1.0}  # fmt: skip
    axes.plot(kept["x"], kept["value"], label=plain_text(style.name), markersize=4.5,
              marker=MARKERS[style.place % len(MARKERS)] if points else None, **settings)  # fmt: skip
    if "low" in table and table["low"].notna().to_numpy().any():
        axes.fill_between(kept["x"], kept["low"], kept["high"], color=colour, alpha=0.15, linewidth=0)
    if "raw" in table:
        axes.plot(table["x"], table["raw"], color=colour, alpha=0.3, linewidth=0.8)
    if "applied" in table:
        axes.plot(table["x"], table["applied"], color=colour, linestyle="none", marker="o", markersize=3,
                  markerfacecolor="none", alpha=0.9)  # fmt: skip
