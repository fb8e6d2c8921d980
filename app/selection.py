"""Keeps what is selected in the address alone, and makes links that carry it from one page to another.

A page is a function of its address and of the records. Widgets get their values from the address each time, and a
reader's choice is written to it by a callback, before the page is drawn; drawing a page never changes its address.
So links, Back, Forward and reload show what they name. What the address names and nobody has is said at the top.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import re
from typing import Any, TypeVar

import streamlit as st

from sdpg.errors import UserError

T = TypeVar("T")

PAGES = {
    "overview": ("Overview", ":material/table_rows:"),
    "compare": ("Compare", ":material/show_chart:"),
    "tables": ("Tables", ":material/table_chart:"),
    "problems": ("Problems", ":material/grid_on:"),
    "rollouts": ("Rollouts", ":material/view_list:"),
    "rollout": ("Rollout", ":material/notes:"),
    "gating": ("Gating", ":material/filter_alt:"),
    "diff": ("Diff", ":material/difference:"),
    "sweeps": ("Sweeps", ":material/tune:"),
    "provenance": ("Provenance", ":material/fingerprint:"),
}
"""The file below views/ and path in the URL → title and icon."""
CONTEXT = ("rev", "run", "step", "group", "sibling", "benchmark", "problem")
"""The selections that the pages share: the links above the pages carry them from page to page."""
INSIDE = {
    "run": ("token",), "step": ("group", "sibling", "token"), "group": ("sibling", "token"), "sibling": ("token",),
    "benchmark": ("problem",),
}  # fmt: skip
"""A selection → those that name a part of it, and mean something else once another is chosen."""
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,9})?(e-?\d{1,2})?")
_COUNT = re.compile(r"\d{1,9}")
_click = st.components.v2.component(
    "sdpg_click",
    html="<span></span>",
    js="""export default function ({ parentElement }) {
      // A link keeps one entry of the history; a switch of pages by the server would add a second one between.
      const follow = () => {
        const link = document.querySelector(".st-key-go a");
        if (link) link.click(); else if (parentElement.isConnected) requestAnimationFrame(follow);
      };
      requestAnimationFrame(follow);
    }""",
)


def begin() -> None:
    """Forgets what the page showed when it was drawn before; to be called before anything is chosen."""
    st.session_state["_shown"], st.session_state["_unknown"] = {}, []


def unknown(**known: Collection[str]) -> list[str]:
    """Returns a sentence for each value that the address names and that is not to be had.

    Args:
        known: the values to be had of selections that the page itself did not offer.
    """
    for key, values in known.items():
        asked = st.query_params.get(key)
        if asked and asked not in values and key not in st.session_state["_shown"]:
            not_had(f"the {key}", asked, "this page shows what there is")
    return list(dict.fromkeys(st.session_state["_unknown"]))


def show(**values: Any) -> None:
    """Notes what the page shows, for the links to other pages."""
    st.session_state["_shown"] |= {key: str(value) for key, value in values.items()}


def not_had(what: str, asked: str, instead: str) -> None:
    """Notes that the address names something that is not to be had."""
    asked = asked if len(asked) <= 80 else f"{asked[:80]} …"
    st.session_state["_unknown"].append(f"The address names {what} {asked!r}, which is not here: {instead}.")


def put(**changes: str | Sequence[str] | None) -> None:
    """Writes selections to the address as one entry of the browser's history; None removes one.

    It is for callbacks, which run before the page is drawn. Selections inside one that changes (:data:`INSIDE`) are
    removed, unless they are given as well.
    """
    before = {key: st.query_params.get_all(key) for key in st.query_params}
    after = dict(before)
    for key, value in changes.items():
        values = [] if value is None else [value] if isinstance(value, str) else list(value)
        if values != before.get(key, []):
            for part in INSIDE.get(key, ()):
                after.pop(part, None)
    for key, value in changes.items():
        values = [] if value is None else [value] if isinstance(value, str) else list(value)
        after[key] = values
    after = {key: values for key, values in after.items() if values}
    if after != before:
        st.query_params.from_dict(after)


def _bound(key: str, value: Any, written: Callable[[Any], str | Sequence[str] | None]) -> dict[str, Any]:
    """Returns the arguments of a widget that shows ``value`` and writes what a reader chooses to the address."""
    st.session_state[key] = value
    return {"key": key, "on_change": lambda: put(**{key: written(st.session_state[key])})}


def _asked(key: str, label: str, texts: Collection[str], default: str, shown: Callable[[str], str] = str) -> str:
    """Returns the choice that the address names, or the default, and keeps it for links."""
    chosen = st.query_params.get(key, default)
    if chosen not in texts:
        not_had(f"the {label.lower()}", chosen, f"shown is {shown(default)}")
        chosen = default
    show(**{key: chosen})
    return chosen


def choose(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    shown: Callable[[T], str] = str,
    first: T | None = None,
    strict: bool = False,
    **arguments: Any,
) -> T:
    """Shows a select box whose choice is in the address as ``key``; without one in the address it is ``first``.

    Args:
        options: the choices, at least one; texts, or values whose ``str`` tells them apart.
        first: the default choice; the first option if left out.
        strict: whether nothing takes the place of a choice that is not among the options.

    Raises:
        UserError: if ``strict``, and the address names what is not among the options; the box is shown all the same.
    """
    texts = {str(option): option for option in options}
    default = str(first) if first is not None and str(first) in texts else next(iter(texts))
    asked = st.query_params.get(key, default)
    lost = strict and asked not in texts
    chosen = None if lost else _asked(key, label, texts, default, lambda text: shown(texts[text]))
    st.selectbox(
        label, list(texts), format_func=lambda text: shown(texts[text]) if text in texts else str(text),
        placeholder=f"Choose a {label.lower()}", **_bound(key, chosen, str), **arguments,
    )  # fmt: skip
    if chosen is None:
        show(**{key: asked})
        raise UserError(f"The address names the {label.lower()} {asked[:80]!r}, which is not here: it was deleted or "
                        "renamed, or its folder or commit is not open. Choose another above")  # fmt: skip
    return texts[chosen]


def choose_many(
    label: str,
    options: Sequence[str],
    key: str,
    *,
    shown: Callable[[str], str] = str,
    first: Sequence[str] = (),
    **arguments: Any,
) -> list[str]:
    """Shows a list whose choices are in the address as ``key``; without them in the address it holds ``first``."""
    asked = st.query_params.get_all(key)
    for text in asked:
        if text and text not in options:
            not_had(f"in {label.lower()}", text, "it is left out")
    chosen = [text for text in dict.fromkeys(asked or first) if text in options]
    # An address with an empty value tells a list that was emptied from one that nobody has touched.
    emptied = "" if first else None
    st.multiselect(label, list(options), format_func=shown, **_bound(key, chosen, lambda new: list(new) or emptied),
                   **arguments)  # fmt: skip
    return chosen


def segments(label: str, options: Sequence[str], key: str, *, first: str | None = None, **arguments: Any) -> str:
    """Shows a few choices side by side; one that is not the default is in the address as ``key``.

    Args:
        options: the choices, at least one; short texts, which are themselves in the address.
        first: the default choice; the first option if left out.
    """
    default = first if first in options else options[0]
    chosen = _asked(key, label, options, default)
    st.segmented_control(label, list(options), required=True,
                         **_bound(key, chosen, lambda new: None if new == default else new), **arguments)  # fmt: skip
    return chosen


def pills(
    label: str, options: Mapping[str, str], key: str, *, first: str, written: bool = True, **arguments: Any
) -> str:
    """Shows choices in a row that breaks: text in the address → text on the page, which reads Markdown.

    Args:
        options: the choices, at least one.
        first: the default choice.
        written: whether the default is written to the address as well when a reader chooses it.
    """
    chosen = _asked(key, label, options, first)
    st.pills(label, list(options), required=True, wrap=True, format_func=options.__getitem__,
             **_bound(key, chosen, lambda new: None if new == first and not written else new), **arguments)  # fmt: skip
    return chosen


def text(label: str, key: str, **arguments: Any) -> str:
    """Shows a field for text, which is in the address as ``key``."""
    st.text_input(label, **_bound(key, st.query_params.get(key, ""), lambda new: new or None), **arguments)
    return st.query_params.get(key, "")


def toggle(label: str, key: str, *, first: bool = False, **arguments: Any) -> bool:
    """Shows a switch; one that is not at its default is in the address as ``key``, ``true`` or ``false``."""
    default = str(first).lower()
    chosen = _asked(key, label, ("true", "false"), default) == "true"
    st.toggle(label, **_bound(key, chosen, lambda new: None if new == first else str(new).lower()), **arguments)
    return chosen


def count(label: str, key: str, **arguments: Any) -> int | None:
    """Shows a field for a whole number from 0, which is in the address as ``key``; None where there is none."""
    asked = st.query_params.get(key)
    chosen = count_of(asked or "")
    if asked and chosen is None:
        not_had(f"{label.lower()} of", asked, "a whole number below a billion is wanted, and none is taken")
    st.number_input(label, 0, value=None, step=1, **_bound(key, chosen, lambda new: None if new is None else str(new)),
                    **arguments)  # fmt: skip
    return chosen


def percentages(label: str, key: str, step: int = 5, **arguments: Any) -> tuple[int, int]:
    """Shows a slider with two ends, whole percentages, which are in the address as ``key``: ``20-80``."""
    asked = st.query_params.get(key, "0-100")
    chosen = percentages_of(asked)
    if chosen is None:
        chosen = (0, 100)
        not_had(label.lower(), asked, "two percentages are wanted, such as 20-80, and none are taken")
    st.slider(label, 0, 100, step=step, **arguments, **_bound(
        key, chosen, lambda new: None if tuple(new) == (0, 100) else "-".join(map(str, new))
    ))  # fmt: skip
    return chosen


def count_of(text: str) -> int | None:
    """Returns the whole number that an address names; None if it names none."""
    return int(text) if _COUNT.fullmatch(text) else None


def percentages_of(text: str) -> tuple[int, int] | None:
    """Returns two whole percentages in their order, as ``20-80``; None if the text names none."""
    low, _, high = text.partition("-")
    if _COUNT.fullmatch(low) and _COUNT.fullmatch(high) and int(low) <= int(high) <= 100:
        return int(low), int(high)
    return None


def is_number(text: str) -> bool:
    """Says whether a text is a finite decimal number."""
    return bool(_NUMBER.fullmatch(text))


def pick_row(
    frame: Any, key: str, picked: Callable[[int], None], *, chosen: int | None = None, **arguments: Any
) -> None:
    """Shows a table, one row of which can be selected; ``picked`` is a callback with the row's number.

    The selected row is always ``chosen``, so that it never means what the address does not name.
    """
    rows = [] if chosen is None else [chosen]
    st.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}

    def on_select() -> None:
        new = selected_rows(st.session_state[key])
        if new and new != rows:
            picked(new[0])

    st.dataframe(frame, hide_index=True, key=key, selection_mode="single-row", on_select=on_select, **arguments)


def context(**changes: Any) -> dict[str, Any]:
    """Returns the current selection as parameters of a link; ``changes`` override it, and None removes one."""
    params: dict[str, Any] = {}
    shown = st.session_state["_shown"]
    for key in CONTEXT:
        if values := [shown[key]] if key in shown else st.query_params.get_all(key):
            params[key] = values if len(values) > 1 else values[0]
    for key, value in changes.items():
        params[key] = [str(item) for item in value] if isinstance(value, list | tuple) else value
    return {key: value if isinstance(value, list) else str(value) for key, value in params.items() if value is not None}


def link(page: str, label: str | None = None, icon: str | None = "", **changes: Any) -> None:
    """Shows a link to another page with the selection, some of it changed; its icon is the page's, or none."""
    title, own = PAGES[page]
    st.page_link(view(page), label=label or title, icon=own if icon == "" else icon, query_params=context(**changes))


def view(page: str) -> str:
    """Returns a page's file, in the form of Streamlit's links."""
    return f"views/{page}.py"


def go(page: str, **changes: Any) -> None:
    """Notes in a callback that another page is wanted, with the selection, some of it changed."""
    st.session_state["_go"] = page, changes


def follow() -> None:
    """Goes to the page that a callback wanted, if one did; nothing more of this page is drawn then."""
    if wanted := st.session_state.pop("_go", None):
        page, changes = wanted
        with st.container(key="go"):
            link(page, f"Opening {PAGES[page][0]} …", **changes)
            _click(key="click")
        st.stop()


def selected_rows(state: Mapping[str, Any] | Any) -> list[int]:
    """Returns the row numbers that are selected in a ``st.dataframe(on_select=…)``."""
    return list(state["selection"]["rows"])
