"""The Overview page: runs as a table, and the progress of runs in training."""

from collections.abc import Sequence
import math
from typing import Any

import pandas as pd
import streamlit as st

from app import (
    accuracy,
    charts,
    curve_options,
    definitions,
    elsewhere,
    live,
    notes,
    notes_box,
    run_rows,
    selection,
    series,
    store,
    ui,
)
from app.run_rows import RunRow
from app.sources import RunEntry

MOST_DRAWN = 24


def method_title(run: RunEntry) -> str:
    """Returns the method's title in the run's own parameters."""
    return run.title.removesuffix(f", seed {run.seed}")


def where(run: RunEntry) -> str:
    """Returns kind and place, as the filter and the column show them."""
    return "workspace" if run.place.key == "" and run.kind == "finished" else run.kind_label


def commit(run: RunEntry) -> str:
    """Returns the short commit, with a mark if the tree differed from it."""
    git = run.config.get("git") or {}
    if not git.get("commit"):
        return "–"
    return str(git["commit"])[:7] + ("*" if git.get("dirty") else "")


def choose_runs(runs: Sequence[RunEntry]) -> list[RunEntry]:
    """Returns the runs that pass the filters."""
    text, methods, places = st.columns([2, 2, 2])
    with text:
        wanted = selection.text("Filter", "filter", placeholder="name, tag, note, commit …")
    titles = {run.method: ui.printable(method_title(run)) for run in runs}
    with methods:
        method = selection.choose_many("Method", list(titles), "filter_method", shown=titles.__getitem__,
                                       placeholder="All")  # fmt: skip
    with places:
        place = selection.choose_many("Where", list(dict.fromkeys(map(where, runs))), "filter_place",
                                      placeholder="Everywhere")  # fmt: skip
    words = wanted.lower().split()
    return [
        run for run in runs
        if (not method or run.method in method) and (not place or where(run) in place)
        and all(word in _searched(run) for word in words)
    ]  # fmt: skip


def _searched(run: RunEntry) -> str:
    note = notes.of_run(run)
    parts = (run.id, run.title, where(run), run.params.get("profile"), run.params.get("preset"), commit(run),
             (run.config.get("git") or {}).get("commit"), note.text, *note.tags)  # fmt: skip
    return " ".join(str(part) for part in parts if part).lower()


def table(runs: Sequence[RunEntry], rows: Sequence[RunRow]) -> pd.DataFrame:
    """Returns the table that is shown, a row per run."""
    titles: dict[str, str] = {}
    for run in runs:
        titles = {**store.benchmarks(run), **titles}
    shown = []
    for run, row in zip(runs, rows, strict=True):
        cells: dict[str, Any] = {"Run": run.label, "Method": method_title(run), "Seed": run.seed}
        for name, title in titles.items():
            score = row.scores.get(name)
            cells[f"{title}: Last"] = None if score is None else _last(score)
        cells |= {"Alarms": _alarms(row), "Reward": row.reward, "Entropy": row.entropy, "Length": row.length}
        for name, title in titles.items():
            score = row.scores.get(name)
            cells[f"{title}: Best†"] = None if score is None else f"{score.best:.3f} (step {score.best_step})"
        shown.append(cells | {
            "Problems × samples": _sizes(row), "Steps": row.steps, "Minutes": row.seconds / 60,
            "Where": where(run), "Profile": run.params.get("profile"), "Preset": run.params.get("preset"),
            "Commit": commit(run), **_noted(run),
        })  # fmt: skip
    frame = pd.DataFrame(shown)
    frame = frame.drop(columns=[name for name in ("Tags", "Note") if frame[name].isna().all()])
    for column in frame:
        if any(isinstance(value, str) for value in frame[column]):
            frame[column] = [ui.printable(value) if isinstance(value, str) else value for value in frame[column]]
    return frame


def _noted(run: RunEntry) -> dict[str, str | None]:
    note = notes.of_run(run)
    return {"Tags": ", ".join(note.tags) or None, "Note": note.text or None}


def _last(score: run_rows.Score) -> str:
    if math.isnan(score.last.low):
        return f"{score.last.mean:.3f}"
    return f"{score.last.mean:.3f} ({score.last.low:.3f}–{score.last.high:.3f})"


def _sizes(row: RunRow) -> str:
    sizes = [f"{score.problems} × {score.samples}" for score in row.scores.values() if score.problems]
    return ", ".join(sizes if len(set(sizes)) > 1 else sizes[:1]) or "–"


def _alarms(row: RunRow) -> str:
    if row.alarms is None:
        return "unknown"
    return ", ".join(f"{name} from step {step}" for name, step in row.alarms.items()) or "none"


def _defined(column: str, what: str) -> str:
    """Returns what a column shows, with its definition in docs/metrics.md."""
    text = f"{what}, mean of the last {run_rows.LAST_STEPS} steps"
    return f"{text}. `{column}`: {definition}" if (definition := definitions.of(column)) else text


def columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Returns the formats of the columns, and their explanations."""
    config: dict[str, Any] = {
        "Run": st.column_config.TextColumn(pinned=True),
        "Method": st.column_config.TextColumn(),
        "Seed": st.column_config.NumberColumn(width=50),
        "Problems × samples": st.column_config.TextColumn(help="behind Last, per benchmark where they differ"),
        "Reward": st.column_config.NumberColumn(format="%.3f", help=_defined("reward", "training reward")),
        "Entropy": st.column_config.NumberColumn(format="%.3f", help=_defined("entropy", "nats per token")),
        "Length": st.column_config.NumberColumn(format="%.1f", help=_defined("length", "response tokens")),
        "Steps": st.column_config.NumberColumn(help="made so far"),
        "Minutes": st.column_config.NumberColumn(
            format="%.1f", help="all steps with their evaluations; start-up of the process is not counted"),
        "Alarms": st.column_config.TextColumn(help="of collapse and leakage, with the first step"),
        "Commit": st.column_config.TextColumn(help="* with changes that were not committed"),
    }  # fmt: skip
    for name in map(str, frame.columns):
        if name.endswith(": Last"):
            config[name] = st.column_config.TextColumn(
                help="accuracy at the last evaluation in training, with the interval over problems of this policy"
            )
        elif name.endswith(": Best†"):
            config[name] = st.column_config.TextColumn(
                help="largest of the evaluations in training: selected on the test set, and therefore too high"
            )
    return config  # fmt: skip


def last_chart(runs: Sequence[RunEntry], rows: Sequence[RunRow]) -> None:
    """Shows Last of each benchmark with its interval, run by run."""
    titles: dict[str, str] = {}
    for run in runs:
        titles = {**store.benchmarks(run), **titles}
    order = list(dict.fromkeys(run.method for run in runs))
    places = accuracy.method_places(runs)
    styles = charts.styles(order, [places[method] for method in order])
    labels = [run.label for run in runs]
    unique = {run.id: run.label if labels.count(run.label) == 1 else run.id for run in runs}
    panels = []
    for name, title in titles.items():
        scores = [(run, row.scores[name]) for run, row in zip(runs, rows, strict=True) if name in row.scores]
        if scores:
            panels.append((title, pd.DataFrame({
                "row": [unique[run.id] for run, _ in scores], "series": [run.method for run, _ in scores],
                **{part: [getattr(score.last, place) for _, score in scores]
                   for part, place in (("value", "mean"), ("low", "low"), ("high", "high"))},
            })))  # fmt: skip
    for place, (title, table) in zip(ui.grid(len(panels)), panels, strict=True):
        with place:
            st.altair_chart(charts.intervals(table, styles, x="accuracy", title=f"{title}: Last", row_height=22),
                            width="stretch")  # fmt: skip


def links(chosen: Sequence[RunEntry], shown: Sequence[RunEntry]) -> None:
    """Shows links to the pages of the selected runs."""
    ids = [run.id for run in (chosen or shown)]
    with st.container(horizontal=True, vertical_alignment="center"):
        what = f"Compare {len(ids)} selected" if chosen else f"Compare all {len(ids)}"
        selection.link("compare", what, runs=ids)
        if len(chosen) == 1:
            selection.link("rollouts", "Rollouts", run=ids[0])
            selection.link("provenance", "Provenance", run=ids[0])
            selection.link("gating", "Gating", run=ids[0])
            notes_box.show(chosen[0])
        elif not chosen:
            st.caption("Select rows to compare some of them, or one to open its rollouts.")


def progress_of(runs: Sequence[RunEntry]) -> None:
    """Shows the runs in training with their rewards so far and links, drawn anew every few seconds."""

    def draw() -> None:
        shown = series.group(runs, seeds_together=False)
        rewards = series.panel("Training reward", shown, store.metrics, "reward").table
        if len(rewards):
            st.altair_chart(charts.lines(rewards, curve_options.plain_styles(shown), title="Training reward",
                                         height=180), width="stretch")  # fmt: skip

    live.refresh(runs, draw)
    ids = [run.id for run in runs]
    with st.container(horizontal=True):
        selection.link("compare", "Their curves", runs=ids)
        for run in runs:
            selection.link("rollouts", f"Last rollouts of {run.name}", run=run.id, step=None, group=None, sibling=None)


def page() -> None:
    """Shows the Overview page."""
    st.header("Overview")
    everything = list(ui.found().runs.values())
    if not everything:
        ui.empty("No run can be shown: the reasons are above the page. This makes new runs:", "sdpg repro")
        return
    if in_progress := live.running(everything):
        st.subheader("In progress")
        progress_of(in_progress)
        st.subheader("All runs")
    shown = choose_runs(everything)
    if not shown:
        ui.empty("No run passes these filters.")
        return
    rows = [run_rows.read_row(run) for run in shown]
    above = st.container()
    frame = table(shown, rows)
    state = st.dataframe(
        frame, hide_index=True, width="stretch", height=min(38 + 35 * len(frame), 700), on_select="rerun",
        selection_mode="multi-row", column_config=columns(frame), key="overview_rows", placeholder="–",
    )  # fmt: skip
    chosen = [shown[at] for at in selection.selected_rows(state) if at < len(shown)]
    with above:
        links(chosen, shown)
    confidences = sorted({f"{run_rows.confidence(run):.0%}" for run in shown})
    st.caption(
        f"Last: accuracy at the last evaluation in training, in brackets its {' or '.join(confidences)} interval by "
        "problem, the policy being fixed. † Best is the largest of the series, selected on the test set. Reward, "
        f"entropy and length: mean of the last {run_rows.LAST_STEPS} steps. \\* uncommitted changes."
    )
    if len(drawn := [at for at, run in enumerate(shown) if not chosen or run in chosen]) <= MOST_DRAWN:
        last_chart([shown[at] for at in drawn], [rows[at] for at in drawn])
    unread = list(dict.fromkeys(text for row in rows for text in row.unread))
    if unread:
        with st.expander(f"{len(unread)} parts could not be read", icon=":material/warning:"):
            for text in unread:
                st.markdown(ui.plain(text))


page()
if server := st.session_state.get("_mlflow"):
    elsewhere.show(server)
