"""Keeps the selection in the URL, and makes links that carry it from one page to another."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import streamlit as st

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
"""The selections that the pages share: the sidebar's links carry them from page to page."""


def view(page: str) -> str:
    """Returns a page's file, in the form of Streamlit's links."""
    return f"views/{page}.py"


def choose(
    label: str,
    options: Sequence[T],
    key: str,
    *,
    shown: Callable[[T], str] = str,
    first: T | None = None,
    **arguments: Any,
) -> T:
    """Shows a select box whose choice is in the URL as ``key``; an unknown choice in the URL is replaced by ``first``.

    Args:
        options: the choices, at least one; texts, or values whose ``str`` tells them apart.
        first: the default choice; the first option if left out.
    """
    texts = {str(option): option for option in options}
    default = str(first) if first is not None and str(first) in texts else next(iter(texts))
    take_from_url(key, texts, default)
    chosen = st.selectbox(
        label, list(texts), key=key, format_func=lambda text: shown(texts[text]) if text in texts else str(text),
        **arguments,
    )  # fmt: skip
    return texts[put_into_url(key, chosen if chosen in texts else default)]


def take_from_url(key: str, texts: Collection[str | None], default: str) -> None:
    """Sets a widget's state, before the widget is made, to what the URL says.

    ``bind="query-params"`` would put everything shown into the URL, the defaults as well.
    """
    asked, before = st.query_params.get(key), st.session_state.get(f"_url_{key}")
    if asked in texts and (asked != before or st.session_state.get(key) not in texts):
        st.session_state[key] = asked
    elif st.session_state.get(key) not in texts:
        st.session_state[key] = default


def put_into_url(key: str, chosen: str, default: str | None = None) -> str:
    """Writes what was chosen into the URL, and returns it.

    Streamlit adds each change to the browser's history, so that Back leads to the same page without it. So a setting
    that nobody chose is not written if it is the ``default``; a selection has no default and is always written.
    """
    named = st.query_params.get(key)
    if named != chosen and (named is not None or chosen != default):
        st.query_params[key] = chosen
    st.session_state[f"_url_{key}"] = chosen
    return chosen


def choose_many(
    label: str,
    options: Sequence[str],
    key: str,
    *,
    shown: Callable[[str], str] = str,
    first: Sequence[str] = (),
    **arguments: Any,
) -> list[str]:
    """Shows a list whose choices are in the URL as ``key``; unknown choices in the URL are left out."""
    asked, before = st.query_params.get_all(key), st.session_state.get(f"_url_{key}")
    state = st.session_state.get(key)
    if asked and (state is None or asked != before):
        state = asked
    st.session_state[key] = [text for text in (first if state is None else state) if text in options]
    chosen = st.multiselect(label, list(options), key=key, format_func=shown, **arguments)
    if st.query_params.get_all(key) != chosen:
        st.query_params[key] = chosen
    st.session_state[f"_url_{key}"] = chosen
    return chosen


def segments(label: str, options: Sequence[str], key: str, *, first: str | None = None, **arguments: Any) -> str:
    """Shows a few choices side by side; the URL holds the choice, and an unknown one is replaced by ``first``.

    Args:
        options: the choices, at least one; short texts, which are themselves in the URL.
        first: the default choice; the first option if left out.
    """
    default = first if first in options else options[0]
    if st.session_state.get(key) not in options and st.query_params.get(key) not in options:
        st.session_state[key] = default
    chosen = st.segmented_control(label, list(options), key=key, bind="query-params", required=True, **arguments)
    return chosen if chosen in options else default


def context(**changes: Any) -> dict[str, Any]:
    """Returns the current selection as parameters of a link; ``changes`` override it, and None removes one."""
    params: dict[str, Any] = {}
    for key in CONTEXT:
        if values := st.query_params.get_all(key):
            params[key] = values if len(values) > 1 else values[0]
    for key, value in changes.items():
        params[key] = [str(item) for item in value] if isinstance(value, list | tuple) else value
    return {key: value if isinstance(value, list) else str(value) for key, value in params.items() if value is not None}


def link(page: str, label: str | None = None, **changes: Any) -> None:
    """Shows a link to another page with the selection, some of it changed."""
    title, icon = PAGES[page]
    st.page_link(view(page), label=label or title, icon=icon, query_params=context(**changes))


def go(page: str, **changes: Any) -> None:
    """Switches to another page with the selection, some of it changed, as a click on a table's row does."""
    st.switch_page(view(page), query_params=context(**changes))


def selected_rows(state: Mapping[str, Any] | Any) -> list[int]:
    """Returns the row numbers that are selected in a ``st.dataframe(on_select=…)``."""
    return list(state["selection"]["rows"])
