"""Reads evaluations as counts of right answers and as summaries, kept in memory and on disk. Imports no torch."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
import json
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from app import disk_index, store
from app.sources import RunEntry
from sdpg.records.schemas import read_evaluations
from sdpg.results.statistics.estimates import ProblemCounts, count_correct
from sdpg.results.statistics.summaries import COLUMNS, EvaluationSummary, summarise
from sdpg.rewards.extraction import normalise_answer

BASE_FILE = "models/base-evaluations/sampled.parquet"
Answers = dict[tuple[str, str, bool], EvaluationSummary]
"""(method, benchmark, greedy or not) → the evaluation's answers."""


_normalised = lru_cache(maxsize=65_536)(normalise_answer)  # answers repeat, over samples and over runs
_Counts = dict[str, tuple[tuple[str, ...], list[int], int]]
_Summary = tuple[tuple[tuple[tuple[str | None, bool], ...], ...], float, float | None, dict[str, float]]
_COUNTS, _SUMMARIES = TypeAdapter(_Counts), TypeAdapter(dict[str, _Summary])
COUNTED = ["method", "benchmark", "temperature", "problem_id", "status"]
"""Columns that the counts of right answers need."""


def _text(key: tuple[str, str, bool]) -> str:
    return json.dumps(key)


def _key(text: str) -> tuple[str, str, bool]:
    method, benchmark, greedy = json.loads(text)
    return method, benchmark, greedy


@lru_cache(maxsize=256)
def _one(problems: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the same object for equal tuples: every evaluation names the same problems."""
    return problems


@store.cached_by_file(8_192)
def _counts(path: Path) -> Mapping[tuple[str, str, bool], ProblemCounts]:
    def make() -> _Counts:
        counted = count_correct(read_evaluations(path, COUNTED), str(path))
        return {_text(key): (each.problems, each.correct.tolist(), each.samples) for key, each in counted.items()}

    stored = disk_index.kept("counts", disk_index.digest(path), _COUNTS, make)
    return {
        _key(text): ProblemCounts(_one(problems), np.array(correct, dtype=np.int64), samples)
        for text, (problems, correct, samples) in stored.items()
    }


@store.cached_by_file(1_024)
def _answers(path: Path) -> Answers:
    counts = _counts(path)

    def make() -> dict[str, _Summary]:
        found = summarise(read_evaluations(path, COLUMNS), str(path), _normalised)
        return {
            _text(key): (each.answers, each.mean_length, each.truncated, each.status_shares)
            for key, each in found.items()
        }

    stored = disk_index.kept("answers", disk_index.digest(path), _SUMMARIES, make)
    # Answers are few and repeat; one object for each keeps hundreds of evaluations in little memory.
    same: dict[tuple[str | None, bool], tuple[str | None, bool]] = {}
    return {
        (key := _key(text)): EvaluationSummary(
            counts[key], tuple(tuple(same.setdefault(each, each) for each in given) for given in answers), *rest
        )
        for text, (answers, *rest) in stored.items()
    }


def in_training(run: RunEntry, step: int) -> dict[str, EvaluationSummary]:
    """Returns benchmark, or ``validation`` → the answers sampled at an evaluation step."""
    answers = _answers(run.path(f"evaluations/step-{step:06d}.parquet"))
    return {benchmark: summary for (_, benchmark, greedy), summary in answers.items() if not greedy}


def counts_in_training(run: RunEntry, step: int) -> dict[str, ProblemCounts]:
    """Returns benchmark, or ``validation`` → how often each problem was solved at an evaluation step."""
    counts = _counts(run.path(f"evaluations/step-{step:06d}.parquet"))
    return {benchmark: found for (_, benchmark, greedy), found in counts.items() if not greedy}


def counts_of_final(run: RunEntry, benchmark: str) -> ProblemCounts | None:
    """Returns how often each problem was solved in the final policy's larger samples; None where there are none."""
    if run.final is None:
        return None
    counts = _counts(run.place.files.path(run.final))
    return next((found for (_, name, greedy), found in counts.items() if name == benchmark and not greedy), None)


def final(run: RunEntry) -> dict[tuple[str, bool], EvaluationSummary]:
    """Returns (benchmark, greedy or not) → larger samples of the final policy; empty where the stage was not run."""
    if run.final is None:
        return {}
    answers = _answers(run.place.files.path(run.final))
    return {(benchmark, greedy): summary for (_, benchmark, greedy), summary in answers.items()}


def base(runs: Sequence[RunEntry]) -> Answers:
    """Returns the base's evaluations beside the first of the runs that has them; empty where none has."""
    for run in runs:
        if run.place.files.exists(BASE_FILE):
            return _answers(run.place.files.path(BASE_FILE))
    return {}
