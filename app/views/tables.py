"""The Tables page: methods × benchmarks of one place's finished runs, and the paper's numbers under their own names."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import accuracy, cells, charts, selection, ui
from app.accuracy import Gathered
from app.sources import RunEntry
from sdpg.params import SyntheticSource
from sdpg.results import rendering
from sdpg.results.paper import TABLES
from sdpg.results.runs import Results
from sdpg.results.tables import FinalRow, MainRow, final_json, main_json

LARGER_SAMPLES, LAST = "larger samples", "last evaluation"  # the names on the Problems page
TRAINING, DIFFERENCE, LARGER = "Last, Best, Selected", "Difference to GRPO", "Larger samples"
Cell = tuple[str, str]  # (method, benchmark)


def choices() -> Gathered | None:
    """Lets the reader choose place and seeds, and returns their runs; None where nothing is finished."""
    places = accuracy.by_place(ui.found())
    if not places:
        ui.empty("No run is finished yet, and tables need finished runs. Overview shows progress; this makes some:",
                 "sdpg repro")  # fmt: skip
        return None
    row = st.container(horizontal=True)
    place = next(iter(places))
    if len(places) > 1:
        with row:
            place = selection.choose("Runs from", list(places), "place", first=_place_of_run(places), width=260)
    runs = places[place]
    seeds = sorted({run.seed for run in runs})
    if len(seeds) > 1:
        with row:
            chosen = selection.choose_many("Seeds, averaged", [str(seed) for seed in seeds], "seeds",
                                           first=[str(seed) for seed in seeds], width=260)  # fmt: skip
        seeds = [int(seed) for seed in chosen] or seeds
    gathered = accuracy.gather(runs, seeds)
    if gathered.left_out:
        lines = [f"- {ui.plain(line)}" for line in gathered.left_out]
        st.warning("\n".join(["Not in the tables:", "", *lines]), icon=":material/warning:")
    return gathered


def _place_of_run(places: Mapping[str, Sequence[RunEntry]]) -> str | None:
    chosen = ui.found().runs.get(st.query_params.get("run", ""))
    key = (chosen.place.key or accuracy.WORKSPACE) if chosen else None
    return key if key in places else None


def about(gathered: Gathered, results: Results) -> None:
    """Says in one line what was run, on how many problems."""
    params = results.params
    runs = [run for entries in gathered.runs.values() for run in entries]
    commits = sorted({str((run.config.get("git") or {}).get("commit") or "unknown")[:8] for run in runs})
    dirty = any((run.config.get("git") or {}).get("dirty") for run in runs)
    steps = sorted({run.last_step for entries in results.runs.values() for run in entries})
    seeds = params.run.seeds
    parts = [
        f"profile {params.profile}", f"preset {params.preset}",
        f"commit {', '.join(commits)}{' with uncommitted changes' if dirty else ''}",
        f"{', '.join(map(str, steps))} steps", f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}",
    ]  # fmt: skip
    text = " · ".join(parts)
    made = [entry.title for entry in params.data.benchmarks.values() if isinstance(entry.source, SyntheticSource)]
    if made:
        text += f". {', '.join(made)}: synthetic problems of the tiny world, not a public benchmark"
    st.caption(ui.plain(text))


def grid(
    numbers_of: Mapping[Cell, Mapping[str, str]], methods: Mapping[str, str], benchmarks: Mapping[str, str], key: str,
    answers: str, runs: Mapping[str, Sequence[RunEntry]], numbers: Sequence[str],
) -> None:  # fmt: skip
    """Shows methods × benchmarks with several numbers in each; a click on one leads to the problems behind it."""
    columns, behind = cells.column_names(benchmarks, numbers)
    rows = [
        [ui.printable(title)]
        + [numbers_of.get((method, benchmark), {}).get(number, "–") for benchmark in benchmarks for number in numbers]
        for method, title in methods.items()
    ]
    # The hidden index counts as the first column.
    config = {at + 2: st.column_config.TextColumn(alignment="right") for at in range(len(behind))}
    config[1] = st.column_config.TextColumn(pinned=True)
    st.dataframe(
        pd.DataFrame(rows, columns=columns), hide_index=True, key=key, selection_mode="single-cell",
        on_select=lambda: _open(key, list(methods), behind, answers, runs), column_config=config, height="content",
    )  # fmt: skip


def _open(
    key: str, methods: Sequence[str], behind: Mapping[str, str], answers: str, runs: Mapping[str, Sequence[RunEntry]]
) -> None:
    """Goes to the problems behind a clicked cell."""
    cells_chosen: list[tuple[int, str]] = st.session_state[key]["selection"]["cells"]
    for row, column in cells_chosen[:1]:
        if column in behind and 0 <= row < len(methods):
            selection.go("problems", **cells.problems_of(methods[row], behind[column], answers, runs))


def in_training(gathered: Gathered, results: Results, rows: Sequence[MainRow]) -> None:
    """Shows Last with its interval, Best and Selected."""
    confidence = f"{results.params.report.confidence:.0%}"
    last, best, selected = f"Last ({confidence} interval)", "Best*", "Selected"
    numbers: dict[Cell, dict[str, str]] = {}
    for row in rows:
        shown = {last: f"{row.last:.3f} ({rendering.limits(row.ci_low, row.ci_high)})"}
        if row.seeds:
            shown |= {best: f"{row.best:.3f}", selected: f"{row.selected:.3f}"}
        numbers[row.method, row.benchmark] = shown
    titles = {row.method: row.title for row in rows}
    grid(numbers, titles, results.benchmarks, "table_training", LAST, gathered.runs, (last, best, selected))
    sizes = sorted({f"{row.problems} × {row.samples}" for row in rows if row.seeds})
    st.caption(
        f"Accuracy, mean over seeds; {', '.join(sizes)} problems × samples a seed. Click a number for the problems "
        "behind it. **\\*Best is selected on the test set**, so it flatters; Selected is the step that is best on "
        "validation."
    )


def differences(results: Results, rows: Sequence[MainRow]) -> None:
    """Shows Last minus GRPO's, paired by problem."""
    paired = [row for row in rows if row.difference is not None]
    if not paired:
        ui.empty("GRPO is not among these runs, or is alone, so that there is nothing to compare with it.")
        return
    places = {name: place for place, name in enumerate(results.params.methods)}
    for benchmark, title in results.benchmarks.items():
        shown_rows = [row for row in paired if row.benchmark == benchmark]
        table = pd.DataFrame(
            [{"row": row.title, "series": row.title, "value": row.difference, "low": row.difference_low,
              "high": row.difference_high} for row in shown_rows]
        )  # fmt: skip
        shown = charts.styles([row.title for row in shown_rows], [places[row.method] for row in shown_rows])
        reach = max(max(abs(row.difference_low or 0), abs(row.difference_high or 0)) for row in paired) * 1.05
        st.altair_chart(
            charts.intervals(table, shown, x="accuracy minus GRPO's", title=title, form="+.3f", reference=0.0,
                             domain=(-reach, reach), row_height=42),
            width="stretch",
        )  # fmt: skip
    header = rendering.PAIRED_HEADER
    lines = [[ui.printable(cell) for cell in texts] for row in paired if (texts := rendering.paired_cells(row))]
    right = {name: st.column_config.TextColumn(alignment="right") for name in header[2:6]}
    st.dataframe(pd.DataFrame(lines, columns=list(header)), hide_index=True, column_config=right, height="content")
    st.caption(
        f"Paired by problem, seeds averaged first; {results.params.report.confidence:.0%} intervals, conditional on "
        f"the trained policies. p from sign-flip permutations; Holm's adjustment for {len(paired)} comparisons."
    )


def larger(gathered: Gathered, results: Results) -> list[FinalRow]:
    """Shows larger samples of the final policies, and of the base."""
    rows, without = accuracy.final_table(gathered)
    if without:
        st.warning(ui.plain(f"Without a final evaluation (stage evaluate): {', '.join(without)}"))
    if not rows:
        return rows
    mean = f"mean@{min(row.samples for row in rows)}"
    sizes = rendering.shared_sizes(rows)
    top = [f"pass@{sizes[-1]}"] if sizes else []
    numbers = (mean, *top, "Greedy", "Gain over base")
    numbers_of: dict[Cell, dict[str, str]] = {}
    for row in rows:
        shown = {mean: f"{row.mean:.3f} ({rendering.limits(row.mean_low, row.mean_high)})",
                 "Greedy": rendering.number(row.greedy), "Gain over base": rendering.signed(row.gain)}  # fmt: skip
        if sizes:
            shown[top[0]] = rendering.number(row.pass_at[sizes[-1]].mean)
        numbers_of[row.method, row.benchmark] = shown
    titles = {row.method: row.title for row in rows}
    grid(numbers_of, titles, results.benchmarks, "table_larger", LARGER_SAMPLES, gathered.runs, numbers)
    st.caption(
        f"Another evaluation, of the policy after the last step: {rows[0].problems} problems × {rows[0].samples} "
        f"samples a seed at temperature {results.params.evaluation.temperature:g}. Gains are paired by problem. The "
        "base as teacher is shown the hint: a ceiling, not a competitor."
    )
    return rows


def paper() -> None:
    """Shows the paper's Tables 1 and 2, which are of other models and other benchmarks."""
    st.subheader("Reported by the paper")
    for tab, table in zip(st.tabs([table.model for table in TABLES]), TABLES, strict=True):
        with tab:
            st.caption(ui.plain(table.label + "; Best is selected on the test set"))
            names = [(benchmark, kind) for benchmark in table.benchmarks for kind in ("Last", "Best*")]
            shown = pd.DataFrame(
                rendering.paper_cells(table), columns=pd.MultiIndex.from_tuples([("", "Method"), *names])
            )
            config = {at + 2: st.column_config.TextColumn(alignment="right") for at in range(len(names))}
            st.dataframe(shown, hide_index=True, column_config=config, height="content")


def measured(gathered: Gathered, results: Results) -> None:
    """Shows our tables, one at a time."""
    st.subheader("Measured here")
    about(gathered, results)
    view = selection.segments("Numbers", (TRAINING, DIFFERENCE, LARGER), "numbers", label_visibility="collapsed")
    json_rows: list[dict[str, Any]] = []
    if view == LARGER:
        json_rows = final_json(larger(gathered, results))
    else:
        rows = accuracy.main_table(gathered)
        json_rows = main_json(rows)
        if view == DIFFERENCE:
            differences(results, rows)
        else:
            in_training(gathered, results, rows)
    if json_rows:
        name = "larger-samples.csv" if view == LARGER else "table.csv"
        st.download_button("All numbers, CSV", rendering.csv_table(json_rows), name, "text/csv",
                           icon=":material/download:", on_click="ignore", type="tertiary")  # fmt: skip


st.header("Tables")
with ui.guard():
    found = choices()
    if found is not None:
        if found.results is None:
            ui.empty("No method has complete runs of all these seeds.")
        else:
            measured(found, found.results)
paper()
