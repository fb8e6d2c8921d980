"""Puts a run into one row of the overview, and says how far it is; results are cached until a file changes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from app import disk_index, store
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.params.section import without_unknown
from sdpg.params.watch import WatchParams
from sdpg.records.schemas import read_evaluations
from sdpg.records.watch import watch_summary
from sdpg.results.statistics.estimates import Interval, count_correct, mean_interval

LAST_STEPS = 5
"""The number of last steps over which reward, entropy and length are averaged, as single steps scatter."""
READ = ("metrics.csv", "curves.csv", "timing.csv", "summary.json")
COUNTED = ["method", "benchmark", "temperature", "problem_id", "status"]
QUIET_STEPS, QUIET_SECONDS = 5.0, 60.0
"""A run seems interrupted if it wrote nothing for this many of its slowest steps, and for this many seconds."""


@dataclass(frozen=True)
class Score:
    """A benchmark's Last with its interval by problem, and Best, which is selected on the test set.

    Attributes:
        last: the accuracy at the last evaluation in training; the limits are NaN where its answers are unavailable.
        step: the step of ``last``.
        best, best_step: the largest accuracy of the series, with the base at step 0 included, and its step.
        problems, samples: the numbers behind ``last``; 0 where its answers are unavailable.
    """

    last: Interval
    step: int
    best: float
    best_step: int
    problems: int
    samples: int


@dataclass(frozen=True)
class RunRow:
    """The overview's row of a run; a value that is not known is NaN.

    Attributes:
        scores: benchmark → its score.
        reward, entropy, length: means over the last :data:`LAST_STEPS` steps.
        steps: the number of steps made.
        seconds: the time of all steps, evaluations included.
        alarms: alarm → first step at which it rang; None where the alarms are not known.
        unread: sentences that say why something is missing.
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
    """Returns the confidence of the report's intervals, from the run's own parameters."""
    value = (run.params.get("report") or {}).get("confidence")
    return value if isinstance(value, float) and 0 < value < 1 else 0.95


def read_row(run: RunEntry) -> RunRow:
    """Returns the run's row; anything missing or damaged is named in it and does not hide the rest."""
    unread: list[str] = []
    stamps = []
    for name in READ:
        try:
            path = run.path(name)
        except UserError as error:  # the file belongs to another commit, and is in no cache
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
    """A run, identified by its files' stamps."""

    run: RunEntry = field(compare=False)
    stamps: tuple[Any, ...]
    unread: tuple[str, ...]


_ROW = TypeAdapter(RunRow)


@lru_cache(maxsize=2048)
def _row(key: _Key) -> RunRow:
    run = key.run
    try:
        files = [run.path(name) for name in ("config.yaml", *READ)]
        files += [run.path(f"evaluations/{name}") for name in run.names("evaluations")[-1:]]
    except UserError:  # files of another commit that are in no cache
        return _worked_out(key)
    content = [run.id, run.label_of(""), disk_index.digest(*files)]
    return disk_index.kept("run rows", json.dumps(content), _ROW, lambda: _worked_out(key))


def _worked_out(key: _Key) -> RunRow:
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
    """Returns the mean of the values that were measured; NaN where there is none."""
    values = table[name].to_numpy(dtype=float) if name in table else np.array([])
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _from_timing(run: RunEntry) -> dict[str, Any]:
    return {"seconds": float(step_seconds(store.timing(run)).sum())}


def step_seconds(timing: pd.DataFrame) -> pd.Series:
    """Returns the seconds of each step, evaluation included."""
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
            counted = counts[name]
            last = mean_interval(counted.accuracy, confidence(run))
            problems, samples = len(counted.problems), counted.samples
        scores[name] = Score(
            last, step, float(curves[name].loc[best]), int(curves["step"].loc[best]), problems, samples
        )
    return {"scores": scores}


def _last_counts(run: RunEntry, name: str) -> dict[str, Any]:
    """Returns the last evaluation's counts: benchmark → counts by problem."""
    table = read_evaluations(run.path(name), COUNTED)
    return {
        benchmark: problems for (_, benchmark, greedy), problems in count_correct(table, run.label_of(name)).items()
        if not greedy
    }  # fmt: skip


def _alarms(run: RunEntry) -> dict[str, Any]:
    path = run.path("summary.json")
    if path.exists():
        try:
            alarms = (json.loads(path.read_text(encoding="utf-8")).get("watch") or {}).get("alarms")
            rang = {name: int(ring["first_step"]) for name, ring in (alarms or {}).items() if ring and ring["steps"]}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise UserError(f"{run.label_of('summary.json')} is damaged: run the run's stage again") from None
        if alarms is not None:
            return {"alarms": rang}
    return {"alarms": computed_alarms(run)}


def computed_alarms(run: RunEntry) -> dict[str, int] | None:
    """Returns the alarms of the metrics so far, under the run's own limits; None if those are of another version."""
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
    """The progress of a run that is training.

    Attributes:
        step, total: the numbers of steps made and of all steps.
        per_second: steps per second, over the last 20; NaN before the first.
        left: the seconds that the missing steps will take at that speed.
        reward: the reward of the last step.
        ago: the seconds since the run wrote anything.
        quiet: whether ``ago`` is so long that the run seems interrupted.
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
        """Returns the share of the steps made, from 0 to 1."""
        return min(1.0, self.step / self.total) if self.total else 0.0


def progress(run: RunEntry, now: float) -> Progress:
    """Returns the progress of a run at the Unix time ``now``.

    Raises:
        UserError: if the run's metrics or timing cannot be read.
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
    """Returns a duration in words, with two units at most."""
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
