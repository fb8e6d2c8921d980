"""Shows on which answers two verifiers disagree, as an audit of the project wrote it; no verifier runs here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import selection, store, ui
from app.sources import Place, RunEntry
from sdpg.errors import UserError
from sdpg.files import read_json_lines

FOLDER, FILE = "reports/audit", "disagreements.jsonl"
MOST = 1_000
"""Rows of the table; the file has all."""


@store.cached_by_file(64)
def _read(path: Path) -> pd.DataFrame:
    """Returns a row per disagreement, the commonest first, as text."""
    try:
        rows = [_row(one) for one in read_json_lines(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error!r}): make the audit again, or remove {path.parent}") from None
    return pd.DataFrame(rows, columns=["answers", "gold", "first_answer", "first", "second_answer", "second"])


def _row(one: dict[str, Any]) -> dict[str, Any]:
    opinions = {
        name: f"{one[name]['status']} ({one[name]['reason']})" if one[name]["reason"] else str(one[name]["status"])
        for name in ("first", "second")
    }
    answers = {f"{name}_answer": _text(one[name]["answer"]) for name in ("first", "second")}
    return {"answers": int(one["count"]), "gold": _text(one["gold"]), **answers, **opinions}


def _text(value: str | None) -> str:
    return "–" if value is None else ui.printable(str(value))


def audits(places: Sequence[Place]) -> dict[str, Path]:
    """Returns the audits of some projects: a name that a reader can choose by → the file of disagreements."""
    found = {}
    for place in places:
        for name in place.files.names(FOLDER):
            if place.files.exists(file := f"{FOLDER}/{name}/{FILE}"):
                label = name.replace("-against-", " against ")
                found[f"{label}, {place.label}" if place.key else label] = place.files.path(file)
    return found


def show(runs: Sequence[RunEntry]) -> None:
    """Shows the audits of the projects that some runs belong to, and how to make one."""
    st.subheader("Where two verifiers disagree", help="answers that one of them takes for right and the other does not")
    found = audits(list({run.place.key: run.place for run in runs}.values()))
    if not found:
        ui.empty("No audit of these answers was made. It takes no model, only the records:",
                 f"sdpg audit {runs[0].name} base --verifiers math_verify string_match")  # fmt: skip
        return
    chosen = selection.choose("Verifiers", list(found), "verifiers")
    first, second = chosen.split(",")[0].split(" against ")
    table = _read(found[chosen])
    if table.empty:
        st.success(f"{ui.plain(first)} and {ui.plain(second)} agree on every answer.", icon=":material/check:")
        return
    st.caption(f"{table['answers'].sum():,} answers, {len(table):,} different ones; the commonest first"
               + (f"; the first {MOST:,} of them" if len(table) > MOST else ""))  # fmt: skip
    shown = table.head(MOST).rename(columns={
        "answers": "Answers", "gold": "Gold", "first_answer": f"Answer by {first}", "first": first,
        "second_answer": f"Answer by {second}", "second": second,
    })  # fmt: skip
    st.dataframe(shown, hide_index=True, width="stretch", key="audit")
