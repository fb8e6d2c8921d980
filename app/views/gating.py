"""The Gating page: how often the gate is open, the KL inside and outside it, and what it keeps out."""

import altair as alt
import pandas as pd
import streamlit as st

from app import charts, difficulty, gates, selection, store, ui
from app.gates import Kind
from app.sources import RunEntry
from sdpg.colours import smooth, smoothing_width

INSIDE, OUTSIDE = "inside", "outside"
PLACES = {INSIDE: 3, OUTSIDE: 4}  # positions of blue and vermilion in the palette


def explain(run: RunEntry, its: Kind) -> None:
    """Explains the gate of this method, and what is shown where it has none."""
    name = run.title.rsplit(", seed", 1)[0]
    if its.distils and its.own:
        text = f"{name} has a gate of its own ({its.gate}), whose code is not run here: what follows is on record."
    elif its.distils and not its.known:
        text = f"{name} has the gate {its.gate}, which this version does not know: what follows is what was recorded."
    elif its.distils and its.keeps_out:
        return
    elif its.distils:
        text = f"{name} distils every rollout (gate: {its.gate}): all are inside, and nothing is kept out."
    elif its.rlsd:
        text = (f"{name} has no gate: the teacher weighs the tokens of every rollout. Shown is what the positive gate "
                "would be; KL is from the diagnostic pass, which changes no training.")  # fmt: skip
    else:
        text = (f"{name} does not distil. Shown is what the positive gate would be; KL is from the diagnostic pass, "
                "which changes no training.")  # fmt: skip
    ui.empty(text)


def numbers(index: pd.DataFrame, never: pd.DataFrame) -> None:
    """Shows four numbers over the whole record."""
    recorded = index["kl_to_teacher"].notna()
    inside = index["gate"] > 0
    kl = index.loc[recorded].groupby(inside[recorded])["kl_to_teacher"].mean()
    share = gates.excluded_share(index)
    problems = index["problem_id"].nunique()
    first, second, third, fourth = st.columns(4)
    first.metric("Gate open", f"{inside.mean():.0%}", help=f"Of {len(index):,} rollouts on record")
    second.metric("Mean KL inside", f"{kl[True]:.3f}" if True in kl.index else "–",
                  help=f"Nats per token, {int((recorded & inside).sum()):,} recorded rollouts")  # fmt: skip
    third.metric("Mean KL outside", f"{kl[False]:.3f}" if False in kl.index else "–",
                 help=f"Nats per token, {int((recorded & ~inside).sum()):,} recorded rollouts")  # fmt: skip
    fourth.metric("KL kept out", f"{share:.0%}" if share is not None else "–",
                  help="Share of the recorded KL, summed over tokens, on rollouts whose gate is closed")  # fmt: skip
    st.caption(f"{len(never):,} of {problems:,} problems on record were never inside the gate.")


def rates(run: RunEntry) -> None:
    """Shows the gate rate at every step, smoothed, with the share of groups without variance."""
    table = store.metrics(run)
    names = {"gate_rate": "gate open", "zero_variance_groups": "groups without variance"}
    width = smoothing_width(len(table))
    parts = [
        pd.DataFrame({"step": table["step"], "value": smooth(table[column].to_numpy(dtype=float), width),
                      "raw": table[column], "series": name})
        for column, name in names.items() if column in table
    ]  # fmt: skip
    if not parts:
        ui.empty("metrics.csv has no column gate_rate.")
        return
    lines = pd.concat(parts, ignore_index=True)
    shown = [(name, place) for (column, name), place in zip(names.items(), (3, 0), strict=True) if column in table]
    styles = charts.styles([name for name, _ in shown], [place for _, place in shown])
    st.altair_chart(charts.lines(lines, styles, y="share", title="Gate rate", form=".0%", zero=True, height=260),
                    width="stretch")  # fmt: skip
    st.html(charts.legend(styles))
    st.caption(f"Of all rollouts of a step; moving mean of {width} steps, the steps themselves faint.")


def divergence(index: pd.DataFrame) -> None:
    """Shows KL inside and outside the gate at recorded steps, with intervals and the number of rollouts per point."""
    table = gates.divergences(index)
    if table.empty:
        ui.empty("No KL was recorded: train.record_rows says on how many rollouts of a recorded step it is.")
        return
    names = [name for name in (INSIDE, OUTSIDE) if name in set(table["where"])]
    colours = alt.Color("where:N", scale=alt.Scale(domain=names, range=[ui.colour(PLACES[name]) for name in names]),
                        legend=None)  # fmt: skip
    table["jittered"] = table["step"] + table["where"].map({INSIDE: -0.35, OUTSIDE: 0.35})
    across = alt.X("jittered:Q", title="training step", scale=alt.Scale(nice=False),
                   axis=alt.Axis(tickMinStep=1, grid=False, format="d"))  # fmt: skip
    up = alt.Y("value:Q", title="nats per token", scale=alt.Scale(zero=True))
    tips = [alt.Tooltip("step:Q", title="step"), alt.Tooltip("where:N", title="gate"),
            *[alt.Tooltip(f"{name}:Q", title=title, format=".3f") for name, title in
              (("value", "mean KL"), ("low", "95% from"), ("high", "to"))],
            alt.Tooltip("rollouts:Q", title="rollouts")]  # fmt: skip
    base = alt.Chart(table)
    layers = [
        base.mark_rule(opacity=0.55, strokeWidth=2).encode(across, alt.Y("low:Q"), alt.Y2("high:Q"), colours),
        base.mark_line(strokeWidth=2).encode(across, up, colours),
        base.mark_point(filled=True, opacity=1).encode(
            across, up, colours, tooltip=tips,
            size=alt.Size("rollouts:Q", scale=alt.Scale(range=[30, 160], domainMin=0), legend=None),
        ),
    ]  # fmt: skip
    st.altair_chart(alt.layer(*layers).properties(
        height=260, **charts.titled("KL to teacher, inside and outside the gate")
    ), width="stretch")  # fmt: skip
    st.html(charts.legend(charts.styles(names, [PLACES[name] for name in names])))
    counts = table.groupby("where")["rollouts"]
    said = "; ".join(f"{name}: {counts.min()[name]}–{counts.max()[name]} rollouts a step" for name in names)
    st.caption(f"Mean over recorded rollouts of each one's mean per token. {said} (size of the points); bars: 95% "
               f"intervals over rollouts, from {gates.FEWEST} up.")  # fmt: skip


def kept_out(run: RunEntry, index: pd.DataFrame) -> None:
    """Lists rollouts with high KL and a closed gate."""
    st.subheader("What the gate keeps out")
    table = gates.highest_outside(index)
    if table.empty:
        ui.empty("No rollout with a recorded KL has a closed gate.")
        return
    shown = pd.DataFrame({
        "step": table["step"], "group": table["group"], "sibling": table["sibling"],
        "problem": ui.texts(table["problem_id"]), "KL": table["kl_to_teacher"], "status": table["status"],
        "answer": ui.texts(table["extracted_answer"]),
        "gold": ui.texts(table["gold"]), "advantage": table["advantage"], "tokens": table["length"],
    })  # fmt: skip
    rows = table.to_dict("records")
    selection.pick_row(
        shown, "kept_out", height=330, placeholder="–", picked=lambda at: selection.go(
            "rollout", run=run.id, **{name: rows[at][name] for name in ("step", "group", "sibling")}
        ),
        column_config={
            "KL": st.column_config.ProgressColumn("KL to teacher", format="%.3f", min_value=0,
                                                  max_value=float(table["kl_to_teacher"].max())),
            "advantage": st.column_config.NumberColumn(format="%+.3f"),
        },
    )  # fmt: skip
    why = "the teacher disagrees, and is not listened to" if gates.kind(run).distils else "the teacher would disagree"
    st.caption(f"{len(table):,} recorded rollouts with a closed gate, the highest KL first: here {why}. Select one to "
               "see where.")  # fmt: skip


def never(run: RunEntry, index: pd.DataFrame, table: pd.DataFrame) -> None:
    """Lists problems that were never inside the gate, and why."""
    st.subheader("Problems never inside")
    if table.empty:
        ui.empty("Every problem on record was inside the gate at least once.")
        return
    reasons = table["reason"].value_counts()
    st.markdown(" · ".join(f"**{count:,}** {ui.plain(why)}" for why, count in reasons.items())
                + f", of {index['problem_id'].nunique():,} problems on record")  # fmt: skip
    shown = pd.DataFrame({
        "problem": ui.texts(table["problem_id"]), "groups": table["groups"], "rollouts": table["rollouts"],
        "correct": table["correct"], "why": table["reason"], "last step": table["last"],
    })  # fmt: skip
    rows = table.to_dict("records")
    selection.pick_row(
        shown, "never", height="content" if len(shown) <= 8 else 330, picked=lambda at: selection.go(
            "rollouts", run=run.id, step=rows[at]["last"], group=rows[at]["group"], sibling=None
        ),
        column_config={"correct": st.column_config.NumberColumn(format="percent")},
    )  # fmt: skip
    st.caption("Select a problem to read its last group.")


def by_difficulty(run: RunEntry, index: pd.DataFrame) -> None:
    """Shows gate, variance and distilled KL by difficulty, over the whole run and over its steps."""
    st.subheader("By difficulty")
    families = difficulty.families_of(run)
    kinds = (difficulty.ACCURACY, difficulty.LENGTH, *((difficulty.FAMILY,) if families else ()))
    with st.container(horizontal=True, vertical_alignment="bottom"):
        by = selection.segments("By", kinds, "bins", label_visibility="collapsed")
    if by == difficulty.FAMILY:
        bins = difficulty.by_family(index, families)
    else:
        bins = difficulty.by_accuracy(index) if by == difficulty.ACCURACY else difficulty.by_length(index)
    whole, spans = difficulty.table(index, bins), difficulty.table(index, bins, over_time=True)
    order = [str(name) for name in bins.cat.categories if name in set(whole["bin"])]
    for table in (whole, spans):
        table["bin"] = ui.texts(table["bin"])
    styles = charts.styles([ui.printable(name) for name in order])
    drawn = [name for name in difficulty.MEASURES if whole[name].notna().any()]
    for place, name in zip(ui.grid(len(drawn)), drawn, strict=True):
        with place:
            st.altair_chart(charts.bars(whole, styles, name, by, difficulty.MEASURES[name]), width="stretch")
    st.html(charts.legend(styles))
    over = {**difficulty.MEASURES, "share": "share of the rollouts"}
    shown = [name for name in (*drawn, "share") if spans.groupby("bin")[name].count().max() > 1]
    for place, name in zip(ui.grid(len(shown), 2), shown, strict=True):
        with place:
            lines = spans.rename(columns={"bin": "series"}).assign(value=spans[name]).dropna(subset=["value"])
            form = ".3f" if name == "distilled" else ".0%"
            st.altair_chart(charts.lines(lines[["step", "value", "series"]], styles, title=f"{over[name]}, over time",
                                         points=True, form=form, zero=True), width="stretch")  # fmt: skip
    known = "" if families else f" Families need the data that the run was trained on ({difficulty.PREPARED})."
    st.caption(ui.plain(f"Over time: {difficulty.SPANS} spans of steps at most, each at its middle. Distilled KL: gate "
                        f"times KL to the teacher, mean over the {int(whole['recorded'].sum()):,} rollouts on which KL "
                        f"was recorded.{known}"))  # fmt: skip


st.header("Gating")
with ui.guard():
    run = ui.choose_run()
    its = gates.kind(run)
    explain(run, its)
    index, notices = store.index(run)
    for notice in notices:
        st.warning(ui.plain(notice), icon=":material/warning:")
    if index.empty:
        with ui.guard():
            rates(run)
        ui.empty(f"{run.name} has no rollouts on record, so that there is no more to show. Training writes them:",
                 f"dvc repro train@{run.name}")  # fmt: skip
    else:
        outside = gates.never_inside(index)
        numbers(index, outside)
        left, right = st.columns(2)
        with left, ui.guard():
            rates(run)
        with right:
            divergence(index)
        by_difficulty(run, index)
        kept_out(run, index)
        never(run, index, outside)
