"""A run in one row of the overview, and how far a run in progress is; kept until a file of the run changes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from app import store
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.params.section import without_unknown
from sdpg.params.watch import WatchParams
from sdpg.records.schemas import read_evaluations
from sdpg.records.watch import watch_summary
from sdpg.results.statistics.estimates import Interval, count_correct, mean_interval

LAST_STEPS = 5
"""Reward, entropy and length are means over this many last steps: single steps scatter."""
READ = ("metrics.csv", "curves.csv", "timing.csv", "summary.json")
COUNTED = ["method", "benchmark", "temperature", "problem_id", "status"]
QUIET_STEPS, QUIET_SECONDS = 5.0, 60.0
"""A run that wrote nothing for so many of its slowest steps, and at least so long, seems to be interrupted."""


@dataclass(frozen=True)
class Score:
    """A benchmark's Last with its interval by problem, and Best, which is selected on the test set.

    Attributes:
        last: accuracy at the last evaluation in training; the limits are NaN where its answers are not at hand.
        step: of ``last``.
        best, best_step: the largest of the series, the base at step 0 included.
        problems, samples: behind ``last``; 0 where its answers are not at hand.
    """

    last: Interval
    step: int
    best: float
    best_step: int
    problems: int
    samples: int


@dataclass(frozen=True)
class RunRow:
    """What the overview says of a run; NaN where it is not known.

    Attributes:
        scores: benchmark → its numbers.
        reward, entropy, length: means over the last :data:`LAST_STEPS` steps.
        steps: made.
        seconds: of all steps, evaluations included.
        alarms: alarm → first step at which it rang; None where nothing is known of alarms.
        unread: why something is missing.
    """

    scores: dict[str, Score] = field(default_factory=dict)
    reward: float = math.nan
    entropy: float = math.nan
    length: float = math.nan
    steps: int = 0
    seconds: float = math.nan
    alarms: dict[str, int] | None = None
    unread: tuple[str, ...] = ()


def confidence(run: RunEntry) -> float:
    """Of the report's intervals, in the run's own parameters."""
    value = (run.params.get("report") or {}).get("confidence")
    return value if isinstance(value, float) and 0 < value < 1 else 0.95


def read_row(run: RunEntry) -> RunRow:
    """The run's row; what is missing or damaged is named in it and hides nothing else."""
    unread: list[str] = []
    stamps = []
    for name in READ:
        try:
            path = run.path(name)
        except UserError as error:  # of another commit, and in no cache
            unread.append(str(error))
            continue
        stamps.append((str(path), _stamp(path)))
    return _row(_Key(run, (run.id, tuple(stamps), tuple(run.names("evaluations"))), tuple(unread)))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0
    return status.st_mtime_ns, status.st_size


@dataclass(frozen=True)
class _Key:
    """A run, told apart by its files' stamps."""

    run: RunEntry = field(compare=False)
    stamps: tuple[Any, ...]
    unread: tuple[str, ...]


@lru_cache(maxsize=2048)
def _row(key: _Key) -> RunRow:
    run, unread = key.run, list(key.unread)
    values: dict[str, Any] = {}
    readers = (_from_metrics, _from_timing, _scores, _alarms)
    for read in readers:
        try:
            values |= read(run)
        except UserError as error:
            if str(error) not in unread:
                unread.append(str(error))
    return RunRow(**values, unread=tuple(unread))


def _from_metrics(run: RunEntry) -> dict[str, Any]:
    table = store.metrics(run)
    last = table.tail(LAST_STEPS)
    return {**{name: _mean(last, name) for name in ("reward", "entropy", "length")}, "steps": len(table)}


def _mean(table: pd.DataFrame, name: str) -> float:
    """Of the values that were measured; NaN where there is none."""
    values = table[name].to_numpy(dtype=float) if name in table else np.array([])
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _from_timing(run: RunEntry) -> dict[str, Any]:
    return {"seconds": float(step_seconds(store.timing(run)).sum())}


def step_seconds(timing: pd.DataFrame) -> pd.Series:
    """Seconds of each step, evaluation included."""
    return timing[[name for name in timing if str(name).endswith("_seconds")]].sum(axis=1)


def _scores(run: RunEntry) -> dict[str, Any]:
    curves = store.curves(run)
    if curves.empty:
        return {}
    step = int(curves["step"].iloc[-1])
    counts = {}
    if step in store.evaluation_steps(run):
        counts = _last_counts(run, f"evaluations/step-{step:06d}.parquet")
    scores = {}
    for name in store.benchmarks(run):
        if name not in curves or not np.isfinite(curves[name].to_numpy(dtype=float)).any():
            continue
        best = curves[name].idxmax()
        last, problems, samples = Interval(float(curves[name].iloc[-1]), math.nan, math.nan), 0, 0
        if name in counts:
            found = counts[name]
            last = mean_interval(found.accuracy, confidence(run))
            problems, samples = len(found.problems), found.samples
        scores[name] = Score(
            last, step, float(curves[name].loc[best]), int(curves["step"].loc[best]), problems, samples
        )
    return {"scores": scores}


def _last_counts(run: RunEntry, name: str) -> dict[str, Any]:
    """Of the last evaluation: benchmark → counts by problem."""
    table = read_evaluations(run.path(name), COUNTED)
    return {
        benchmark: found for (_, benchmark, greedy), found in count_correct(table, run.label_of(name)).items()
        if not greedy
    }  # fmt: skip


def _alarms(run: RunEntry) -> dict[str, Any]:
    path = run.path("summary.json")
    if path.exists():
        try:
            alarms = (json.loads(path.read_text(encoding="utf-8")).get("watch") or {}).get("alarms")
            rang = {name: int(ring["first_step"]) for name, ring in (alarms or {}).items() if ring and ring["steps"]}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise UserError(f"{run.label_of('summary.json')} is damaged: run the run's stage again") from None
        if alarms is not None:
            return {"alarms": rang}
    return {"alarms": computed_alarms(run)}


def computed_alarms(run: RunEntry) -> dict[str, int] | None:
    """Alarms of the metrics so far, under the run's own limits; None where those are of another version."""
    table = store.metrics(run)
    try:
        limits = WatchParams.model_validate(without_unknown(WatchParams, run.params.get("watch") or {}))
    except ValidationError:
        return None
    history: dict[str, Sequence[float]] = {str(name): table[name].to_numpy(dtype=float) for name in table}  # pyright: ignore[reportAssignmentType]
    summary = watch_summary(history, limits)
    return {name: ring.first_step for name, ring in summary.ringing.items() if ring.first_step is not None}


@dataclass(frozen=True)
class Progress:
    """How far a run in progress is.

    Attributes:
        step, total: made and asked for.
        per_second: steps, over the last 20; NaN before the first.
        left: seconds that the missing steps will take at that speed.
        reward: of the last step.
        ago: seconds since it wrote anything.
        quiet: whether that is so long that it seems to be interrupted.
    """

    step: int
    total: int
    per_second: float
    left: float
    reward: float
    ago: float
    quiet: bool

    @property
    def share(self) -> float:
        """Of the steps, from 0 to 1."""
        return min(1.0, self.step / self.total) if self.total else 0.0


def progress(run: RunEntry, now: float) -> Progress:
    """Where a run stands at the Unix time ``now``.

    Raises:
        UserError: if its metrics or timing cannot be read.
    """
    metrics, seconds = store.metrics(run), step_seconds(store.timing(run))
    total = int((run.params.get("train") or {}).get("steps") or 0)
    step = int(metrics["step"].iloc[-1]) if len(metrics) else 0
    recent = seconds.tail(20)
    pace = float(recent.mean()) if len(recent) else math.nan
    ago = max(0.0, now - run.path("metrics.csv").stat().st_mtime)
    slowest = float(seconds.max()) if len(seconds) else math.nan
    # Before its first step a run loads its models, which may take long.
    patience = max(QUIET_SECONDS, QUIET_STEPS * slowest) if len(seconds) else 10 * QUIET_SECONDS
    return Progress(
        step=step, total=total, per_second=1 / pace if pace else math.nan, left=max(0, total - step) * pace,
        reward=float(metrics["reward"].iloc[-1]) if len(metrics) and "reward" in metrics else math.nan,
        ago=ago, quiet=ago > patience,
    )  # fmt: skip


def duration(seconds: float) -> str:
    """In words, two units at most."""
    if math.isnan(seconds):
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
