"""Shows two texts beside each other, word by word: what both have stands on one line, what differs is marked."""

from collections.abc import Sequence
from html import escape

import pandas as pd
import streamlit as st

from app import differences, selection, store, ui

LONGEST = 20_000
"""The characters of a text beyond which it is cut, and says so."""
_CELL = "padding:3px 10px;vertical-align:top;white-space:pre-wrap;overflow-wrap:anywhere;width:50%"
_MARKS = ("rgba(230,159,0,.28)", "rgba(86,180,233,.32)")


def blocks(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Returns the texts in blocks in their order: left part, right part, and whether they are the same."""
    found = differences.difference(left, right)
    parts: list[tuple[str, str, bool]] = []
    a = b = 0
    while a < len(left) or b < len(right):
        start = a, b
        while a < len(left) and found.left[a]:
            a += 1
        while b < len(right) and found.right[b]:
            b += 1
        if (a, b) != start:
            parts.append(("".join(left[start[0] : a]), "".join(right[start[1] : b]), False))
        start = a, b
        while a < len(left) and b < len(right) and not found.left[a] and not found.right[b]:
            a, b = a + 1, b + 1
        if (a, b) != start:
            parts.append(("".join(left[start[0] : a]), "".join(right[start[1] : b]), True))
    return parts


def html(left: str, right: str, titles: tuple[str, str]) -> str:
    """Returns a table of the blocks of two texts, in which all text is escaped."""
    cells = [
        f'<th style="{_CELL};text-align:left;font-weight:600">{escape(ui.printable(title))}</th>' for title in titles
    ]
    rows = [f"<tr>{''.join(cells)}</tr>"]
    words = [differences.words(text[:LONGEST]) for text in (left, right)]
    for *sides, same in blocks(*words):
        cells = []
        for side, mark in zip(sides, _MARKS, strict=True):
            style = _CELL if same or not side else f"{_CELL};background:{mark}"
            cells.append(f'<td style="{style}">{escape(ui.printable(side))}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table style="width:100%;border-collapse:collapse;font-size:0.9rem">{"".join(rows)}</table>'


def show(left: str, right: str, titles: tuple[str, str]) -> None:
    """Shows two texts beside each other; ``titles`` say whose they are and how they were judged."""
    if left == right:
        st.caption("Both texts are the same.")
    with st.container(border=True, height="content" if len(left) + len(right) < 4_000 else 480):
        st.html(html(left, right, titles))
    if max(len(left), len(right)) > LONGEST:
        st.caption(f"Only the first {LONGEST:,} characters of each are compared.")


def two_answers(found: pd.DataFrame) -> None:
    """Shows two answers to the problem beside each other, word by word, with their verdicts."""
    rows = {f"{row['run']}/{row['sample']}": row for row in store.plain_rows(found)}
    if len(rows) < 2:
        return
    with st.expander("Compare two answers", icon=":material/difference:", key="two", on_change="rerun") as opened:
        if not opened.open:
            return
        titles = {key: f"{row['who']} · {row['run']}, sample {row['sample']} · "
                       f"{'●' if row['status'] == 'correct' else '○'} {row['status']}, answer "
                       f"{row['extracted_answer'] or '–'}" for key, row in rows.items()}  # fmt: skip
        right = [key for key, row in rows.items() if row["status"] == "correct"]
        wrong = [key for key in rows if key not in right]
        left_column, right_column = st.columns(2)
        with left_column:
            a = selection.choose(
                "Answer A", list(rows), "answer_a", shown=titles.__getitem__, first=(right or [None])[0]
            )
        with right_column:
            b = selection.choose("Answer B", list(rows), "answer_b", shown=titles.__getitem__,
                                 first=(wrong or list(rows)[1:])[0])  # fmt: skip
        show(rows[a]["completion"] or "", rows[b]["completion"] or "", (titles[a], titles[b]))
