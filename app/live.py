"""Keeps up with runs in training: their progress, and parts of a page that draw themselves anew as records grow."""

from collections.abc import Callable, Sequence
import time
from typing import Any

import streamlit as st

from app import run_rows, store, ui
from app.sources import RunEntry
from sdpg.errors import UserError

FEW_SECONDS = 3


def running(runs: Sequence[RunEntry]) -> list[RunEntry]:
    """Returns the runs in progress."""
    return [run for run in runs if run.kind == "in progress"]


def signature(runs: Sequence[RunEntry]) -> tuple[Any, ...]:
    """Returns a value that changes when a run begins or ends; then the whole page is drawn again."""
    if not runs:
        return ()
    files = runs[0].place.files
    states = [name for name in files.names(".state") if files.exists(f".state/{name}/config.yaml")]
    done = [name for name in files.names("runs") if files.exists(f"runs/{name}/COMPLETE")]
    return (*states, "|", *done)


def refresh(runs: Sequence[RunEntry], draw: Callable[[], None]) -> None:
    """Draws a part of the page; if one of the runs is in training, every few seconds anew, with the runs' progress."""
    live = running(runs)
    if not live:
        draw()
        return
    before = signature(live)

    @st.fragment(run_every=FEW_SECONDS)
    def part() -> None:
        if signature(live) != before:
            st.rerun()
        for run in live:
            show_progress(run)
        draw()

    part()


def follow_steps(run: RunEntry) -> None:
    """Shows the progress of a run in training, and draws the whole page anew when it has written further rollouts."""
    if run.kind != "in progress":
        return
    before = signature([run]), store.rollout_steps(run)

    @st.fragment(run_every=FEW_SECONDS)
    def part() -> None:
        if (signature([run]), store.rollout_steps(run)) != before:
            st.rerun()
        show_progress(run)

    part()


def show_progress(run: RunEntry) -> None:
    """Shows one run in progress: a bar, its speed, the time left, and its last reward."""
    with ui.guard():
        try:
            _show_progress(run, time.time())
        except FileNotFoundError:
            raise UserError(f"{run.label_of('metrics.csv')} is gone: load the page again") from None


def _show_progress(run: RunEntry, now: float) -> None:
    at = run_rows.progress(run, now)
    with st.container(border=True):
        title, state = st.columns([3, 2], vertical_alignment="center")
        title.markdown(f"**{ui.plain(run.title)}**")
        ago = run_rows.duration(at.ago)
        if at.quiet:
            state.markdown(f":orange-badge[:material/pause: interrupted?] nothing written for {ago}")
        elif at.step:
            state.markdown(f":green-badge[:material/play_arrow: running] last step {ago} ago")
        else:
            state.markdown(f":blue-badge[:material/hourglass_top: starting] begun {ago} ago")
        parts = [f"step {at.step} of {at.total}"]
        if at.step:
            parts += [f"{at.per_second:.2f} steps/s", f"reward {at.reward:.3f}".replace("-", "−")]
            if not at.quiet and at.step < at.total:
                parts.insert(2, f"{run_rows.duration(at.left)} left")
        st.progress(at.share, text=ui.plain(" · ".join(parts)))
        if at.quiet:
            st.caption("It goes on where it stopped, if parameters and code are unchanged:")
            st.code(ui.printable(str(run.config.get("command") or f"dvc repro train@{run.name}")), language="bash")
