"""The Rollout page: one rollout down to the token, coloured by a signal, with both prompts and the verdict."""

from typing import Any

import pandas as pd
import streamlit as st

from app import filters, math_text, notes_box, rollout_choice, rollout_list, selection, store, tokens, ui
from app.places import places
from app.rollout_choice import Chosen


def chosen_token(chosen: Chosen) -> int | None:
    """Returns the token that the address names."""
    st.session_state["_token_of"] = chosen.key
    text = st.query_params.get("token", "")
    return int(text) if text.isdecimal() and len(text) < 9 and int(text) < len(chosen.row["tokens"]) else None


def keep_token(key: str, token: int) -> None:
    """Puts the token that a reader clicked into the address, unless another rollout is shown by now."""
    if key == st.session_state.get("_token_of"):
        selection.put(token=str(token))


def find_problem(chosen: Chosen) -> None:
    """Lets the reader choose any problem that the run drew, and goes to the first step that drew it."""
    with st.popover("Find a problem", icon=":material/search:"):
        known = places(chosen.run)

        def go_there() -> None:
            step, group = known[st.session_state["find_problem"]][0]
            st.session_state["find_problem"] = None
            selection.put(step=str(step), group=str(group))

        st.selectbox(f"Of {len(known):,} problems in the run's records", list(known), index=None, key="find_problem",
                     format_func=lambda problem: tokens.cut(problem, 80), on_change=go_there)  # fmt: skip


def more_of_it(chosen: Chosen) -> None:
    """Shows links: neighbours in the group, the same problem at other steps, the pages that show more."""
    row, here = chosen.row, chosen.link
    group = rollout_choice.members(store.step_rollouts(chosen.run, row["step"]), row["group"])
    siblings = sorted(group["sibling"].to_pylist())
    at = siblings.index(row["sibling"])
    with st.container(horizontal=True, vertical_alignment="center"):
        if at > 0:
            selection.link("rollout", f"← Sibling {siblings[at - 1]}", **here | {"sibling": siblings[at - 1]})
        if at + 1 < len(siblings):
            selection.link("rollout", f"Sibling {siblings[at + 1]} →", **here | {"sibling": siblings[at + 1]})
        selection.link("rollouts", "The whole group", **here)
        selection.link("diff", "Compare with another", **here)
        find_problem(chosen)
    others = [place for place in places(chosen.run).get(row["problem_id"], []) if place[0] != row["step"]]
    with st.container(horizontal=True, vertical_alignment="center"):
        if others:
            st.caption("The same problem at", width="content")
            for step, number in others[:20]:
                selection.link("rollout", f"step {step}", **here | {"step": step, "group": number, "sibling": None})
        else:
            st.caption("This problem stands in no other recorded step of the run.")


def in_the_list(chosen: Chosen) -> None:
    """Shows the place in the list from which the address came, with buttons and keys for the next and the previous."""
    query = rollout_list.from_address(chosen.run, chosen.row["step"])
    if query is None:
        return
    scope, passes, _ = query.scope()
    place, links = rollout_list.neighbours(query.rows(scope[passes]), chosen.link)

    def go(at: int) -> None:
        selection.put(**{name: str(value) for name, value in links[at].items()})

    with st.container(horizontal=True, vertical_alignment="center"):
        if place is None:
            st.caption(f"Not in the list of {len(links):,} rollouts that the address names.", width="content")
        else:
            st.caption(f"{place + 1:,} of {len(links):,} in the list", width="content")
            st.button("Previous", on_click=go, args=(place - 1,), disabled=place == 0, shortcut="k", type="tertiary")
            st.button("Next", on_click=go, args=(place + 1,), disabled=place + 1 == len(links), shortcut="j",
                      type="tertiary")  # fmt: skip
        selection.link("rollouts", "The list", **rollout_list.carried())


def as_formulas(chosen: Chosen) -> None:
    """Shows prompt and completion with their formulas rendered, if a reader wants them; the tokens stay as they are."""
    if not selection.toggle("Formulas rendered", "math"):
        return
    for column, title, name in zip(st.columns(2), ("Student's prompt", "Completion"), ("student_prompt", "completion"),
                                   strict=True):  # fmt: skip
        with column.container(border=True):
            st.markdown(f"**{title}**")
            st.markdown(math_text.rendered(tokens.cut(chosen.row[name] or "", tokens.MOST_TEXT_CHARACTERS)))


def alone(chosen: Chosen, data: dict[str, Any]) -> str:
    """Returns the rollout as one HTML file."""
    run, row = chosen.run, chosen.row
    git = run.config.get("git") or {}
    commit = f", commit {str(git.get('commit'))[:12]}{' with changes' if git.get('dirty') else ''}" if git else ""
    lines = [
        f"{tokens.cut(row['problem_id'], 200)}, group {row['group']}, sibling {row['sibling']}",
        f"Run {run.name}{commit}. Made by the SDPG workbench; this file asks for nothing from anywhere.",
    ]
    return tokens.standalone(data, f"{run.title}, step {row['step']}", lines, row["completion"])


def downloads(chosen: Chosen, data: dict[str, Any]) -> None:
    """Shows buttons that make files of the rollout when they are clicked."""
    row, keys = chosen.row, pd.DataFrame([chosen.link])
    name = f"{chosen.run.name.replace('/', '-')}-step-{row['step']}-group-{row['group']}-sibling-{row['sibling']}"
    with st.container(horizontal=True):
        for label, ending, kind, make in (
            ("JSONL", "jsonl", "application/jsonl", lambda: filters.jsonl_of(chosen.run, keys)),
            ("Parquet", "parquet", "application/vnd.apache.parquet", lambda: filters.parquet_of(chosen.run, keys)),
            ("HTML", "html", "text/html", lambda: alone(chosen, data).encode("utf-8", "replace")),
        ):
            st.download_button(label, make, f"{name}.{ending}", kind, on_click="ignore", icon=":material/download:")


def page() -> None:
    """Shows the Rollout page."""
    left, right = st.columns([5, 6], vertical_alignment="bottom")
    left.header("Rollout")
    with ui.guard():
        with right:
            run = ui.choose_run()
        chosen = rollout_choice.choose_rollout(run)
        in_the_list(chosen)
        readings = chosen.readings()
        signal = rollout_choice.choose_signal(readings)
        data = tokens.strip_data(
            chosen.row, readings, signal, chosen.key, token=chosen_token(chosen), distils=chosen.distils
        )
        data |= {"facts": tokens.facts(chosen.row, chosen.limit, chosen.distils), "prompts": tokens.prompts(chosen.row)}
        tokens.mount(data, "strip", keep_token)
        notes_box.show(run, (chosen.row["step"], chosen.row["group"], chosen.row["sibling"]))
        as_formulas(chosen)
        more_of_it(chosen)
        downloads(chosen, data)


page()
