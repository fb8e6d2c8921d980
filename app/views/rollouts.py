"""The Rollouts page: run → step → group of siblings → one rollout; filters, search, download."""

from collections.abc import Sequence
from typing import Any, Literal

import pandas as pd
import streamlit as st

from app import filters, live, math_text, rollout_list, selection, store, token_list, ui
from app.filters import Filter
from app.rollout_list import COLUMNS, GROUPS, ROLLOUTS, RUN, STEP, TOKENS, WITHIN, Query
from app.sources import RunEntry

SHOWN = ("step", "group", "sibling", "problem", "verdict", "answer", "gold", "advantage", "tokens", "gate", "KL")
MOST = 2_000  # the number of rollouts that are listed
CLIP = 1200  # the number of characters of a completion that are shown here
CARDS = 16  # the number of siblings whose completions are shown at once
LEGEND = "● correct, ○ wrong, ◌ no answer, ◍ truncated without an answer, ◔ timeout"


def filters_chosen(run: RunEntry, index: pd.DataFrame) -> Filter:
    """Returns the filters, which are behind one button; a label with their number would close it at each choice."""
    with st.popover("Filters", icon=":material/filter_list:"):
        flagged = selection.toggle("Only groups without variance", "flagged",
                                   help="All siblings have the same reward: every advantage is 0.")  # fmt: skip
        statuses = selection.choose_many("Status", ui.STATUSES, "status", placeholder="all")
        suspects = selection.choose_many("Only", list(filters.SUSPECTS), "only", placeholder="all")
        rewards = sorted({f"{value:g}" for value in index["reward"]}, key=float)
        reward = selection.choose_many("Reward", rewards, "reward", placeholder="all")
        tags = selection.choose_many("Tag", rollout_list.known_tags(run), "tag", placeholder="all")
        gate = selection.segments("Gate", ("any", "open", "closed"), "gate")
        left, right = st.columns(2)
        with left:
            shortest = selection.count("Tokens, from", "min_length")
        with right:
            longest = selection.count("Tokens, to", "max_length")
        low, high = selection.percentages(
            "KL to teacher, quantiles (%)", "kl",
            help="Of each rollout's mean, among the rollouts on which it was recorded; the others are left out.",
        )  # fmt: skip
    return Filter(tuple(statuses), tuple(map(float, reward)), gate, shortest, longest, (low / 100, high / 100), flagged,
                  tuple(suspects), tuple(tags))  # fmt: skip


def download(run: RunEntry, chosen: pd.DataFrame) -> None:
    """Shows buttons that make files of the rollouts that pass when they are clicked."""
    keys = chosen[["step", "group", "sibling"]]
    with st.popover("Download", icon=":material/download:", disabled=chosen.empty):
        st.caption(f"{len(chosen):,} rollouts, {int(chosen['length'].sum()):,} response tokens")
        tokens = st.toggle("With token signals in JSONL", value=True, help="About 250 bytes a token.")
        name = f"{run.name.replace('/', '-')}-rollouts"
        st.download_button("JSONL", lambda: filters.jsonl_of(run, keys, tokens), f"{name}.jsonl",
                           "application/jsonl", on_click="ignore", width="stretch")  # fmt: skip
        st.download_button("Parquet", lambda: filters.parquet_of(run, keys), f"{name}.parquet",
                           "application/vnd.apache.parquet", on_click="ignore", width="stretch")  # fmt: skip


def controls() -> tuple[Query, str] | None:
    """Returns what is listed, and whether by groups, rollouts or tokens; None without records."""
    row = st.columns([4, 3, 4, 2])
    with row[0]:
        run = ui.choose_run()
    steps = store.rollout_steps(run)
    if not steps:
        ui.empty(f"{run.name} has no rollouts on record. Training writes them:", f"dvc repro train@{run.name}")
        return None
    with row[2]:
        kind = selection.segments("Rows", (GROUPS, ROLLOUTS, TOKENS), "listing")
    with row[1]:
        whole = selection.segments("Listed", (STEP, RUN), "scope") == RUN
    step = None
    if not whole:
        with row[3]:
            step = selection.choose("Step", steps, "step", first=steps[-1])
    others = []
    if kind == ROLLOUTS:
        known = ui.found().runs
        others = selection.choose_many("And the rollouts of", [id for id in known if id != run.id], "with",
                                       shown=lambda id: known[id].label, placeholder="no other run")  # fmt: skip
    bar = st.container(horizontal=True, vertical_alignment="bottom")
    with bar:
        text = selection.text("Search", "q", type="search", label_visibility="collapsed",
                              placeholder="Search the text, whatever its case", icon=":material/search:")  # fmt: skip
        within = selection.segments("Search in", tuple(WITHIN), "within", label_visibility="collapsed")
        regular = selection.toggle("Regular expression", "regex")
        chosen = filters_chosen(run, store.index(run)[0])
    by, falling = order() if kind == ROLLOUTS else ("step", False)
    runs = rollout_list.with_runs(run, others)
    return Query(runs, step, chosen, text, WITHIN[within], regular, by, falling), kind


def order() -> tuple[str, bool]:
    """Lets the reader choose how single rollouts are sorted."""
    bar = st.columns([2, 2, 6], vertical_alignment="bottom")
    with bar[0]:
        by = selection.choose("Sort by", list(COLUMNS), "sort")
    with bar[1]:
        falling = selection.toggle("Largest first", "falling")
    return by, falling


def summary(scope: pd.DataFrame, chosen: pd.DataFrame) -> None:
    """Says in one line what is listed."""
    groups = scope.assign(flat=filters.without_variance(scope)).loc[chosen.index].drop_duplicates(
        ["run", "step", "group"])  # fmt: skip
    flagged = int(groups["flat"].sum())
    right = (chosen["status"] == "correct").mean() if len(chosen) else 0.0
    what = f"{len(chosen):,} of {len(scope):,} rollouts" if len(chosen) < len(scope) else f"{len(scope):,} rollouts"
    inside = (chosen["gate"] > 0).mean() if len(chosen) else 0.0
    parts = [
        f"**{what}** in {len(groups):,} groups", f"{right:.0%} correct", f"{flagged:,} groups without variance",
        f"gate open for {inside:.0%}",
        f"KL recorded on {int(chosen['kl_to_teacher'].notna().sum()):,}",
    ]  # fmt: skip
    st.markdown(" · ".join(parts))


def group_table(table: pd.DataFrame, whole: bool, current: tuple[int, int] | None) -> None:
    """Shows a row per group; selecting one shows its siblings."""
    shown = pd.DataFrame({
        "step": table["step"], "group": table["group"], "problem": ui.texts(table["problem_id"]),
        "siblings": table["marks"], "reward": table["reward"], "correct": table["correct"],
        "flag": table["flagged"].map({True: "no variance", False: ""}), "gate": table["gate"],
        "tokens": table["length"], "range": [f"{low}–{high}" for low, high in zip(table["shortest"], table["longest"],
                                                                                  strict=True)],
        "KL": table["kl"],
    })  # fmt: skip
    if not whole:
        shown = shown.drop(columns="step")
    where = [at for at, key in enumerate(zip(table["step"], table["group"], strict=True)) if key == current]
    selection.pick_row(
        shown, "groups", lambda at: selection.put(step=str(table["step"][at]), group=str(table["group"][at])),
        chosen=where[0] if where else None, height="content" if len(shown) <= 9 else 360, placeholder="–",
        column_config={
            "siblings": st.column_config.TextColumn(help=LEGEND),
            "reward": st.column_config.NumberColumn("mean reward", format="%.2f"),
            "correct": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
            "flag": st.column_config.TextColumn(width=95, help="all rewards are equal, every advantage is 0"),
            "gate": st.column_config.NumberColumn("gate open", format="percent"),
            "tokens": st.column_config.NumberColumn("mean tokens", format="%.0f"),
            "range": st.column_config.TextColumn("tokens", alignment="right"),
            "KL": st.column_config.NumberColumn("KL to teacher", format="%.3f", help="Mean of the siblings on which "
                                                "it was recorded, nats per token; empty without one"),
        },
    )  # fmt: skip
    st.caption(f"Siblings: {LEGEND}. Select a row to see them below.")


def flat_table(query: Query, chosen: pd.DataFrame) -> None:
    """Shows a row per rollout, sorted as the address says; selecting one opens it."""
    noted = [name for name in ("tags", "note") if chosen[name].astype(bool).any()]
    first = (*(("run",) if len(query.runs) > 1 else ()), *SHOWN, *noted)
    names = selection.choose_many("Columns", list(COLUMNS), "columns", first=first)
    rows = query.rows(chosen).head(MOST)
    _, links = rollout_list.neighbours(rows, dict.fromkeys(("run", "step", "group", "sibling")))
    shown = pd.DataFrame({name: rows[COLUMNS[name]] for name in names or first})
    if "tags" in shown:
        shown["tags"] = [", ".join(tags) or None for tags in shown["tags"]]
    for name in ("run", "problem", "answer", "gold", "tags", "note"):
        if name in shown:
            shown[name] = ui.texts(shown[name])
    if "verdict" in shown:
        shown["verdict"] = [f"{filters.MARKS.get(status, '?')} {status}" for status in shown["verdict"]]
    if "gate" in shown:
        shown["gate"] = (shown["gate"] > 0).map({True: "open", False: "closed"})
    carried = rollout_list.carried() | {"with": [run.id for run in query.runs] if len(query.runs) > 1 else None}
    selection.pick_row(
        shown, "rollouts", lambda at: selection.go("rollout", **carried, **links[at]),
        height="content" if len(shown) <= 16 else 600, placeholder="–",
        column_config={
            **{name: st.column_config.NumberColumn(format="%.3f") for name in ("KL", "entropy")},
            "reward": st.column_config.NumberColumn(format="%.2f"),
            "advantage": st.column_config.NumberColumn(format="%+.3f"),
        },
    )  # fmt: skip
    more = f" The first {MOST:,} of {len(chosen):,} are listed." if len(chosen) > MOST else ""
    st.caption(f"Select a rollout to open it down to the token; there, j and k go on to the next and back.{more}")


def current_group(index: pd.DataFrame, table: pd.DataFrame, step: int | None) -> tuple[int, int] | None:
    """Returns step and group that the address names, whether or not they are listed; otherwise the first listed."""
    listed = list(zip(table["step"], table["group"], strict=True))
    known = {(f"{at}", f"{group}"): (at, group) for at, group in zip(index["step"], index["group"], strict=True)}
    current = listed[0] if listed else None
    if "group" in st.query_params:
        asked = st.query_params.get("step", f"{step}"), st.query_params["group"]
        if asked not in known:
            selection.not_had("step and group", " and ".join(asked), "shown is the first group that is listed")
        current = known.get(asked, current)
    if current:
        selection.show(step=current[0], group=current[1])
    return current


def show_text(text: str, math: bool, height: int | Literal["content"] = "content") -> None:
    """Shows a text as it stands, or with its formulas rendered."""
    if math:
        with st.container(border=True, height=height):
            st.markdown(math_text.rendered(clipped(text)))
    else:
        st.code(clipped(text), language=None, wrap_lines=True, height=height)


def clipped(text: str) -> str:
    """Returns text that fits on a card, and says how much was cut."""
    text = ui.printable(text[: CLIP + 1])
    return text if len(text) <= CLIP else f"{text[:CLIP]} … (cut off here; Rollout shows all of it)"


def siblings(run: RunEntry, index: pd.DataFrame, step: int, group: int, passing: set[int]) -> None:
    """Shows one group: its problem, its siblings with their numbers, and their completions."""
    members = index[(index["step"] == step) & (index["group"] == group)].sort_values("sibling")
    rows = store.plain_rows(members)
    problem = str(rows[0]["problem_id"])
    st.subheader(ui.plain(f"Step {step}, group {group}: {problem}"))
    if members["reward"].nunique() == 1:
        st.warning("All rewards of this group are equal: no variance, every advantage is 0.",
                   icon=":material/horizontal_rule:")  # fmt: skip
    math = selection.toggle("Formulas rendered", "math", help="LaTeX in prompts and completions as formulas; the "
                            "tokens of a rollout always show the text as it stands.")  # fmt: skip
    written = filters.texts(run, step, group)
    if written:
        first = next(iter(written.values()))
        show_text(first["student_prompt"] or "", math)
        gold = ui.plain(rows[0]["gold"] or "–")
        st.markdown(f"Gold answer **{gold}**")
    shown = pd.DataFrame({
        "sibling": members["sibling"],
        "verdict": [f"{filters.MARKS.get(row['status'], '?')} {row['status']}" for row in rows],
        "answer": ui.texts(row["extracted_answer"] for row in rows),
        "reward": members["reward"], "advantage": members["advantage"], "tokens": members["length"],
        "gate": (members["gate"] > 0).map({True: "open", False: "closed"}), "KL": members["kl_to_teacher"],
        "entropy": members["entropy"],
        "text": [ui.printable((written.get(row["sibling"], {}).get("completion") or "")[:160]) for row in rows],
    })  # fmt: skip
    selection.pick_row(
        shown, "siblings", lambda at: selection.go("rollout", run=run.id, step=step, group=group,
                                                   sibling=rows[at]["sibling"]),
        height="content" if len(shown) <= 16 else 600, placeholder="–",
        column_config={
            "reward": st.column_config.NumberColumn(format="%.2f"),
            "advantage": st.column_config.NumberColumn(format="%+.3f"),
            "KL": st.column_config.NumberColumn("KL to teacher", format="%.3f", help="nats per token; empty where it "
                                                "was not recorded"),
            "entropy": st.column_config.NumberColumn(format="%.3f", help="nats per token"),
            "text": st.column_config.TextColumn("completion", width="large"),
        },
    )  # fmt: skip
    st.caption("Select a sibling to open it down to the token.")
    cards(run, rows, written, passing, math)


def cards(
    run: RunEntry, rows: Sequence[dict[Any, Any]], written: dict[int, dict[str, Any]], passing: set[int], math: bool
) -> None:
    """Shows what each sibling wrote, two beside each other."""
    columns = st.columns(2)
    for at, row in enumerate(rows[:CARDS]):
        sibling = row["sibling"]
        with columns[at % 2].container(border=True):
            head = st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute")
            gate = "gate open" if row["gate"] > 0 else "gate closed"
            mark = filters.MARKS.get(row["status"], "?")
            facts = [f"{mark} {row['status']}", f"A {row['advantage']:+.2f}", f"{row['length']} tokens", gate]
            if not pd.isna(row["kl_to_teacher"]):
                facts.append(f"KL {row['kl_to_teacher']:.3f}")
            if sibling not in passing:
                facts.append("filtered out")
            head.markdown(f"**{sibling}** · {ui.plain(' · '.join(facts))}")
            with head:
                selection.link("rollout", "Tokens", run=run.id, step=row["step"], group=row["group"], sibling=sibling)
            text = written.get(sibling, {}).get("completion") or ""
            show_text(text, math, "content" if len(text) < 600 else 240)
    if len(rows) > CARDS:
        st.caption(f"{len(rows) - CARDS} more siblings are in the table above.")


def page() -> None:
    """Shows the Rollouts page."""
    asked = controls()
    if asked is None:
        return
    query, kind = asked
    live.follow_steps(query.runs[0])
    scope, passes, notices = query.scope()
    chosen = scope[passes]
    for notice in notices:
        st.warning(ui.plain(notice), icon=":material/warning:")
    table = filters.groups(scope, passes) if kind == GROUPS else pd.DataFrame()
    with st.container(horizontal=True, vertical_alignment="center"):
        summary(scope, chosen)
        if len(query.runs) == 1:
            download(query.runs[0], chosen)
    if words := query.chosen.words():
        st.caption(ui.plain(f"Filtered: {'; '.join(words)}."))
    current = current_group(scope, table, query.step) if kind == GROUPS else None
    if chosen.empty:
        ui.empty("No rollout passes: loosen the filters, or search the whole run.")
    elif kind == ROLLOUTS:
        flat_table(query, chosen)
    elif kind == TOKENS:
        token_list.show(query, chosen)
    else:
        group_table(table, query.step is None, current)
    if current is not None:
        here = chosen[(chosen["step"] == current[0]) & (chosen["group"] == current[1])]
        siblings(query.runs[0], scope, *current, set(here["sibling"]))


st.header("Rollouts")
with ui.guard():
    page()
