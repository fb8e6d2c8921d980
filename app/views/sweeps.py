"""The Sweeps page: what a study tried, which parameters mattered, and the command that runs its best setting."""

from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from app import charts, selection, studies, ui
from app.studies import PREFIX, Study

COMMAND = "sdpg tune sdpg-ufkl --trials 20 --workers 2"
STATES = {"complete": 3, "pruned": 1, "running": 5, "failed": 4, "lost": 2, "waiting": 0}  # positions in the palette
SHAPES = {"complete": "circle", "pruned": "triangle-down", "running": "diamond", "failed": "cross", "lost": "square",
          "waiting": "stroke"}  # fmt: skip


def objective(study: Study) -> str:
    """Returns what is optimised, in words."""
    goal = study.summary["objective"]
    kind = {"last": "at the end", "area": "mean over the curve"}.get(str(goal.get("kind")), str(goal.get("kind") or ""))
    return f"{goal.get('metric', 'value')} accuracy, {kind}".rstrip(", ")


def head(study: Study) -> None:
    """Shows the counts and the best value."""
    summary = study.summary
    counts = summary.get("counts") or {}
    complete = study.trials[study.trials["state"] == "complete"]["value"].dropna()
    best = (complete.max() if study.maximise else complete.min()) if len(complete) else None
    saved = summary.get("steps_saved") or {}
    first, second, third, fourth = st.columns(4)
    number = study.best_trial
    first.metric("Best value", "–" if best is None else f"{best:.4f}", help=ui.plain(objective(study)))
    second.metric("Best trial", "–" if number is None else str(number))
    planned = (summary.get("budget") or {}).get("trials")
    third.metric("Complete trials", f"{len(complete)}" + (f" of {planned}" if planned else ""))
    share = saved.get("share")
    fourth.metric("Steps saved by pruning", "–" if share is None else f"{share:.0%}",
                  help=f"{saved.get('made', '?')} of {saved.get('planned', '?')} steps were made")  # fmt: skip
    others = ", ".join(f"{count} {state}" for state, count in counts.items() if count and state != "complete")
    parts = [
        f"method {summary['method']}", f"{'maximised' if study.maximise else 'minimised'}: {objective(study)}",
        f"sampler {summary.get('sampler', '?')}", f"pruner {summary.get('pruner') or 'none'}",
        f"seed {summary.get('seed', '?')}", others,
    ]  # fmt: skip
    st.caption(ui.plain(" · ".join(part for part in parts if part)))


def best_setting(study: Study) -> None:
    """Shows the best values beside the defaults, and the line that runs them."""
    if not study.best:
        ui.empty("No trial is complete yet, so that there is no best setting.")
        return
    st.subheader("Best setting")
    st.code(studies.command(study.best), language="bash", wrap_lines=True)
    default = study.summary.get("default") or {}
    shown = pd.DataFrame({
        "parameter": [ui.printable(path) for path in study.best],
        "default": [studies.text_of(default[path]) if path in default else "–" for path in study.best],
        "best": [ui.printable(studies.text_of(value)) for value in study.best.values()],
    })  # fmt: skip
    right = st.column_config.TextColumn(alignment="right")
    st.dataframe(shown, hide_index=True, height="content", column_config={"default": right, "best": right})
    complete = int((study.trials["state"] == "complete").sum())
    st.caption(f"The best of {complete} tries is too high by nature: train it anew with other seeds before you compare "
               "it.")  # fmt: skip


def value_axis(study: Study) -> str:
    """Returns the title of the axis of values."""
    return ui.printable(f"{study.summary['objective'].get('metric', 'value')}")


def history(study: Study) -> charts.Chart:
    """Draws the value of each trial, and the best so far."""
    table = studies.history(study)
    states = [state for state in STATES if state in set(table["state"])]
    colour = alt.Color("state:N", scale=alt.Scale(domain=states, range=[ui.colour(STATES[s]) for s in states]),
                       legend=alt.Legend(title=None, orient="top"))  # fmt: skip
    shape = alt.Shape("state:N", scale=alt.Scale(domain=states, range=[SHAPES[state] for state in states]))
    across = alt.X("number:Q", title="trial", axis=alt.Axis(tickMinStep=1, grid=False, format="d"))
    scale = alt.Scale(zero=False)
    base = alt.Chart(table)
    line = base.mark_line(interpolate="step-after", strokeWidth=2, color=ui.colour(3), opacity=0.6).encode(
        across, alt.Y("best:Q", title=value_axis(study), scale=scale)
    )
    points = base.mark_point(filled=True, size=60, opacity=0.9).encode(
        across, alt.Y("value:Q", title=value_axis(study), scale=scale), colour, shape,
        tooltip=["number:Q", "state:N", alt.Tooltip("value:Q", format=".4f"), alt.Tooltip("best:Q", format=".4f")],
    )  # fmt: skip
    return alt.layer(line, points).properties(height=300)


def importance(study: Study, short: dict[str, str]) -> None:
    """Shows which parameter explains the values, or why that cannot be said."""
    shares = study.summary.get("importance")
    if not shares:
        ui.empty(f"No importance: {study.summary.get('importance_reason') or 'it was not computed'}.")
        return
    table = pd.DataFrame({"path": [ui.printable(short.get(path, path)) for path in shares], "share": shares.values()})
    st.altair_chart(
        alt.Chart(table).mark_bar(color=ui.colour(3)).encode(
            alt.X("share:Q", title="importance (share)", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format=".0%")),
            alt.Y("path:N", sort="-x", title=None, axis=alt.Axis(labelLimit=240)),
            tooltip=["path:N", alt.Tooltip("share:Q", format=".1%")],
        ).properties(height=34 * len(table) + 60),
        width="stretch",
    )  # fmt: skip
    st.caption("Share of the objective's variance among the better trials that each parameter explains (PED-ANOVA).")


def parallel(study: Study, short: dict[str, str]) -> charts.Chart:
    """Draws one line per complete trial over the parameters and its value; the brightest is the best."""
    table = studies.positions(study)
    table["axis"] = table["path"].map({path: ui.printable(name) for path, name in short.items()})
    values = table.drop_duplicates("number")[["number", "value"]]
    low, high = values["value"].min(), values["value"].max()
    at = (values["value"] - low) / (high - low) if high > low else 0.5
    last = value_axis(study)
    ends = values.assign(axis=last, shown=values["value"].map("{:.4f}".format), at=at)
    table = pd.concat([table, ends], ignore_index=True)
    table["shown"] = ui.texts(table["shown"])
    order = [ui.printable(short[path]) for path in study.paths] + [last]
    colour = alt.Color("value:Q", title=last, scale=alt.Scale(scheme="viridis", reverse=not study.maximise),
                       legend=alt.Legend(format=".3f", type="gradient"))  # fmt: skip
    across = alt.X("axis:N", sort=order, title=None, axis=alt.Axis(labelAngle=0, grid=True, labelLimit=160),
                   scale=alt.Scale(type="point", padding=0.3))  # fmt: skip
    up = alt.Y("at:Q", axis=None, scale=alt.Scale(domain=[-0.12, 1.12]))
    lines = alt.Chart(table).mark_line(opacity=0.75, strokeWidth=1.8).encode(
        across, up, colour, detail="number:N", order=alt.Order("place:Q")
    )  # fmt: skip
    table["place"] = table["axis"].map({name: place for place, name in enumerate(order)})
    dots = alt.Chart(table).mark_point(filled=True, size=35, opacity=1).encode(
        across, up, colour,
        tooltip=[alt.Tooltip("number:Q", title="trial"), alt.Tooltip("axis:N", title=" "),
                 alt.Tooltip("shown:N", title="is"), alt.Tooltip("value:Q", title="value", format=".4f")],
    )  # fmt: skip
    edges = table.sort_values("at").groupby("axis")
    limits = pd.concat([edges.head(1).assign(at=-0.07), edges.tail(1).assign(at=1.07)])
    texts = alt.Chart(limits).mark_text(fontSize=11, opacity=0.8, color="#8a8f98").encode(across, up, text="shown:N")
    return alt.layer(lines, dots, texts).properties(height=340)


def slices(study: Study, short: dict[str, str]) -> None:
    """Draws the value over each parameter alone."""
    table = study.trials[study.trials["value"].notna() & (study.trials["state"] == "complete")]
    columns = st.columns(min(3, max(1, len(study.paths))))
    for place, path in enumerate(study.paths):
        choices = study.choices(path)
        rows = pd.DataFrame({"number": table["number"], "value": table["value"]})
        name = ui.printable(short[path])
        if choices is not None:
            rows["at"] = [ui.printable(studies.text_of(value)) for value in table[PREFIX + path]]
            across = alt.X("at:N", title=name, sort=[ui.printable(text) for text in choices],
                           axis=alt.Axis(labelAngle=0))  # fmt: skip
        else:
            rows["at"] = table[PREFIX + path]
            scale = alt.Scale(type="log") if study.logarithmic(path) else alt.Scale(zero=False)
            across = alt.X("at:Q", title=name, scale=scale, axis=alt.Axis(format="~g", grid=False, tickCount=5))
        chart = alt.Chart(rows).mark_point(filled=True, size=50, opacity=0.9).encode(
            across, alt.Y("value:Q", title=value_axis(study), scale=alt.Scale(zero=False)),
            alt.Color("number:Q", title="trial", scale=alt.Scale(scheme="viridis"), legend=None),
            tooltip=[alt.Tooltip("number:Q", title="trial"), alt.Tooltip("at", title=name),
                     alt.Tooltip("value:Q", format=".4f")],
        ).properties(height=230)  # fmt: skip
        columns[place % len(columns)].altair_chart(chart, width="stretch")
    st.caption("Complete trials; later trials are brighter.")


def curve_chart(study: Study, column: str, title: str, form: str) -> charts.Chart:
    """Draws a line per trial over its steps, coloured by the trial's value; the best one is thick."""
    values = study.trials.set_index("number")[["value", "state"]]
    table = study.curves.join(values, on="trial").dropna(subset=[column])
    scale = alt.Scale(scheme="viridis", reverse=not study.maximise)
    colour = alt.Color(
        "value:Q", title=value_axis(study), scale=scale, legend=alt.Legend(format=".3f", type="gradient")
    )
    base = alt.Chart(table)
    across = alt.X("step:Q", title="training step", axis=alt.Axis(tickMinStep=1, grid=False))
    up = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=column == "beta"))
    tips = [alt.Tooltip("trial:Q", title="trial"), alt.Tooltip("state:N"), alt.Tooltip("step:Q"),
            alt.Tooltip(f"{column}:Q", title=title, format=form), alt.Tooltip("value:Q", format=".4f")]  # fmt: skip
    lines = base.mark_line(strokeWidth=1.3, opacity=0.7).encode(across, up, colour, detail="trial:N")
    dots = base.mark_point(filled=True, size=18, opacity=0.9).encode(across, up, colour, tooltip=tips)
    layers: list[Any] = [lines, dots]
    if study.best_trial is not None:
        layers.append(alt.Chart(table[table["trial"] == study.best_trial]).mark_line(
            strokeWidth=4, color=ui.colour(4)).encode(across, up))  # fmt: skip
    return alt.layer(*layers).properties(height=280)


def curves(study: Study) -> None:
    """Shows the validation curve and β(k) of each trial."""
    with_beta = "beta" in study.curves and study.curves["beta"].notna().any()
    left, right = st.columns(2) if with_beta else (st.container(), None)
    left.altair_chart(curve_chart(study, "accuracy", "validation accuracy", ".3f"), width="stretch")
    if right is not None:
        right.altair_chart(curve_chart(study, "beta", "β(k) as applied", ".4g"), width="stretch")
    st.caption("A line per trial, pruned ones included as far as they came; the best trial is thick.")


def front(study: Study) -> None:
    """Draws the two objectives against each other."""
    second = study.second or {}
    table = study.trials[study.trials["state"] == "complete"]
    on_front = set(study.summary.get("front") or [])
    table = table.assign(front=["on the front" if n in on_front else "dominated" for n in table["number"]])
    title = ui.printable(str(second.get("metric", "second objective")))
    st.altair_chart(
        alt.Chart(table).mark_point(filled=True, size=70, opacity=0.9).encode(
            alt.X("value_1:Q", title=f"{title} ({second.get('direction', 'minimize')})", scale=alt.Scale(zero=False)),
            alt.Y("value:Q", title=value_axis(study), scale=alt.Scale(zero=False)),
            alt.Color("front:N", title=None, scale=alt.Scale(domain=["on the front", "dominated"],
                                                             range=[ui.colour(4), ui.colour(0)]),
                      legend=alt.Legend(orient="top")),
            tooltip=["number:Q", alt.Tooltip("value:Q", format=".4f"), alt.Tooltip("value_1:Q", format=".4g")],
        ).properties(height=300),
        width="stretch",
    )  # fmt: skip


def trial_table(study: Study, short: dict[str, str]) -> None:
    """Lists every trial; selecting one opens its run."""
    st.subheader("Trials")
    table = study.trials
    ids = [study.run_id(int(number)) for number in table["number"]]
    known = ui.found().runs
    columns = [name for name in ("number", "state", "value", "value_1", "steps", "tokens", "seconds", "worker", "error")
               if name in table and table[name].notna().any()]  # fmt: skip
    shown = table[columns].copy()
    for path in study.paths:
        column = table[PREFIX + path]
        shown[ui.printable(short[path])] = (
            column if study.choices(path) is None else [ui.printable(studies.text_of(value)) for value in column]
        )
    for name in shown.select_dtypes(include=["object", "string"]):
        shown[name] = [ui.printable(str(value)) if pd.notna(value) else None for value in shown[name]]
    shown.insert(1, "run", ["open" if id in known else "not here" for id in ids])
    selection.pick_row(
        shown, "trials", lambda at: _open(ids[at]), placeholder="–",
        height="content" if len(shown) <= 12 else 460,
        column_config={
            "number": st.column_config.NumberColumn("trial", pinned=True, width=60),
            "value": st.column_config.NumberColumn(format="%.4f"),
            "value_1": st.column_config.NumberColumn("second value", format="%.4g"),
            "seconds": st.column_config.NumberColumn(format="%.0f"),
            "tokens": st.column_config.NumberColumn(format="localized"),
        },
    )  # fmt: skip
    st.caption(ui.plain(f"Select a trial to open its run, if its folder, runs/tune/{study.name}/<trial>, was found."))


def _open(run: str) -> None:
    """Goes to the rollouts of a trial, if its run was found."""
    if run in ui.found().runs:
        selection.go("rollouts", run=run, step=None, group=None, sibling=None)


def page(study: Study) -> None:
    """Shows a study, the most important parts first."""
    short = studies.common_prefix(study.paths, str(study.summary["method"]))
    head(study)
    if study.trials.empty:
        ui.empty("No trial has begun.")
        return
    complete = bool((study.trials["state"] == "complete").any())
    left, right = st.columns([3, 2])
    with left:
        st.subheader("History")
        st.altair_chart(history(study), width="stretch")
    with right:
        st.subheader("Importance")
        importance(study, short)
    best_setting(study)
    if study.second and complete:
        st.subheader("Two objectives")
        front(study)
    if complete and study.paths:
        st.subheader("Parallel coordinates")
        st.altair_chart(parallel(study, short), width="stretch")
        st.subheader("Slices")
        slices(study, short)
    if not study.curves.empty:
        st.subheader("Curves")
        curves(study)
    trial_table(study, short)


st.header("Sweeps")
known = studies.names(ui.found())
if not known:
    ui.empty("There is no study yet. A study searches a method's coefficients on the validation set; this makes one:")
    st.code(COMMAND, language="bash")
else:
    chosen = selection.choose("Study", list(known), "study")
    with ui.guard():
        page(studies.read(*known[chosen]))
