"""Charts that several pages draw: lines over steps with bands, intervals per row, a legend. All names are plain text.

A table of lines has the columns ``step``, ``value`` and ``series``; ``x`` is where a step stands, if not at its number;
``low`` and ``high`` draw a band, ``raw`` a faint line behind the smoothed one, and ``applied`` open points.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from app import end_labels, ui

Chart = alt.LayerChart | alt.FacetChart


class Style(NamedTuple):
    """The look of a series, the same in every chart of a page.

    Attributes:
        name: the series.
        colour, dash, place: the colour, the dashes, and the position in the palette that gave both.
        short: the name at the end of its line; without one, ``name``.
        own: the colour that a reader chose; empty where it is the palette's.
        faint: whether other lines are pinned, and this one stands behind them.
    """

    name: str
    colour: str
    dash: list[int]
    place: int
    short: str = ""
    own: str = ""
    faint: bool = False


def styles(names: Sequence[str], places: Sequence[int] | None = None) -> list[Style]:
    """Returns colours and dashes by position in the list, or by ``places``, one for each name."""
    chosen = range(len(names)) if places is None else places
    return [
        Style(ui.printable(name), ui.colour(place), ui.dash(place), place)
        for name, place in zip(names, chosen, strict=True)
    ]


def legend(shown: Sequence[Style]) -> str:
    """Returns the legend of the lines as HTML for ``st.html``; names are escaped."""
    entries = [
        '<span style="display:inline-flex;align-items:center;gap:0.45rem;margin-right:1.2rem;white-space:nowrap">'
        f'<span style="width:34px;border-top:3px {_border(style)} {style.colour}"></span>{escape(style.name)}</span>'
        for style in shown
    ]
    return f'<div style="display:flex;flex-wrap:wrap;row-gap:0.25rem;font-size:0.9rem">{"".join(entries)}</div>'


def _border(style: Style) -> str:
    """Returns the CSS border that looks most like the line; ``st.html`` accepts no drawings."""
    if style.dash == [1, 0]:
        return "solid"
    return "dashed" if style.dash[0] > 3 else "dotted"


SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
FAINT = 0.25  # the opacity of lines that are not pinned, where others are
AXIS, TITLE = 48, 24  # pixels of a chart's horizontal axis and title, which its height includes
AROUND = 100  # pixels of a chart's title and axis, which its height includes
WIDEST, THINNEST = 3.4, 1.5  # pixels of the first and the last of several lines


def _widths(count: int) -> list[float]:
    if count < 2:
        return [2.0] * count
    return [WIDEST + (THINNEST - WIDEST) * place / (count - 1) for place in range(count)]


def _encoded(shown: Sequence[Style]) -> dict[str, Any]:
    names = [style.name for style in shown]
    return {
        "color": alt.Color("series:N", scale=alt.Scale(domain=names, range=[s.colour for s in shown]), legend=None),
        # Lines that coincide stay visible: each is drawn over the ones before it, and is thinner.
        "strokeWidth": alt.StrokeWidth("series:N", scale=alt.Scale(domain=names, range=_widths(len(names))),
                                       legend=None),
        "opacity": alt.Opacity("series:N", legend=None,
                               scale=alt.Scale(type="ordinal", domain=names,
                                               range=[FAINT if s.faint else 1 for s in shown])),
        "strokeDash": alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=[s.dash for s in shown]),
                                     legend=None),
    }  # fmt: skip


def lines(
    table: pd.DataFrame,
    shown: Sequence[Style],
    *,
    y: str = "",
    title: str = "",
    x: str = "training step",
    points: bool = False,
    form: str = ".3f",
    zero: bool = False,
    height: int = 230,
    steps: bool = False,
    marks: Sequence[int] = (),
    log: bool = False,
) -> Chart:
    """Draws lines over training steps, with the values of all series at the step under the pointer.

    Several lines are named at their ends. Dragging moves the chart, Shift with the wheel zooms, and a double click
    shows all of it again.

    Args:
        table: a table of lines, as in the module's docstring; rows whose value is NaN break a line.
        shown: the series, in order of their names in ``table``.
        y: the axis title with its unit; empty where the chart's title says it.
        title: the title above the chart.
        x: the axis title.
        points: whether the values are marked, for short lines.
        form: the format of values in the tooltip, in d3's notation.
        zero: whether the axis begins at 0.
        height: the height in pixels.
        steps: whether values are drawn as constant until the next.
        marks: the steps at which a thin vertical line stands.
        log: whether the vertical axis is logarithmic; values at and below 0 have no place on it.
    """
    table = table.assign(series=ui.texts(table["series"]), x=table["x"] if "x" in table else table["step"])
    places = {style.name: place for place, style in enumerate(shown)}
    table = table.sort_values("series", key=lambda names: names.map(places), kind="stable")  # the last lies on top
    if log:
        drawn = [name for name in ("value", "low", "high", "raw", "applied") if name in table]
        table[drawn] = table[drawn].where(table[drawn] > 0)
    limits = end_labels.domain(table, log, zero)
    scale = alt.Scale(domain=list(limits), nice=False, type="log" if log else "linear")
    whole = bool((table["x"] == table["step"]).all())
    across = alt.X("x:Q", title=x, scale=alt.Scale(nice=False, padding=5),
                   axis=alt.Axis(grid=False, labelFlush=False, tickCount=6, format=alt.Undefined if whole else "~s",
                                 tickMinStep=1 if whole else alt.Undefined))  # fmt: skip
    up = alt.Y("value:Q", title=y or None, scale=scale, axis=alt.Axis(tickCount=5, labelOverlap="greedy"))
    base = alt.Chart(table)
    style = _encoded(shown)
    curve = "step-after" if steps else "linear"
    layers: list[alt.Chart] = []
    if {"low", "high"} <= set(table.columns) and table["low"].notna().to_numpy().any():
        layers.append(
            base.mark_area(opacity=0.16, interpolate=curve, clip=True).encode(
                across, alt.Y("low:Q", title=y or None, scale=scale), alt.Y2("high:Q"), color=style["color"]
            )
        )
    if "raw" in table and table["raw"].notna().to_numpy().any():
        layers.append(
            base.mark_line(opacity=0.22, strokeWidth=0.8, interpolate=curve, clip=True).encode(
                across, alt.Y("raw:Q", title=y or None, scale=scale), color=style["color"]
            )
        )
    zoom = alt.selection_interval(bind="scales", zoom="wheel![event.shiftKey]")
    layers.append(base.mark_line(interpolate=curve, clip=True).encode(across, up, **style).add_params(zoom))
    if points:
        shapes = [SHAPES[each.place % len(SHAPES)] for each in shown]
        shape = alt.Shape("series:N", scale=alt.Scale(domain=[each.name for each in shown], range=shapes), legend=None)
        layers.append(base.mark_point(filled=True, size=44, clip=True).encode(across, up, shape, color=style["color"],
                                                                              opacity=style["opacity"]))  # fmt: skip
    if "applied" in table:
        layers.append(
            base.transform_filter("isValid(datum.applied)")
            .mark_point(filled=False, size=22, strokeWidth=1.2, opacity=0.9, clip=True)
            .encode(across, alt.Y("applied:Q", title=y or None, scale=scale), color=style["color"])
        )
    if marks:
        at = pd.DataFrame({"x": marks})
        layers.append(alt.Chart(at).mark_rule(opacity=0.35, strokeDash=[2, 3]).encode(across))
    layers.append(_pointer(table, shown, across, form) if whole else _one_point(table, across, up, x, form))
    space = {}
    if len(shown) > 1:
        names = _names_at_ends(table, shown, limits, height - AXIS - TITLE * bool(title), log)
        widest = max((len(text) for text in names["text"]), default=0)
        space = {"padding": {"left": 5, "top": 5, "right": 14 + 5.6 * widest, "bottom": 5}}
        layers.append(
            alt.Chart(names).mark_text(align="left", dx=6, fontSize=10, clip=False)
            .encode(alt.XValue("width"), up, alt.Text("text:N"), color=style["color"], opacity=style["opacity"])
        )  # fmt: skip
    return alt.layer(*layers).properties(height=height, **space, **titled(title))


def _names_at_ends(
    table: pd.DataFrame, shown: Sequence[Style], limits: tuple[float, float], height: float, log: bool
) -> pd.DataFrame:
    names = end_labels.placed(table, [each.name for each in shown], limits, height, log)
    short = {each.name: end_labels.cut(ui.printable(each.short or each.name)) for each in shown}
    return names.assign(text=[short[name] for name in names["series"]])


def _one_point(table: pd.DataFrame, across: alt.X, up: alt.Y, x: str, form: str) -> alt.Chart:
    """Returns the point nearest to the pointer: where series have their steps at other places, each is told alone."""
    near = alt.selection_point(nearest=True, on="pointerover", empty=False, clear="pointerout")
    tips = [
        alt.Tooltip("series:N", title=" "),
        alt.Tooltip("step:Q", title="step"),
        alt.Tooltip("x:Q", title=x, format=",.4~g"),
        alt.Tooltip("value:Q", title="value", format=form),
    ]
    return (
        alt.Chart(table)
        .mark_point(size=90, strokeWidth=2, color="#888888")
        .encode(across, up, opacity=alt.when(near).then(alt.value(0.9)).otherwise(alt.value(0)), tooltip=tips)
        .add_params(near)
    )


def _pointer(table: pd.DataFrame, shown: Sequence[Style], across: alt.X, form: str) -> alt.Chart:
    """Returns a rule at the step nearest to the pointer, whose tooltip has every series' value."""
    python_form = form.lstrip("~")
    wide = table.pivot_table(index="step", columns="series", values="value", aggfunc="first")
    texts = pd.DataFrame({"step": wide.index, "x": wide.index})
    tips = [alt.Tooltip("step:Q", title="step")]
    for place, style in enumerate(shown):
        if style.name not in wide:
            continue
        texts[f"s{place}"] = ["–" if pd.isna(value) else format(value, python_form) for value in wide[style.name]]
        tips.append(alt.Tooltip(f"s{place}:N", title=style.name))
    near = alt.selection_point(nearest=True, on="pointerover", fields=["x"], empty=False, clear="pointerout")
    return (
        alt.Chart(texts)
        .mark_rule(strokeWidth=1, color="#888888")
        .encode(across, opacity=alt.when(near).then(alt.value(0.7)).otherwise(alt.value(0)), tooltip=tips)
        .add_params(near)
    )


def titled(title: str) -> dict[str, Any]:
    """Returns the properties of a chart with a title; an empty title has none."""
    if not title:
        return {}
    return {"title": alt.TitleParams(ui.printable(title), anchor="start", fontSize=13, fontWeight=600, offset=6)}


def intervals(
    table: pd.DataFrame,
    shown: Sequence[Style],
    *,
    x: str,
    title: str = "",
    form: str = ".3f",
    reference: float | None = None,
    domain: tuple[float, float] | None = None,
    row_height: int = 30,
) -> Chart:
    """Draws a point with its interval per row: columns ``row`` (label), ``series``, ``value``, ``low``, ``high``.

    Args:
        table: the rows, in the order shown.
        shown: the series.
        x: the axis title with its unit.
        title: the title above the chart.
        form: the format of values in the tooltip.
        reference: the value at which a vertical line stands, such as 0 for differences.
        domain: the limits of the axis.
        row_height: the height of a row in pixels; title and axis are added (:data:`AROUND`).
    """
    table = table.assign(row=ui.texts(table["row"]), series=ui.texts(table["series"]))
    order = list(dict.fromkeys(table["row"]))
    # The padding keeps the ends of the intervals off the edge of the chart.
    scale = alt.Scale(zero=False, padding=10) if domain is None else alt.Scale(domain=list(domain), padding=10)
    values = alt.Axis(labelOverlap="greedy", labelSeparation=6, tickCount=6)
    rows = alt.Y(
        "row:N", sort=order, title=None, axis=alt.Axis(labelLimit=260, labelOverlap=False, ticks=False, domain=False)
    )
    colour = _encoded(shown)["color"]
    tips = [
        alt.Tooltip("row:N", title=" "),
        *[alt.Tooltip(f"{name}:Q", title=name, format=form) for name in ("value", "low", "high")],
    ]
    base = alt.Chart(table)
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.7).encode(
            alt.X("low:Q", title=x, scale=scale, axis=values), alt.X2("high:Q"), rows, color=colour, tooltip=tips
        ),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            alt.X("value:Q", title=x, scale=scale, axis=values), rows, color=colour, tooltip=tips
        ),
    ]
    if reference is not None:
        line = alt.Chart(pd.DataFrame({"value": [reference]})).mark_rule(strokeDash=[3, 3], opacity=0.6)
        layers.insert(0, line.encode(alt.X("value:Q", title=x, scale=scale, axis=values)))
    return alt.layer(*layers).properties(height=row_height * max(1, len(order)) + AROUND, **titled(title))


def bars(table: pd.DataFrame, shown: Sequence[Style], value: str, x: str, title: str, height: int = 200) -> alt.Chart:
    """Draws a bar per ``bin`` of the table, in the order and colours of the styles; ``rollouts`` are told with it."""
    order = [style.name for style in shown]
    form = ".3f" if table[value].max() > 1 or value == "distilled" else ".0%"
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            alt.X("bin:N", sort=order, title=x, axis=alt.Axis(labelAngle=0, labelOverlap="greedy", ticks=False)),
            alt.Y(f"{value}:Q", title=None, axis=alt.Axis(format=form, tickCount=5), scale=alt.Scale(zero=True)),
            color=alt.Color("bin:N", legend=None, scale=alt.Scale(domain=order, range=[s.colour for s in shown])),
            tooltip=[alt.Tooltip("bin:N", title=x), alt.Tooltip(f"{value}:Q", title=title, format=form),
                     *[alt.Tooltip(f"{name}:Q", title=name, format=",") for name in ("rollouts", "recorded")]],
        )
        .properties(height=height, **titled(title))
    )  # fmt: skip


def long(series: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """Returns one column of several tables with a column ``step`` as a table of lines; tables without it are left
    out."""
    parts = [
        pd.DataFrame({"step": table["step"], "value": table[column], "series": name})
        for name, table in series.items()
        if column in table
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["step", "value", "series"])


def ranked(table: pd.DataFrame, *, title: str, y: str, height: int = 230) -> alt.Chart:
    """Draws bars in the table's order, above and below 0: columns ``problem``, ``first``, ``second``, ``difference``.

    A click selects the point ``pick``, whose ``problem`` names the problem.
    """
    table = table.assign(rank=range(1, len(table) + 1), shown=ui.texts(table["problem"]))
    pick = alt.selection_point(name="pick", fields=["problem"], on="click", nearest=True)
    return (
        alt.Chart(table)
        .mark_bar(cursor="pointer")
        .encode(
            alt.X("rank:O", title="problems, in order of the difference", axis=alt.Axis(labels=False, ticks=False)),
            alt.Y("difference:Q", title=y, scale=alt.Scale(nice=True, padding=4)),
            color=alt.condition("datum.difference < 0", alt.value(ui.colour(1)), alt.value(ui.colour(3))),
            opacity=alt.when(pick).then(alt.value(1.0)).otherwise(alt.value(0.35)),
            tooltip=[
                alt.Tooltip("shown:N", title="problem"),
                alt.Tooltip("first:Q", format=".3f"),
                alt.Tooltip("second:Q", format=".3f"),
                alt.Tooltip("difference:Q", format="+.3f"),
            ],
        )
        .add_params(pick)
        .properties(height=height, **titled(title))
    )
