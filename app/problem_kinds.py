"""Problems that every method fails, that one alone solves, and that changed sides during training. Imports no torch."""

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from app import evaluations, selection, store, ui
from app.accuracy import Solved
from sdpg.records.schemas import BASE

FAILED, ALONE, FLIPPED = "no method solves", "one alone solves", "flipped in training"
KINDS = (FAILED, ALONE, FLIPPED)
HALF = 0.5
"""The accuracy from which a problem counts as solved at an evaluation."""
ROWS = 300


def failed(table: pd.DataFrame) -> list[str]:
    """Returns the problems to which no method gave a right answer; the base does not count.

    Args:
        table: problem × row → share of right answers.
    """
    methods = table.drop(columns=BASE, errors="ignore")
    return list(table.index[(methods == 0).all(axis=1)])


def alone(table: pd.DataFrame) -> dict[str, str]:
    """Returns each problem that exactly one method ever answered right → that method; the base does not count."""
    methods = table.drop(columns=BASE, errors="ignore")
    solved = methods > 0
    once = solved.sum(axis=1) == 1
    return dict(solved[once].idxmax(axis=1)) if once.any() else {}


def flipped(paths: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Returns a row per method and problem that changed between solved and not solved from one evaluation to another.

    Columns: problem, key (the method), first, last (accuracies), flips (changes of side), path (a sign per evaluation).

    Args:
        paths: method → problem × step → share of right answers, over the method's runs.
    """
    rows = []
    for key, table in paths.items():
        sides = table >= HALF
        changes = (sides.iloc[:, 1:].to_numpy() != sides.iloc[:, :-1].to_numpy()).sum(axis=1)
        for at in changes.nonzero()[0]:
            rows.append({
                "problem": table.index[at], "key": key, "first": float(table.iloc[at, 0]),
                "last": float(table.iloc[at, -1]), "flips": int(changes[at]),
                "path": "".join("●" if side else "○" for side in sides.iloc[at]),
            })  # fmt: skip
    found = pd.DataFrame(rows, columns=["problem", "key", "first", "last", "flips", "path"])
    return found.sort_values(["flips", "problem"], ascending=[False, True], kind="stable", ignore_index=True)


def paths(rows: Sequence[Solved], benchmark: str) -> dict[str, pd.DataFrame]:
    """Returns method → problem × step → share of right answers, at the evaluations that all of its runs have."""
    found = {}
    for row in rows:
        tables = []
        for run in row.runs if row.key != BASE else ():
            counts = {step: evaluations.counts_in_training(run, step).get(benchmark)
                      for step in store.evaluation_steps(run)}  # fmt: skip
            columns = {
                step: pd.Series(each.correct / each.samples, index=list(each.problems))
                for step, each in counts.items() if each is not None
            }  # fmt: skip
            if columns:
                tables.append(pd.DataFrame(columns))
        if tables:
            steps = [step for step in tables[0] if all(step in table for table in tables)]
            found[row.key] = sum(table[steps] for table in tables) / len(tables)
    return found


def show(
    kind: str, rows: Sequence[Solved], table: pd.DataFrame, statements: Mapping[str, str], benchmark: str, problem: str
) -> None:  # fmt: skip
    """Lists the problems of a kind; selecting one follows it above."""
    titles = {row.key: row.title for row in rows}
    if kind == FLIPPED:
        found = flipped(paths(rows, benchmark))
        shown = pd.DataFrame({
            "problem": found["problem"], "statement": [statements.get(name, "") for name in found["problem"]],
            "method": [titles[key] for key in found["key"]], "evaluations": found["path"], "flips": found["flips"],
            "first": 100 * found["first"], "last": 100 * found["last"],
        })  # fmt: skip
        said = f"● at least {HALF:.0%} right at an evaluation in training, ○ fewer, over the runs of a row."
    else:
        owners = alone(table) if kind == ALONE else dict.fromkeys(failed(table), "")
        shown = pd.DataFrame({"problem": list(owners), "statement": [statements.get(name, "") for name in owners]})
        if kind == ALONE:
            shown["method"] = [titles[key] for key in owners.values()]
            shown["right"] = [100 * float(table.loc[name, key]) for name, key in owners.items()]  # pyright: ignore
            shown = shown.sort_values("right", ascending=False, kind="stable", ignore_index=True)
        if BASE in table:
            shown["base"] = 100 * table.loc[shown["problem"], BASE].to_numpy()
        said = "Solved: at least one of the answers is right. The base does not count as a method."
    if shown.empty:
        ui.empty(f"There is no problem here that {kind}." if kind != FLIPPED else "No problem flipped in training.")
        return
    count = shown["problem"].nunique()
    shown = shown.head(ROWS)
    problems = list(shown["problem"])
    for name in ("problem", "statement", "method"):
        if name in shown:
            shown[name] = ui.texts(shown[name])
    percent = st.column_config.NumberColumn(format="%.0f%%")
    selection.pick_row(
        shown, f"problems-{KINDS.index(kind)}", lambda at: selection.put(problem=problems[at]),
        height="content" if len(shown) <= 9 else 330, chosen=problems.index(problem) if problem in problems else None,
        column_config={"statement": st.column_config.TextColumn(width="medium"),
                       **dict.fromkeys(("first", "last", "right", "base"), percent)},
    )  # fmt: skip
    st.caption(f"{count:,} of {len(table):,} problems. {said} Select a row to follow the problem above.")
