"""Finds the rollouts on record that leak the privileged context, by the rules of :mod:`sdpg.training.leakage`.

A completion leaks if it says that it was given an answer (``watch.mentions``), or repeats ``watch.span_words`` words in
a row of the teacher's prompt that the student's prompt lacks. The records hold no solution alone, so that all of the
teacher's prompt takes its place.
"""

from collections.abc import Collection
from functools import lru_cache
import json
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from app import disk_index, filters
from app.filters import Key
from app.sources import RunEntry
from sdpg.params.watch import WatchParams
from sdpg.records.manifest import check_file
from sdpg.records.schemas import read_rollouts
from sdpg.training.leakage import mentions, repeats

COLUMNS = ["step", "group", "sibling", "completion", "student_prompt", "teacher_prompt"]
_KEYS = TypeAdapter(list[Key])


class _Privileged(NamedTuple):
    solution: str
    student_prompt: str


def rules(run: RunEntry) -> tuple[tuple[str, ...], int | None]:
    """Returns the patterns and the length of a span in words, from the run's own parameters."""
    section = run.params.get("watch") or {}
    patterns = tuple(str(pattern) for pattern in section.get("mentions") or ())
    return patterns, section.get("span_words", WatchParams.model_fields["span_words"].default)


def leaking(run: RunEntry, steps: Collection[int]) -> set[Key]:
    """Returns the keys of rollouts of these steps that leak."""
    patterns, span = rules(run)
    found: set[Key] = set()
    for path in filters.files(run, steps):
        found |= _of_file(path, disk_index.digest(path), patterns, span)
    return found


@lru_cache(maxsize=4_096)
def _of_file(path: Path, digest: str, patterns: tuple[str, ...], span: int | None) -> frozenset[Key]:
    check_file(path)
    key = json.dumps([digest, patterns, span])
    return frozenset(map(tuple, disk_index.kept("leaks", key, _KEYS, lambda: _worked_out(path, patterns, span))))


def _worked_out(path: Path, patterns: tuple[str, ...], span: int | None) -> list[Key]:
    rows = read_rollouts(path, COLUMNS).to_pylist()
    found = mentions([row["completion"] or "" for row in rows], patterns)
    by_prompts: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        if span and row["teacher_prompt"]:
            by_prompts.setdefault((row["teacher_prompt"], row["student_prompt"] or ""), []).append(at)
    for prompts, places in by_prompts.items():
        copies = repeats([rows[at]["completion"] or "" for at in places], _Privileged(*prompts), span or 0)
        for at, copy in zip(places, copies, strict=True):
            found[at] = found[at] or copy
    return [(row["step"], row["group"], row["sibling"]) for row, leaks in zip(rows, found, strict=True) if leaks]
