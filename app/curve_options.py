"""Lets a reader choose how lines are drawn: which runs share one, the axes, smoothing, pins and colours."""

from collections.abc import Sequence
from dataclasses import dataclass
import re

import streamlit as st

from app import charts, grouping, selection, ui
from app.charts import Style
from app.series import AXES, Series
from app.sources import RunEntry

WINDOWS = ("1", "3", "5", "9", "15", "25", "51")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class Options:
    """How lines are drawn.

    Attributes:
        shown: the lines.
        styles: their looks, in the same order; pinned ones come last, and so lie over the others.
        window: the window of the moving mean of training metrics, in steps.
        axis: a key of :data:`app.series.AXES`.
        log: whether the vertical axes are logarithmic.
    """

    shown: list[Series]
    styles: list[Style]
    window: int
    axis: str = "step"
    log: bool = False

    @property
    def note(self) -> str:
        """Returns the words that explain lines and bands."""
        most = max(len(series.runs) for series in self.shown)
        parts = ["line: mean over its runs, band: their range (smallest to largest)"] if most > 1 else []
        if self.window > 1:
            parts.append(f"training metrics: moving mean of {self.window} steps, raw values faint")
        if self.log:
            parts.append("logarithmic: values at and below 0 are left out")
        return "; ".join(parts)


def choose(runs: Sequence[RunEntry]) -> Options:
    """Shows the choices, which are in the address."""
    bar = st.columns([5, 4, 2, 2, 3], vertical_alignment="bottom")
    with bar[0]:
        by = selection.choose_many(
            "A line for each", grouping.keys(runs), "lines", placeholder="setting, its seeds together",
            help="Runs that agree in all that is chosen share a line: their mean, with a band from the smallest to the "
            "largest. Without a choice, runs that differ in their seed alone share one.",
        )  # fmt: skip
    with bar[1]:
        axis = selection.segments("Over", tuple(AXES), "x")
    with bar[2]:
        window = int(
            selection.choose("Moving mean", WINDOWS, "smooth", first="5", help="Of training metrics, in steps")
        )
    with bar[3]:
        log = selection.toggle("log y", "log", help="Logarithmic vertical axes")
    shown = grouping.group_by(runs, by)
    with bar[4], st.popover("Pins, colours", icon=":material/palette:"):
        styles = pins_and_colours(shown)
    return Options(shown, styles, int(window), axis, log)


def plain_styles(shown: Sequence[Series]) -> list[Style]:
    """Returns the looks of lines as they are without a choice."""
    found = charts.styles([series.name for series in shown], [series.place for series in shown])
    return [style._replace(short=series.short) for style, series in zip(found, shown, strict=True)]


def pins_and_colours(shown: Sequence[Series]) -> list[Style]:
    """Lets the reader pin lines, which makes the others faint, and choose colours."""
    styles = plain_styles(shown)
    names = [series.name for series in shown]
    pinned = selection.choose_many("Pinned", names, "pin", placeholder="none",
                                   help="Pinned lines lie over the others, which become faint.")  # fmt: skip
    chosen = {}
    for text in st.query_params.get_all("colour"):
        name, _, colour = text.rpartition("=")
        if not _COLOUR.fullmatch(colour):
            selection.not_had("a colour", text, "a line's name, = and six hexadecimal digits after # are wanted")
        elif name in names:  # the others are of runs that are not chosen now
            chosen[name] = colour
    for place, (series, style) in enumerate(zip(shown, styles, strict=True)):
        key = f"colour_{place}"
        st.session_state[key] = chosen.get(series.name, style.colour)

        def keep(key: str = key, name: str = series.name) -> None:
            kept = [text for text in st.query_params.get_all("colour") if text.rpartition("=")[0] != name]
            selection.put(colour=[*kept, f"{name}={st.session_state[key]}"])

        st.color_picker(ui.plain(style.name), key=key, on_change=keep)
    looks = [
        style._replace(faint=bool(pinned) and name not in pinned, own=chosen.get(name, ""),
                       colour=chosen.get(name, style.colour))
        for name, style in zip(names, styles, strict=True)
    ]  # fmt: skip
    return sorted(looks, key=lambda style: not style.faint)
