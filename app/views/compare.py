"""The Compare page: curves, metrics and schedules of any runs, how parameters differ, two runs problem by problem."""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from app import charts, curve_options, differing, exports, live, paired, selection, store, ui
from app.curve_options import Options
from app.series import AXES, COEFFICIENTS, Panel, coinciding, deviation, group, panel, schedule_panel
from app.sources import RunEntry
from sdpg.colours import FileFormat
from sdpg.errors import UserError
from sdpg.results.rendering import p_text
from sdpg.results.tables import plus

TRAINING = {
    "reward": "Training reward",
    "entropy": "Entropy (nats per token)",
    "length": "Response length (tokens)",
}
FIRST_METRICS = ("kl_to_teacher_gated", "gate_rate", "grad_norm")
MOST_AT_FIRST = 12


def choose_runs() -> list[RunEntry]:
    """Lets the reader choose the runs that are compared."""
    runs = ui.found().runs
    here = [id for id, run in runs.items() if run.kind in ("finished", "sample") and not run.place.key]
    first = (here or list(runs))[:MOST_AT_FIRST]
    chosen = selection.choose_many("Runs", list(runs), "runs", shown=lambda id: runs[id].label, first=first,
                                   placeholder="Choose runs")  # fmt: skip
    return [runs[id] for id in chosen]


def draw(panels: Sequence[Panel], chosen: Options, name: str, note: str) -> None:
    """Draws the panels, three a row, with their legend and the buttons that save them."""
    drawn = [chart for chart in panels if len(chart.table)]
    st.html(charts.legend(sorted(chosen.styles, key=lambda style: style.faint)))
    across = AXES[chosen.axis]
    for place, chart in zip(ui.grid(len(drawn)), drawn, strict=True):
        with place:
            st.markdown(f"**{ui.plain(chart.title)}**", help=chart.help or None)
            st.altair_chart(
                charts.lines(chart.table, chosen.styles, x=across, points=chart.points,
                             form=chart.form, log=chosen.log),
                width="stretch",
            )  # fmt: skip
    alike = {chart.title: coinciding(chart.table) for chart in drawn}
    if any(alike.values()):
        lines = "; ".join(f"{title}: {', '.join(pairs)}" for title, pairs in alike.items() if pairs)
        st.caption(ui.plain(f"Lines that coincide, the thinner over the wider: {lines}."))
    said = f"{note[0].upper()}{note[1:]}. " if note else ""
    st.caption(ui.plain(f"{said}Drag to move a chart, Shift and wheel to zoom, double click to see all of it."))
    for text in dict.fromkeys(text for chart in panels for text in chart.notes):
        st.warning(ui.plain(text), icon=":material/warning:")
    if missing := [chart.title for chart in panels if not len(chart.table)]:
        st.caption(ui.plain(f"Not measured in these runs: {', '.join(missing)}."))
    if drawn:
        save(drawn, chosen, name, note)


def save(panels: Sequence[Panel], chosen: Options, name: str, note: str) -> None:
    """Shows buttons that make the files when they are clicked."""
    kinds: dict[FileFormat, str] = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}

    def figure(kind: FileFormat) -> bytes:
        return exports.figure(panels, chosen.styles, kind, note, AXES[chosen.axis], chosen.log)

    files: list[tuple[str, str, str, Callable[[], bytes]]] = [
        (f"Figure ({kind.upper()})", kind, mime, partial(figure, kind)) for kind, mime in kinds.items()
    ]
    files.append(("Data (CSV)", "csv", "text/csv", lambda: exports.data(panels)))
    with st.container(horizontal=True):
        for label, ending, kind, make in files:
            st.download_button(label, make, f"{name}.{ending}", kind, on_click="ignore", icon=":material/download:",
                               key=f"save_{name}_{ending}")  # fmt: skip


def titles_of(runs: Sequence[RunEntry]) -> dict[str, str]:
    """Returns the titles of all runs' benchmarks, with the samples behind each point where they agree."""
    titles: dict[str, str] = {}
    for run in runs:
        titles = {**store.benchmarks(run), **titles}
    samples = {(run.params.get("evaluation") or {}).get("samples") for run in runs}
    at = f", mean@{samples.pop()}" if len(samples) == 1 else ""
    return {name: f"{title}{at}" for name, title in titles.items()}


def curves(runs: Sequence[RunEntry]) -> None:
    """Shows the panels of the paper's figure, one for each benchmark."""
    chosen = curve_options.choose(runs)
    shown, axis = chosen.shown, chosen.axis

    def show() -> None:
        panels = [
            panel(title, shown, store.curves, name, axis=axis, points=True) for name, title in titles_of(runs).items()
        ]
        panels += [panel(title, shown, store.metrics, name, chosen.window, axis) for name, title in TRAINING.items()]
        draw(panels, chosen, "curves", chosen.note)

    live.refresh(runs, show)


def metrics(runs: Sequence[RunEntry]) -> None:
    """Shows every other logged metric."""
    columns: dict[str, Callable[[RunEntry], pd.DataFrame]] = {}
    for run in runs:
        for read in (store.metrics, store.timing, store.curves):
            with ui.guard():
                columns = {**{str(name): read for name in read(run) if name != "step"}, **columns}
    first = [name for name in FIRST_METRICS if name in columns]
    chosen = selection.choose_many(
        "Metrics", sorted(columns), "logged", first=first, placeholder="Choose metrics",
        help="As docs/metrics.md defines them, of metrics.csv, timing.csv and curves.csv.",
    )  # fmt: skip
    how = curve_options.choose(runs)
    if not chosen:
        ui.empty("No metric is chosen.")
        return

    def show() -> None:
        panels = []
        for name in chosen:
            evaluated = columns[name] is store.curves
            panels.append(
                panel(name, how.shown, columns[name], name, 1 if evaluated else how.window, how.axis, form=".4g",
                      points=evaluated or _sparse(runs, columns[name], name))
            )  # fmt: skip
        draw(panels, how, "metrics", how.note)

    live.refresh(runs, show)


def _sparse(runs: Sequence[RunEntry], read: Callable[[RunEntry], pd.DataFrame], name: str) -> bool:
    """Says whether a metric was measured at so few steps that a line alone would hide it."""
    for run in runs:
        try:
            table = read(run)
        except UserError:
            continue
        if name in table and (measured := int(table[name].notna().to_numpy().sum())):
            return measured < len(table) / 3
    return False


def schedules(runs: Sequence[RunEntry]) -> None:
    """Shows coefficients as scheduled by the parameters, and as applied according to metrics.csv."""
    shown = group(runs, seeds_together=True)
    panels = {name: schedule_panel(title, shown, name) for name, title in COEFFICIENTS.items()}
    gaps = [
        (COEFFICIENTS[name], series.name, deviation(each.table, series.name))
        for name, each in panels.items()
        for series in shown
    ]
    differing_ones = [(title, name, gap) for title, name, gap in gaps if gap]
    if differing_ones:
        for title, name, (step, meant, applied) in differing_ones:
            st.error(ui.plain(f"{name}: {title} was {applied:.6g} at step {step}, but the parameters give {meant:.6g}"),
                     icon=":material/warning:")  # fmt: skip
    else:
        st.success("What was applied at each step is what the parameters give.", icon=":material/check:")
    draw(list(panels.values()), Options(shown, curve_options.plain_styles(shown), 1), "schedules",
         "lines: worked out from the run's parameters; points: as applied, from metrics.csv")  # fmt: skip


def parameters(runs: Sequence[RunEntry]) -> None:
    """Shows which parameters differ, and whether the runs are matched."""
    if len(runs) < 2:
        ui.empty("Choose a second run to compare parameters with.")
        return
    with ui.guard():
        found = differing.differences(runs)
        if found.matched:
            st.success(ui.plain(f"Matched: nothing that may change a result differs beside {found.compared_words}."),
                       icon=":material/check:")  # fmt: skip
        else:
            kinds = ", ".join(dict.fromkeys(each.kind for each in found.rest))
            st.warning(ui.plain(f"Not matched: results may also differ because of {kinds}."), icon=":material/warning:")
        for caveat in found.caveats:
            st.caption(ui.plain(f"Caveat: {caveat}."))
        for title, leaves in (("What is compared", found.compared), ("Everything else that may matter", found.rest)):
            if leaves:
                st.subheader(title)
                st.dataframe(differing.highlighted(leaves, runs), hide_index=True, width="stretch", height="content")
        st.subheader("Budget")
        st.dataframe(differing.budgets(runs), hide_index=True, width="stretch")
        if found.without_effect:
            with st.expander(f"{len(found.without_effect)} on record, without effect on any of the runs"):
                st.dataframe(differing.table(found.without_effect, runs), hide_index=True, width="stretch")


def by_problem(runs: Sequence[RunEntry]) -> None:
    """Shows two runs on the same problems."""
    if len(runs) < 2:
        ui.empty("Choose a second run: problems are compared between two.")
        return
    known = {run.id: run for run in runs}
    pairs = [run.id for run in runs[1:] if run.seed == runs[0].seed and run.method != runs[0].method]
    left, middle, right = st.columns([2, 2, 3])
    with left:
        second = known[selection.choose("Run", list(known), "second", shown=lambda id: known[id].label,
                                        first=(pairs or list(known))[-1])]  # fmt: skip
    with middle:
        first = known[selection.choose("minus", list(known), "first", shown=lambda id: known[id].label)]
    with right:
        which = selection.choose("Answers", list(paired.EVALUATIONS), "answers", shown=paired.EVALUATIONS.__getitem__)
    if first.id == second.id:
        ui.empty("These are one run: choose another.")
        return
    with ui.guard():
        comparisons, left_out = paired.compare(first, second, which)
        for text in left_out:
            st.caption(ui.plain(text))
        if comparisons:
            show_paired(comparisons, first, second)


def show_paired(found: Sequence[paired.Paired], first: RunEntry, second: RunEntry) -> None:
    """Shows the table of differences with intervals, and a chart per benchmark."""
    names = (first.id, second.id)
    rows = pd.DataFrame(paired.rows(found, *names))
    limits = zip(rows["low"], rows["high"], strict=True)
    level = f"{paired.confidence(first):.0%}"
    summary = pd.DataFrame({
        "Benchmark": ui.texts(rows["benchmark"]), ui.printable(second.id): rows[second.id],
        ui.printable(first.id): rows[first.id], "Difference": [plus(value) for value in rows["difference"]],
        f"{level} interval": [f"{plus(low)} to {plus(high)}" for low, high in limits],
        "p": rows["p"].map(p_text), "p, Holm": rows["p, Holm"].map(p_text),
        "Problems": rows["problems"], "Samples": rows["samples"],
    })  # fmt: skip
    accuracy = {ui.printable(name): st.column_config.NumberColumn(format="%.3f") for name in names}
    st.dataframe(summary, hide_index=True, width="stretch", column_config=accuracy)
    st.caption(
        ui.plain(f"{second.id} − {first.id}, paired by problem: says how the difference would move with other problems "
                 f"of the same kind, and nothing of other seeds. p: sign-flip permutations; Holm: adjusted for the "
                 f"{len(found)} benchmarks here.")
    )  # fmt: skip
    each_problem = pd.concat([pair.by_problem.assign(benchmark=pair.title) for pair in found], ignore_index=True)
    for place, (number, pair) in zip(ui.grid(len(found)), enumerate(found), strict=True):
        with place:
            problem_chart(pair, number)
    st.download_button("Data (CSV)", lambda: each_problem.to_csv(index=False).encode("utf-8", "replace"),
                       f"{second.name}-minus-{first.name}.csv", "text/csv", on_click="ignore",
                       icon=":material/download:", key="save_problems")  # fmt: skip


def problem_chart(one: paired.Paired, number: int) -> None:
    """Shows differences by problem, the largest first; a click names the problem and links to its page."""
    state = st.altair_chart(
        charts.ranked(one.by_problem, title=one.title, y="difference in accuracy"),
        on_select="rerun", selection_mode="pick", key=f"ranked_{number}", width="stretch",
    )  # fmt: skip
    picked = (state["selection"] or {}).get("pick") or []
    table = one.by_problem
    gaps = one.second.accuracy - one.first.accuracy
    up, down = int((gaps > 0).sum()), int((gaps < 0).sum())
    st.caption(f"{up} problems up, {down} down, {len(table) - up - down} equal. Click to choose a problem.")
    if picked:
        row = table[table["problem"] == picked[0]["problem"]].iloc[0]
        st.markdown(ui.plain(f"{row['problem']}: {row['first']:.3f} → {row['second']:.3f}"))
        selection.link("problems", "Open this problem", benchmark=one.benchmark, problem=row["problem"])


def page() -> None:
    """Shows the Compare page."""
    st.header("Compare")
    if not ui.found().runs:
        ui.empty("No run can be shown: what is not shown is named above the page, with the reason.")
        return
    runs = choose_runs()
    part = selection.segments("What", list(PARTS), "part", label_visibility="collapsed")
    if not runs:
        ui.empty("No run is chosen.")
        return
    PARTS[part](runs)


PARTS: dict[str, Callable[[Sequence[RunEntry]], None]] = {
    "Curves": curves,
    "Metrics": metrics,
    "Schedules": schedules,
    "Parameters": parameters,
    "Problems": by_problem,
}
page()
