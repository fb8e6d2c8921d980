"""Shows a run's training problems on the Problems page: how often each was drawn, and how its groups went."""

import pandas as pd
import streamlit as st

from app import charts, selection, store, ui
from app.sources import RunEntry


def met(index: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per recorded group: step, group, problem_id, rollouts, correct and gate (shares), flagged,
    reward."""
    rows = index.assign(right=index["status"] == "correct", open=index["gate"] > 0)
    table = rows.groupby(["step", "group", "problem_id"], as_index=False).agg(
        rollouts=("sibling", "size"), correct=("right", "mean"), gate=("open", "mean"), reward=("reward", "mean"),
        least=("reward", "min"), most=("reward", "max"),
    )  # fmt: skip
    return table.assign(flagged=table["least"] == table["most"]).drop(columns=["least", "most"])


def by_problem(groups: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per problem: groups, rollouts, correct (share), gate (share), flagged (groups without variance),
    and the last step; the problems drawn most often come first, and the hardest of equals first."""
    weighted = groups.assign(
        right=groups["correct"] * groups["rollouts"], inside=groups["gate"] * groups["rollouts"]
    )  # fmt: skip
    rows = weighted.groupby("problem_id", as_index=False).agg(
        groups=("step", "size"), last=("step", "max"), rollouts=("rollouts", "sum"), right=("right", "sum"),
        inside=("inside", "sum"), flagged=("flagged", "sum"),
    )  # fmt: skip
    rows["correct"], rows["gate"] = rows["right"] / rows["rollouts"], rows["inside"] / rows["rollouts"]
    rows = rows.drop(columns=["right", "inside"])
    return rows.sort_values(["groups", "correct"], ascending=[False, True], kind="stable").reset_index(drop=True)


def show(run: RunEntry) -> None:
    """Shows the list, and the chosen problem."""
    index, notices = store.index(run)
    for notice in notices:
        st.warning(ui.plain(notice), icon=":material/warning:")
    if index.empty:
        ui.empty(f"{run.name} has no rollouts on record. Training writes them:", f"dvc repro train@{run.name}")
        return
    table = met(index)
    rows = by_problem(table)
    problems = list(rows["problem_id"])
    st.markdown(f"**{len(rows):,} problems** in {len(table):,} groups on record; "
                f"{int((rows['correct'] == 0).sum()):,} never solved")  # fmt: skip
    shown = pd.DataFrame({
        "problem": ui.texts(rows["problem_id"]), "groups": rows["groups"], "last step": rows["last"],
        "rollouts": rows["rollouts"], "correct": rows["correct"], "gate open": rows["gate"],
        "without variance": rows["flagged"],
    })  # fmt: skip
    problem = st.query_params.get("problem")
    selection.pick_row(
        shown, "training_list", lambda at: selection.put(problem=problems[at]), height=330,
        chosen=problems.index(problem) if problem in problems else None,
        column_config={
            "correct": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1),
            "gate open": st.column_config.NumberColumn(format="percent"),
            "without variance": st.column_config.NumberColumn(help="Groups whose rewards are all equal"),
        },
    )  # fmt: skip
    problem = selection.choose("Problem", problems, "problem", label_visibility="collapsed")
    _one(run, table[table["problem_id"] == problem], problem)


def _one(run: RunEntry, its: pd.DataFrame, problem: str) -> None:
    st.subheader(ui.plain(problem))
    if len(its) > 1:
        line = pd.DataFrame({"step": its["step"], "value": its["correct"], "series": run.name})
        st.altair_chart(charts.lines(line, charts.styles([run.name]), y="share right", points=True, form=".0%",
                                     zero=True, height=200), width="stretch")  # fmt: skip
    rows = its.sort_values("step").to_dict("records")
    shown = its.sort_values("step")[["step", "group", "rollouts", "reward", "correct", "gate"]]
    shown = shown.assign(flag=["no variance" if row["flagged"] else "" for row in rows])
    selection.pick_row(
        shown.rename(columns={"reward": "mean reward", "gate": "gate open"}), "groups-of-problem",
        lambda at: selection.go("rollouts", run=run.id, step=rows[at]["step"], group=rows[at]["group"], sibling=None),
        height="content" if len(shown) <= 10 else 360,
        column_config={
            "mean reward": st.column_config.NumberColumn(format="%.2f"),
            **{name: st.column_config.NumberColumn(format="percent") for name in ("correct", "gate open")},
        },
    )  # fmt: skip
    st.caption("Select a group to read its rollouts.")
