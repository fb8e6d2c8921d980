"""The list of rollouts that an address describes: over steps and runs, filtered, searched and sorted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import streamlit as st

from app import filters, leaks, notes, selection, store, ui
from app.filters import Filter
from app.sources import RunEntry
from sdpg.errors import UserError

STEP, RUN = "this step", "whole run"
GROUPS, ROLLOUTS, TOKENS = "groups", "rollouts", "tokens"
WITHIN = {"completions": ("completion",), "prompts": ("student_prompt", "teacher_prompt"),
          "answers": ("extracted_answer",), "all": (*filters.TEXTS, "extracted_answer")}  # fmt: skip
COLUMNS = {"step": "step", "run": "run", "group": "group", "sibling": "sibling", "problem": "problem_id",
           "verdict": "status", "answer": "extracted_answer", "gold": "gold", "reward": "reward",
           "advantage": "advantage", "tokens": "length", "gate": "gate", "KL": "kl_to_teacher", "entropy": "entropy",
           "truncated": "truncated", "tags": "tags", "note": "note"}  # fmt: skip
"""The columns of the list → the index's."""
ADDRESS = ("listing", "scope", "with", "q", "within", "regex", "status", "only", "reward", "gate", "min_length",
           "max_length", "kl", "flagged", "tag", "sort", "falling", "columns")  # fmt: skip
"""The parameters of an address that describe the list; links to its rollouts carry them on."""


@dataclass(frozen=True)
class Query:
    """What is listed.

    Attributes:
        runs: the runs, in the order in which they were found.
        step: the only step; None for all.
        chosen: the filter.
        text: what is searched for; empty without a search.
        columns: the texts that are searched.
        regular: whether ``text`` is a regular expression.
        by: the key of :data:`COLUMNS` by which the list is sorted.
        falling: whether the largest come first.
    """

    runs: tuple[RunEntry, ...]
    step: int | None
    chosen: Filter = field(default_factory=Filter)
    text: str = ""
    columns: tuple[str, ...] = ("completion",)
    regular: bool = False
    by: str = "step"
    falling: bool = False

    def scope(self) -> tuple[pd.DataFrame, pd.Series, list[str]]:
        """Returns a row per rollout in scope with its ``run``, whether each passes, and notices of unread files.

        Raises:
            UserError: if the text is no regular expression.
        """
        tables, passing, notices = [], [], []
        for run in self.runs:
            steps = store.rollout_steps(run) if self.step is None else [self.step]
            index, unread = store.index(run)
            table = index if self.step is None else index[index["step"] == self.step].reset_index(drop=True)
            if filters.LEAKS in self.chosen.suspects:
                table = table.assign(leaks=filters.among(table, leaks.leaking(run, steps)))
            table = with_notes(run, table)
            hits = filters.search(run, steps, self.text, self.columns, self.regular) if self.text else None
            tables.append(table.assign(run=run.id))
            passing.append(filters.passing(table, self.chosen, hits))
            notices += unread
            try:
                notes.read(run)
            except UserError as error:
                notices.append(str(error))
        scope = pd.concat(tables, ignore_index=True) if len(tables) > 1 else tables[0]
        return scope, pd.concat(passing, ignore_index=True) if len(passing) > 1 else passing[0], notices

    def rows(self, chosen: pd.DataFrame) -> pd.DataFrame:
        """Returns the rollouts that pass in the order of the list."""
        return chosen.sort_values(COLUMNS[self.by], ascending=not self.falling, kind="stable")


def with_notes(run: RunEntry, index: pd.DataFrame) -> pd.DataFrame:
    """Returns an index with the columns ``tags`` (tuples) and ``note`` of what readers wrote on the rollouts."""
    found = notes.of_rollouts(run)
    if not found:
        return index.assign(tags=[()] * len(index), note=None)
    own = [found.get(key, notes.Note()) for key in zip(index["step"], index["group"], index["sibling"], strict=True)]
    return index.assign(tags=[note.tags for note in own], note=[note.text or None for note in own])


def with_runs(run: RunEntry, others: Sequence[str]) -> tuple[RunEntry, ...]:
    """Returns a run and others in the order in which all were found, so that the list is the same from each."""
    return tuple(each for each in ui.found().runs.values() if each.id == run.id or each.id in others)


def from_address(run: RunEntry, step: int) -> Query | None:
    """Returns the list from which an address came to a rollout; None if it names none.

    What the address names and nobody has is left out here: the page of the list says so.
    """
    asked = st.query_params
    if asked.get("listing") != ROLLOUTS:
        return None
    low, high = selection.percentages_of(asked.get("kl", "")) or (0, 100)
    rewards = [float(text) for text in asked.get_all("reward") if selection.is_number(text)]
    chosen = Filter(
        statuses=tuple(name for name in asked.get_all("status") if name in ui.STATUSES),
        rewards=tuple(rewards),
        gate="open" if asked.get("gate") == "open" else "closed" if asked.get("gate") == "closed" else "any",
        shortest=selection.count_of(asked.get("min_length", "")),
        longest=selection.count_of(asked.get("max_length", "")),
        kl=(low / 100, high / 100),
        flagged=asked.get("flagged") == "true",
        suspects=tuple(name for name in asked.get_all("only") if name in filters.SUSPECTS),
        tags=tuple(tag for tag in asked.get_all("tag") if tag in known_tags(run)),
    )
    by = asked.get("sort", "step")
    return Query(
        with_runs(run, asked.get_all("with")), None if asked.get("scope") == RUN else step, chosen, asked.get("q", ""),
        WITHIN.get(asked.get("within", ""), WITHIN["completions"]), asked.get("regex") == "true",
        by if by in COLUMNS else "step", asked.get("falling") == "true",
    )  # fmt: skip


def known_tags(run: RunEntry) -> list[str]:
    """Returns the tags on a run's rollouts, in the order of the alphabet."""
    return sorted({tag for note in notes.of_rollouts(run).values() for tag in note.tags})


def carried() -> dict[str, Any]:
    """Returns the parameters of the address that describe the list, for links."""
    return {name: st.query_params.get_all(name) for name in ADDRESS if name in st.query_params}


def neighbours(rows: pd.DataFrame, here: Mapping[str, Any]) -> tuple[int | None, list[dict[str, Any]]]:
    """Returns the place of a rollout in the list, None if it is not there, and the rollouts of the list as links."""
    names = ["run", "step", "group", "sibling"]
    columns = [rows[name].tolist() for name in names]
    keys = list(zip(*columns, strict=True))
    own = tuple(here[name] for name in names)
    return (keys.index(own) if own in keys else None), [dict(zip(names, key, strict=True)) for key in keys]
