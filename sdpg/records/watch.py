"""Finds alarms of collapse and leakage: pure functions of the metrics so far, used in training and on metrics.csv.

A history is metric → one value per step from step 1 on, NaN where a step measured nothing. The module imports no torch.
"""

from collections.abc import Mapping, Sequence
import csv
from dataclasses import dataclass
from itertools import accumulate
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdpg.errors import UserError
from sdpg.params.watch import WatchParams
from sdpg.records.tables import holds_words, numbers

Series = Sequence[float] | NDArray[np.float64]
History = Mapping[str, Series]

ALARMS = ("entropy", "length", "reward", "leak", "signal")
COLUMNS = tuple(f"alarm_{alarm}" for alarm in ALARMS)
LEAKS = ("leak_mentions", "leak_spans")


def moving_means(values: Series, window: int) -> list[float]:
    """Returns the mean of the last ``window`` steps at each step; NaN where there are fewer, or none was measured."""
    means = [math.nan] * len(values)
    for end in range(window, len(values) + 1):
        measured = [value for value in values[end - window : end] if not math.isnan(value)]
        if measured:
            # fsum is exact, so that a resumed run and a reader of metrics.csv get the same bits.
            means[end - 1] = math.fsum(measured) / len(measured)
    return means


def in_a_row(crossed: Sequence[bool], patience: int) -> list[bool]:
    """Says for each step whether it and the ``patience - 1`` steps before it are all true."""
    rings, run = [], 0
    for now in crossed:
        run = run + 1 if now else 0
        rings.append(run >= patience)
    return rings


COLLAPSE = "Lower train.lr, or raise the method's alpha or entropy_bonus"
LENGTHS = "Read rollouts of these steps: the reward may pay for the length itself"
FALL = "Lower train.lr, or read what the new responses do"
LEAKAGE = "Read rollouts of these steps; lower the method's beta, or let prompts.teacher ask not to say so"
SIGNAL = (
    "The verifier hardly tells siblings apart. Are all right, data.train is too easy; all wrong, it is too hard, or "
    "train.lr too high"
)


@dataclass(frozen=True)
class Limit:
    """A limit on one metric.

    Attributes:
        alarm: the alarm that the limit rings, one of :data:`ALARMS`.
        field: the name of the limit's value under ``watch``.
        metric: the metric that the limit bounds.
        above: whether values above the bound cross it; otherwise values below do.
        bound: whether the field holds the bound itself, a fraction of the start, or a distance below the best so far.
        remedy: what a person can do.
    """

    alarm: str
    field: str
    metric: str
    above: bool
    bound: Literal["value", "of_start", "below_best"]
    remedy: str

    def bounds(self, value: float, means: Sequence[float], window: int) -> list[float]:
        """Returns the bound of the moving mean at each step; NaN, which nothing crosses, where it is not known yet."""
        match self.bound:
            case "value":
                return [value] * len(means)
            case "of_start":
                start = means[window - 1] if len(means) >= window else math.nan
                return [value * start] * len(means)
            case "below_best":
                # fmax, unlike max, returns the number where the other is NaN.
                return [float(best) - value for best in accumulate(means, np.fmax)]


LIMITS = (
    Limit("entropy", "min_entropy", "entropy", False, "value", COLLAPSE),
    Limit("entropy", "min_entropy_fraction", "entropy", False, "of_start", COLLAPSE),
    Limit("length", "min_length_fraction", "length", False, "of_start", LENGTHS),
    Limit("length", "max_length_fraction", "length", True, "of_start", LENGTHS),
    Limit("length", "max_truncated", "truncated", True, "value", "Raise rollout.max_tokens, or read what does not end"),
    Limit("reward", "max_reward_drop", "reward", False, "below_best", FALL),
    Limit("leak", "max_leak_mentions", "leak_mentions", True, "value", LEAKAGE),
    Limit("leak", "max_leak_spans", "leak_spans", True, "value", LEAKAGE),
    Limit("signal", "min_gate_rate", "gate_rate", False, "value", SIGNAL),
    Limit("signal", "max_zero_variance", "zero_variance_groups", True, "value", SIGNAL),
)
WATCHED = tuple(dict.fromkeys(limit.metric for limit in LIMITS))


@dataclass(frozen=True)
class Course:
    """A limit over the steps of a history: its metric's moving mean, its bound, and whether it rings."""

    limit: Limit
    means: list[float]
    bounds: list[float]
    rings: list[bool]

    def reason(self, at: int) -> str:
        """Says in words what is wrong at the step of this index."""
        crossed = "above" if self.limit.above else "below"
        return (f"moving mean of {self.limit.metric} is {self.means[at]:.4g}, {crossed} {self.bounds[at]:.4g} "
                f"(watch.{self.limit.field})")  # fmt: skip


def courses(history: History, watch: WatchParams) -> list[Course]:
    """Returns a course for every limit that is on and whose metric the history has."""
    means = {metric: moving_means(history[metric], watch.window) for metric in WATCHED if metric in history}
    shown = []
    for limit in LIMITS:
        value: float | None = getattr(watch, limit.field)
        if value is None or limit.metric not in means:
            continue
        mean = means[limit.metric]
        bounds = limit.bounds(value, mean, watch.window)
        crossed = [m > b if limit.above else m < b for m, b in zip(mean, bounds, strict=True)]
        shown.append(Course(limit, mean, bounds, in_a_row(crossed, watch.patience)))
    return shown


def alarm_columns(history: History, watch: WatchParams) -> dict[str, list[float | None]]:
    """Returns the columns ``alarm_*``: 1 where an alarm rings, 0 where not, None where all of its limits are off."""
    count = max(map(len, history.values()), default=0)
    columns: dict[str, list[float | None]] = {column: [None] * count for column in COLUMNS}
    for course in courses(history, watch):
        column = columns[f"alarm_{course.limit.alarm}"]
        column[:] = [max(before or 0.0, float(rings)) for before, rings in zip(column, course.rings, strict=True)]
    return columns


@dataclass(frozen=True)
class Ring:
    """An alarm over a whole run.

    Attributes:
        first_step: the step at which the alarm first rang; None if it never did.
        steps: the number of steps at which it rang.
        reason: what was wrong when it first rang, in words.
        remedy: what a person can do.
    """

    first_step: int | None
    steps: int
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class LeakShare:
    """The share of leaking rollouts, over the steps that measured it."""

    mean: float
    max: float


@dataclass(frozen=True)
class WatchSummary:
    """The alarms and leak shares of a whole run.

    Attributes:
        alarms: alarm → when it rang; None where all of its limits are off.
        leaks: ``leak_mentions`` and ``leak_spans`` → the share over the run; None where no step measured it.
    """

    alarms: dict[str, Ring | None]
    leaks: dict[str, LeakShare | None]

    @property
    def ringing(self) -> dict[str, Ring]:
        """Returns the alarms that rang at least once."""
        return {alarm: ring for alarm, ring in self.alarms.items() if ring is not None and ring.steps}

    def numbers(self) -> dict[str, Any]:
        """Returns the summary as plain containers of numbers, for JSON."""
        return {
            "alarms": {
                alarm: ring and {"first_step": ring.first_step, "steps": ring.steps}
                for alarm, ring in self.alarms.items()
            },
            "leaks": {name: share and {"mean": share.mean, "max": share.max} for name, share in self.leaks.items()},
        }

    def text(self) -> str:
        """Returns a line for each alarm that rang, or one that says that none did, and a line with the leak shares."""
        lines = [
            f"alarm {alarm} rang from step {ring.first_step}, at {ring.steps} steps: {ring.reason}. {ring.remedy}"
            for alarm, ring in self.ringing.items()
        ]
        off = [alarm for alarm, ring in self.alarms.items() if ring is None]
        lines = lines or ["no alarm rang"]
        lines += [f"alarms that are off: {', '.join(off)}"] if off else []
        shares = [
            f"{name} not measured" if share is None else f"{name} mean {share.mean:.4f}, largest {share.max:.4f}"
            for name, share in self.leaks.items()
        ]
        return "\n".join([*lines, "; ".join(shares)])


def watch_summary(metrics: History, watch: WatchParams) -> WatchSummary:
    """Summarises a whole run from the columns of its metrics.csv, ``step`` among them.

    Alarms are worked out anew under the given limits, so that limits can be tried on a finished run.
    """
    on = courses(metrics, watch)
    alarms: dict[str, Ring | None] = {}
    for alarm, column in zip(ALARMS, alarm_columns(metrics, watch).values(), strict=True):
        ringing = [at for at, value in enumerate(column) if value]
        if ringing:
            first = ringing[0]
            cause = next(course for course in on if course.limit.alarm == alarm and course.rings[first])
            step = int(metrics["step"][first])
            alarms[alarm] = Ring(step, len(ringing), cause.reason(first), cause.limit.remedy)
        else:
            alarms[alarm] = None if None in column else Ring(None, 0)
    leaks = {}
    for name in LEAKS:
        measured = [float(value) for value in metrics.get(name, ()) if not math.isnan(value)]
        leaks[name] = LeakShare(math.fsum(measured) / len(measured), max(measured)) if measured else None
    return WatchSummary(alarms, leaks)


def read_history(path: Path, needed: Sequence[str] = ()) -> dict[str, list[float]]:
    """Reads a table of a run, such as metrics.csv; an empty field is NaN, and a column of words from another version of
    this code is left out.

    Raises:
        UserError: if the file is missing, a line has something other than one number or nothing per column, a step is
            not finite, or one of the columns in ``needed`` is not there.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file)
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        named = zip(names, columns, strict=True)
        found = {name: numbers(cells) for name, cells in named if not holds_words(name, cells)}
        if not all(map(math.isfinite, found.get("step", ()))):
            raise ValueError("a step is not finite")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a finished run, or train it again") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}): train the run again") from None
    if missing := [name for name in needed if name not in found]:
        raise UserError(f"{path} has no column {', '.join(missing)}: train the run again")
    return found


class Watch:
    """The alarms of a training in progress.

    All of its state can be read from metrics.csv, so a resumed run goes on.
    """

    def __init__(self, metrics_file: Path, watch: WatchParams) -> None:
        self.watch = watch
        written = read_history(metrics_file)
        self.history = {metric: written[metric] for metric in ("step", *WATCHED)}

    def see(self, step: int, metrics: Mapping[str, float | None]) -> tuple[dict[str, float | None], list[str]]:
        """Adds a step's metrics; returns its ``alarm_*`` values, and a line for each alarm that now rings first."""
        for metric, values in self.history.items():
            value = step if metric == "step" else metrics[metric]
            values.append(math.nan if value is None else value)
        columns = alarm_columns(self.history, self.watch)
        first = [a for a in ALARMS if columns[f"alarm_{a}"][-1] and not any(columns[f"alarm_{a}"][:-1])]
        rings = watch_summary(self.history, self.watch).ringing if first else {}
        lines = [f"alarm {alarm}: {rings[alarm].reason}. {rings[alarm].remedy}" for alarm in first]
        return {name: values[-1] for name, values in columns.items()}, lines
