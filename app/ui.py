"""The parts that all pages share: notices, text that is shown as text, colours, the choice of a run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
import re
from typing import Any

import pandas as pd
import streamlit as st

from app import selection, sources
from sdpg.colours import DASHES, PALETTE
from sdpg.errors import UserError

STATUSES = ("correct", "wrong", "no_answer", "truncated", "timeout")
_ADDRESS = re.compile(r":(?=//)|www(?=\.)|\S(?=@)", re.IGNORECASE)
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~$:&])")


def plain(text: Any) -> str:
    """Returns text for a place that reads Markdown, shown as it is: no markup, link, formula, icon or HTML."""
    # A word joiner, which has no width, keeps addresses from becoming links; no escape does.
    shown = _ADDRESS.sub("\\g<0>\u2060", printable(str(text)))
    return _MARKDOWN.sub(r"\\\1", shown).replace("\n", "  \n")


def printable(text: str) -> str:
    """Returns text that can be sent to a page: lone surrogates are replaced, control characters made visible.

    Line ends and tabs stay. Characters that turn the direction of the following text, or have no width, are shown by
    their code, since they would make one text look like another.
    """
    return "".join(map(_visible, text))


def texts(column: Iterable[Any]) -> list[str | None]:
    """Returns a column of text that can be sent to a page; a missing value, which pandas gives as NaN, is None."""
    return [None if pd.isna(text) else printable(str(text)) for text in column]


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or 0x20 <= code < 0x7F:
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if 0x80 <= code < 0xA0 or code in (0xAD, 0x061C, 0xFEFF) or 0x200B <= code <= 0x200F or 0x2028 <= code <= 0x202E:
        return f"⟨U+{code:04X}⟩"
    if 0x2060 <= code <= 0x206F or 0xFFF9 <= code <= 0xFFFB or 0xE0000 <= code <= 0xE007F:
        return f"⟨U+{code:04X}⟩"
    if 0xD800 <= code < 0xE000:
        return "�"
    return character


@contextmanager
def guard() -> Iterator[None]:
    """Shows a :class:`UserError` as a notice in place of the content; the rest of the page goes on."""
    try:
        yield
    except UserError as error:
        st.error(plain(error), icon=":material/warning:")


def colour(place: int) -> str:
    """Returns the colour of the method or run at a position of a list; the report's figures use the same."""
    return PALETTE["dark" if is_dark() else "light"][place % len(PALETTE["light"])]


def dash(place: int) -> list[int]:
    """Returns the dashes of a line, which repeat what its colour says."""
    names = {"-": [1, 0], "--": [6, 3], ":": [2, 2], "-.": [6, 2, 2, 2]}
    kind = DASHES[place % len(DASHES)]
    return names[kind] if isinstance(kind, str) else [3, 1, 1, 1, 1, 1]


def is_dark() -> bool:
    """Says whether the reader's theme is dark."""
    return st.context.theme.type == "dark"


def found() -> sources.Found:
    """Returns the runs of this session."""
    return st.session_state["_found"]


def choose_run(label: str = "Run", key: str = "run", first: str | None = None) -> sources.RunEntry:
    """Lets the reader choose the run of the page.

    Raises:
        UserError: if there is no run, or the address names one that is not here.
    """
    runs = found().runs
    if not runs:
        raise UserError("No run can be shown: what was left out is named above the page, with the reason")
    chosen = selection.choose(label, list(runs), key, shown=lambda id: runs[id].label, first=first, strict=True)
    return runs[chosen]


def grid(count: int, columns: int = 3) -> Iterator[Any]:
    """Yields places for this many charts, row by row, so that a narrow page stacks them in their order."""
    for start in range(0, count, columns):
        yield from st.columns(columns)[: count - start]


def empty(text: str, command: str = "") -> None:
    """Says that there is nothing to show, and why; ``command`` is what a reader can run, to be copied."""
    st.info(plain(text), icon=":material/info:")
    if command:
        st.code(printable(command), language="bash")
