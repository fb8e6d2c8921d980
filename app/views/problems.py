"""The Problems page: methods × problems of a benchmark, pass@k, and one problem through training to its answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pyarrow.compute as pc
import streamlit as st

from app import accuracy, aligned, audits, charts, problem_kinds, selection, store, training_problems, ui
from app.accuracy import Solved
from app.sources import RunEntry
from sdpg.records.schemas import BASE, VALIDATION
from sdpg.results.statistics.at_k import pass_at_every_k
from sdpg.results.statistics.estimates import mean_interval
from sdpg.results.tables import pass_sizes

LARGER, LAST = "larger samples", "last evaluation"
METHODS, RUNS = "methods", "runs"
TRAINING = "training"  # the name in the URL of the training problems, beside the benchmarks
ROWS = 300  # the number of problems of a list that are shown
BASE_COLOUR, BASE_DASH = "#8a8f98", [1, 2]


def style_of(rows: Sequence[Solved], runs: Sequence[RunEntry]) -> list[charts.Style]:
    """Returns colours and dashes as on the other pages: by a method's place in the parameters, a run's in the list."""
    places = accuracy.method_places(runs)
    order = [run.id for run in runs]
    where = [0 if row.key == BASE else places[row.key] if row.key in places else order.index(row.key) for row in rows]
    styles = charts.styles([row.title for row in rows], where)
    return [
        style._replace(colour=BASE_COLOUR, dash=BASE_DASH) if row.key == BASE else style
        for row, style in zip(rows, styles, strict=True)
    ]


def controls() -> tuple[list[RunEntry], str, str, str] | None:
    """Returns runs of one place, benchmark, kind of answers, methods or runs; None where nothing is finished."""
    places = accuracy.by_place(ui.found())
    if not places:
        ui.empty(
            "No run is finished yet. Rollouts shows those of a run in progress; this makes finished ones:", "sdpg repro"
        )
        return None
    bar = st.columns([3, 3, 3, 2], vertical_alignment="bottom")
    run = ui.found().runs.get(st.query_params.get("run", ""))
    own = (run.place.key or accuracy.WORKSPACE) if run else None
    place = next(iter(places))
    titles: dict[str, str] = {}
    with bar[0]:
        if len(places) > 1:
            place = selection.choose("Runs from", list(places), "place", first=own)
        runs = places[place]
        for each in runs:
            titles |= store.benchmarks(each)
        titles |= {VALIDATION: "Validation", TRAINING: "Training problems"}
    with bar[0] if len(places) == 1 else bar[1]:
        benchmark = selection.choose("Problems of", list(titles), "benchmark", shown=titles.__getitem__)
    if benchmark == TRAINING:
        with bar[2]:
            ids = [each.id for each in runs]
            known = ui.found().runs
            picked = selection.choose("Run", ids, "run", shown=lambda id: known[id].label, strict=True)
        return [known[picked]], benchmark, LARGER, METHODS
    with bar[2]:
        answers = selection.segments("Answers of", (LARGER, LAST), "answers", first=_most(runs))
    with bar[3]:
        rows = selection.segments("Rows", (METHODS, RUNS), "rows")
    return runs, benchmark, answers, rows


def _most(runs: Sequence[RunEntry]) -> str:
    return LARGER if any(run.final for run in runs) else LAST


def heatmap(rows: Sequence[Solved], table: pd.DataFrame, problem: str | None, answers: str) -> None:
    """Shows the share of right answers, dark for never and bright for always; a click chooses the problem."""
    titles = {row.key: ui.printable(row.title) for row in rows}
    samples = {row.key: row.samples for row in rows}
    long = table.rename_axis("problem").reset_index().melt("problem", var_name="key", value_name="accuracy").dropna()
    long["row"], long["answers"] = long["key"].map(titles), long["key"].map(samples)
    long["shown"] = ui.texts(long["problem"])
    order = [titles[row.key] for row in rows]
    width = alt.X("problem:N", sort=list(table.index), title=f"{len(table)} problems, the easiest at the left",
                  axis=alt.Axis(labels=False, ticks=False))  # fmt: skip
    pick = alt.selection_point(name="pick", fields=["problem"], on="click", empty=False)
    squares = (
        alt.Chart(long)
        .mark_rect(cursor="pointer")
        .encode(
            width,
            alt.Y("row:N", sort=order, title=None, axis=alt.Axis(ticks=False, domain=False, labelLimit=220)),
            alt.Color("accuracy:Q", title="share right", scale=alt.Scale(scheme="cividis", domain=[0, 1]),
                      legend=alt.Legend(format=".0%", orient="top", gradientLength=180, titleOrient="left")),
            stroke=alt.condition(pick, alt.value("#ff5a36"), alt.value(None)),
            strokeWidth=alt.value(2),
            tooltip=[alt.Tooltip("shown:N", title="problem"), alt.Tooltip("row:N", title=" "),
                     alt.Tooltip("accuracy:Q", title="share right", format=".1%"),
                     alt.Tooltip("answers:Q", title="answers")],
        )
        .add_params(pick)
    )  # fmt: skip
    layers: list[alt.Chart] = [squares]
    if problem in table.index:
        mark = pd.DataFrame({"problem": [problem]})
        layers.append(
            alt.Chart(mark).mark_point(shape="triangle-down", filled=True, size=90, color="#d5432a", yOffset=-7)
            .encode(width, y=alt.value(0))
        )  # fmt: skip
    key = "heatmap"
    st.altair_chart(
        alt.layer(*layers).properties(height=24 * len(rows) + 130).configure_view(strokeWidth=0), width="stretch",
        on_select=lambda: _clicked(key), selection_mode="pick", key=key,
    )  # fmt: skip
    sizes = sorted({row.samples for row in rows})
    st.caption(f"Accuracy over {', '.join(map(str, sizes))} answers a problem ({ui.plain(answers)}, seeds together). "
               "Click a square to follow its problem below.")  # fmt: skip


def _clicked(key: str) -> None:
    picked = st.session_state[key]["selection"].get("pick") or []
    if picked:
        selection.put(problem=picked[0]["problem"])


def pass_curves(rows: Sequence[Solved], styles: Sequence[charts.Style], focus: str | None) -> None:
    """Shows pass@k with intervals by problem: a band for one row, in the tooltip for all."""
    points = []
    for row in rows:
        fewest = min(counts.samples for counts in row.counts)
        values = np.mean([pass_at_every_k(counts.samples, counts.correct)[:, :fewest] for counts in row.counts], axis=0)
        for k in pass_sizes(fewest):
            interval = mean_interval(values[:, k - 1], 0.95)
            points.append({"series": ui.printable(row.title), "key": row.key, "k": k, "value": interval.mean,
                           "low": interval.low, "high": interval.high})  # fmt: skip
    table = pd.DataFrame(points)
    names = [style.name for style in styles]
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=[s.colour for s in styles]), legend=None)
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=names, range=[s.dash for s in styles]), legend=None)
    across = alt.X("k:Q", title="answers k", scale=alt.Scale(type="log", base=2),
                   axis=alt.Axis(values=sorted(set(table["k"])), format="d"))  # fmt: skip
    up = alt.Y("value:Q", title="pass@k", scale=alt.Scale(zero=False))
    tips = [alt.Tooltip("series:N", title=" "), alt.Tooltip("k:Q", title="k"),
            *[alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in
              (("value", "pass@k"), ("low", "95% from"), ("high", "to"))]]  # fmt: skip
    band = alt.Chart(table[table["key"] == focus]).mark_area(opacity=0.18)
    lines = alt.Chart(table)
    st.altair_chart(
        alt.layer(
            band.encode(across, alt.Y("low:Q", title="pass@k", scale=alt.Scale(zero=False)), alt.Y2("high:Q"), colour),
            lines.mark_line(strokeWidth=2).encode(across, up, colour, dash),
            lines.mark_point(filled=True, size=45, opacity=1).encode(across, up, colour, tooltip=tips),
        ).properties(height=300),
        width="stretch",
    )  # fmt: skip
    whose = next((row.title for row in rows if row.key == focus), "")
    st.caption(ui.plain(f"The unbiased estimate, mean over problems and seeds. Band: 95% interval by problem of "
                        f"{whose}; hover a point for the others'."))  # fmt: skip


def lists(
    rows: Sequence[Solved], table: pd.DataFrame, statements: Mapping[str, str], benchmark: str, problem: str
) -> None:  # fmt: skip
    """Lists the hardest problems, those on which two rows differ the most, or a kind of :mod:`app.problem_kinds`;
    ``problem`` is the chosen one."""
    titles = {row.key: row.title for row in rows}
    kinds = ("hardest", *(("most different",) if len(rows) > 1 else ()), *problem_kinds.KINDS)
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    with bar:
        kind = selection.segments("Problems", kinds, "sorted", label_visibility="collapsed")
    if kind in problem_kinds.KINDS:
        problem_kinds.show(kind, rows, table, statements, benchmark, problem)
        return
    shown = pd.DataFrame({"problem": table.index, "statement": [statements.get(name, "") for name in table.index]})
    shown["mean"] = table.mean(axis=1).to_numpy()
    if kind == "hardest":
        shown = shown.sort_values("mean", kind="stable")
        keys = list(table.columns)
    else:
        with bar:
            a = selection.choose("A", list(titles), "a", shown=titles.__getitem__, first=list(titles)[-1], width=220)
            b = selection.choose("B", list(titles), "b", shown=titles.__getitem__, width=220)
        keys = list(dict.fromkeys([a, b]))
        shown["A − B"] = (table[a] - table[b]).to_numpy()
        shown = shown.sort_values("A − B", key=lambda values: -values.abs(), kind="stable")
    for key in keys:
        shown[ui.printable(titles[key])] = 100 * table.loc[shown["problem"], key].to_numpy()
    shown = shown.head(ROWS)
    problems = list(shown["problem"])
    shown["problem"] = ui.texts(shown["problem"])
    shares = {ui.printable(titles[key]): st.column_config.NumberColumn(format="%.0f%%") for key in keys}
    selection.pick_row(
        shown, f"problems-{kind}", lambda at: selection.put(problem=problems[at]), height=330, placeholder="–",
        chosen=problems.index(problem) if problem in problems else None,
        column_config={"statement": st.column_config.TextColumn(width="medium"),
                       "mean": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
                       "A − B": st.column_config.NumberColumn(format="%+.3f"), **shares},
    )  # fmt: skip
    st.caption("Select a row to follow the problem above.")


def statements_of(runs: Sequence[RunEntry], benchmark: str) -> dict[str, str]:
    """Returns problem → its prompt, with chat markers, from the first evaluation that can be read."""
    for run in runs:
        steps = store.evaluation_steps(run)
        if steps:
            table = store.evaluation(run, max(steps))
            rows = table.filter(pc.equal(table["benchmark"], benchmark)).select(["problem_id", "prompt"])
            return distinct({row["problem_id"]: row["prompt"] or "" for row in rows.to_pylist()})
    return {}


def distinct(prompts: Mapping[str, str]) -> dict[str, str]:
    """Returns the prompts without their common beginning and end, cut at whole words: the part that differs."""
    texts = list(prompts.values())
    start = end = 0
    if len(texts) > 1:
        start = _alike(texts)
        start = max(texts[0].rfind(space, 0, start) for space in " \n") + 1
        rest = [text[start:][::-1] for text in texts]
        end = _alike(rest)
        end = max(rest[0].rfind(space, 0, end) for space in " \n") + 1
    return {name: ui.printable(text[start : len(text) - end].strip()) for name, text in prompts.items()}


def _alike(texts: Sequence[str]) -> int:
    """Returns the number of characters with which all texts begin."""
    first, last = min(texts), max(texts)
    return next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def through_training(
    runs: Sequence[RunEntry], rows: Sequence[Solved], styles: Sequence[charts.Style], benchmark: str, problem: str,
    each_run: bool,
) -> None:  # fmt: skip
    """Shows the accuracy on the problem at each evaluation, a line per method or run; the base is at step 0."""
    points, notices = accuracy.through_training(runs, benchmark, problem)
    for notice in notices:
        st.warning(ui.plain(notice))
    if points.empty:
        ui.empty("This problem was not evaluated in training.")
        return
    by = "run" if each_run else "method"
    titles = {row.key: style.name for row, style in zip(rows, styles, strict=True)}
    lines = points.groupby([by, "step"], as_index=False)["accuracy"].mean()
    lines = lines[lines[by].isin(titles)]
    table = pd.DataFrame({"step": lines["step"], "value": lines["accuracy"], "series": lines[by].map(titles)})
    shown = list(styles)
    base = next((row for row in rows if row.key == BASE), None)
    if base and problem in base.by_problem:
        value, last = base.by_problem[problem], int(table["step"].max())
        flat = [{"step": step, "value": value, "series": titles[BASE]} for step in sorted({0, *table["step"], last})]
        table = pd.concat([table, pd.DataFrame(flat)], ignore_index=True)
    st.altair_chart(charts.lines(table, shown, y="share right", points=True, form=".0%", zero=True, height=260),
                    width="stretch")  # fmt: skip
    st.caption(f"{int(points['samples'].iloc[0])} answers a seed at each evaluation: a single problem's line is noisy.")


def answers_of(
    rows: Sequence[Solved], benchmark: str, problem: str, answers: str
) -> tuple[pd.DataFrame, str | None, str | None]:
    """Returns every answer to a problem (who, sample, status, answer, tokens, completion), its gold answer, its
    prompt."""
    parts: list[dict[str, Any]] = []
    gold = prompt = None
    columns = ["method", "benchmark", "problem_id", "temperature", "sample", "status", "extracted_answer", "gold",
               "length", "prompt", "completion"]  # fmt: skip
    for row in rows:
        for run in row.runs or (None,):
            table = _table(run, rows, answers).select(columns)
            here = pc.and_(pc.equal(table["benchmark"], benchmark), pc.equal(table["problem_id"], problem))
            for answer in table.filter(here).to_pylist():
                if answer["temperature"] == 0 or (row.key == BASE and answer["method"] != BASE):
                    continue
                gold, prompt = answer["gold"], answer["prompt"] or prompt
                parts.append({"who": row.title, "key": row.key, "run": run.name if run else BASE,
                              **{name: answer[name] for name in ("sample", "status", "extracted_answer", "length",
                                                               "completion")}})  # fmt: skip
    return pd.DataFrame(parts), gold, prompt


def _table(run: RunEntry | None, rows: Sequence[Solved], answers: str) -> Any:
    if run is None:
        return store.base(next(each for row in rows for each in row.runs))
    return store.final(run) if answers == LARGER else store.evaluation(run, max(store.evaluation_steps(run)))


def votes(found: pd.DataFrame, rows: Sequence[Solved], gold: str | None) -> None:
    """Shows how often each answer was given, right ones first."""
    table = found.assign(
        right=found["status"] == "correct",
        says=[
            "(" + status.replace("_", " ") + ")" if pd.isna(answer) else ui.printable(str(answer))
            for answer, status in zip(found["extracted_answer"], found["status"], strict=True)
        ],
    )
    counts = table.groupby(["right", "says", "who"]).size().unstack("who", fill_value=0)
    counts = counts[[row.title for row in rows if row.title in counts.columns]]
    counts = counts.assign(all=counts.sum(axis=1)).sort_values(["right", "all"], ascending=[False, False])
    shown = counts.reset_index()
    shown["right"] = shown["right"].map({True: "●", False: "○"})
    shown = shown.rename(columns={"right": " ", "says": "answer"}).rename(columns=ui.printable)
    st.dataframe(shown.head(ROWS), hide_index=True, height="content" if len(shown) <= 8 else 320,
                 column_config={" ": st.column_config.TextColumn(width=40)})  # fmt: skip
    st.caption(ui.plain(f"Votes: answers and how often each was given. ● judged equal to the gold answer {gold}."))


def completions(found: pd.DataFrame, rows: Sequence[Solved]) -> None:
    """Shows the answers of one method in full, as text."""
    with st.expander("Read the answers", icon=":material/notes:", key="read", on_change="rerun") as opened:
        if not opened.open:
            return
        titles = {row.key: row.title for row in rows if row.key in set(found["key"])}
        whose = selection.choose("Answers of", list(titles), "whose", shown=titles.__getitem__,
                                 first=list(titles)[-1])  # fmt: skip
        chosen = found[found["key"] == whose]
        for row in store.plain_rows(chosen.head(24)):
            mark = "●" if row["status"] == "correct" else "○"
            st.caption(ui.plain(f"{row['run']} · sample {row['sample']} · {mark} {row['status']} · {row['length']} "
                                "tokens"))  # fmt: skip
            st.code(ui.printable((row["completion"] or "")[:4000]), language=None, wrap_lines=True)
        if len(chosen) > 24:
            st.caption(f"{len(chosen) - 24} more are in the files of the evaluation.")


def one_problem(
    runs: Sequence[RunEntry], rows: Sequence[Solved], styles: Sequence[charts.Style], table: pd.DataFrame,
    benchmark: str, answers: str, each_run: bool, problem: str,
) -> None:  # fmt: skip
    """Shows the chosen problem: statement, gold answer, accuracy through training, votes, answers."""
    found, gold, prompt = answers_of(rows, benchmark, problem, answers)
    left, right = st.columns([2, 3])
    with left:
        st.code(ui.printable((prompt or "(the prompt was not recorded)")[:4000]), language=None, wrap_lines=True)
        st.markdown(f"Gold answer **{ui.plain(gold)}**")
        st.html(charts.legend(styles))
    with right:
        through_training(runs, rows, styles, benchmark, problem, each_run)
    if not found.empty:
        votes(found, rows, gold)
        completions(found, rows)
        aligned.two_answers(found)


def benchmark_page(runs: list[RunEntry], benchmark: str, answers: str, each_run: bool) -> None:
    """Shows the heatmap, the chosen problem, pass@k and the lists."""
    source = accuracy.final_of(benchmark) if answers == LARGER else accuracy.last_of(benchmark)
    rows, notices = accuracy.solved(runs, benchmark, source, each_run)
    if notices:
        st.warning(ui.plain("; ".join(dict.fromkeys(notices))), icon=":material/warning:")
    if not any(row.runs for row in rows):
        ui.empty("No run of this place has such answers: try the last evaluation, or other problems. Larger samples "
                 "come from:", f"dvc repro evaluate@{runs[0].name}")  # fmt: skip
        return
    table = accuracy.matrix(rows)
    styles = style_of(rows, runs)
    statements = statements_of(runs, benchmark)
    above = st.container()
    hardest, means = str(table.index[-1]), table.mean(axis=1)
    problem = selection.choose("Problem", list(table.index), "problem", first=hardest,
                               shown=lambda name: f"{name} ({means[name]:.0%} right)")  # fmt: skip
    with above:  # the chart stands above the box that says what is chosen
        heatmap(rows, table, problem, answers)
    with ui.guard():
        one_problem(runs, rows, styles, table, benchmark, answers, each_run, problem)
    st.subheader("All problems")
    lists(rows, table, statements, benchmark, problem)
    st.subheader("pass@k")
    run = ui.found().runs.get(st.query_params.get("run", ""))
    keys = [row.key for row in rows]
    focus = next((key for key in (run.id, run.method) if key in keys), keys[-1]) if run else keys[-1]
    pass_curves(rows, styles, focus)
    st.html(charts.legend(styles))


st.header("Problems")
with ui.guard():
    chosen = controls()
    if chosen is not None:
        its, benchmark, answers, rows = chosen
        if benchmark == TRAINING:
            training_problems.show(its[0])
        else:
            benchmark_page(its, benchmark, answers, rows == RUNS)
        audits.show(its)
