"""Turns runs into lines over steps: the seeds of a method together, smoothed, and the scheduled coefficients."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from app import definitions, store
from app.run_rows import step_seconds
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.objective.coefficients import coefficients, learning_rate
from sdpg.objective.schedules import EntropySwitch, Shape, window
from sdpg.params.method import EntropySwitchParams
from sdpg.params.stored import method_of, train_of
from sdpg.results.matched import Comparison, Record, compare_runs

Reader = Callable[[RunEntry], pd.DataFrame]
COEFFICIENTS = {
    "beta": "β(k), distillation",
    "alpha": "α, reference",
    "rlsd_lambda": "λ(k), RLSD",
    "lr": "learning rate",
}
AXES = {
    "step": "training step",
    "tokens": "response tokens trained on",
    "time": "training time (minutes)",
}
"""The horizontal axes → their titles."""


@dataclass(frozen=True)
class Series:
    """A line: one run, or the runs of a method that differ in their seeds.

    Attributes:
        name: unique among the lines.
        runs: the runs, one per seed.
        place: the position that decides colour and dashes.
        short: the name at the end of its line.
    """

    name: str
    runs: tuple[RunEntry, ...]
    place: int = 0
    short: str = ""


@dataclass(frozen=True)
class Panel:
    """One chart of lines, on the page and in an export.

    Attributes:
        title: the title, with the unit.
        table: ``step``, ``x``, ``value``, ``series`` and the further columns that :mod:`app.charts` draws.
        points: whether the values are marked.
        form: the format of values, as format() and d3 understand it.
        notes: sentences that say why a series is missing.
        help: the definition of what is drawn, in Markdown.
    """

    title: str
    table: pd.DataFrame
    points: bool = False
    form: str = ".3f"
    notes: list[str] = field(default_factory=list)
    help: str = ""


def record(run: RunEntry, with_metrics: bool = True) -> Record:
    """Returns the run in the form that :func:`sdpg.results.matched.compare_runs` reads.

    Raises:
        UserError: if the metrics are wanted and cannot be read.
    """
    empty: dict[str, Any] = {"inputs": {}, "git": {}, "versions": {}, "hardware": {}}
    metrics: dict[str, Any] = {"step": []}
    if with_metrics:
        table = store.metrics(run)
        names = [name for name in ("step", "response_tokens") if name in table and table[name].notna().to_numpy().all()]
        metrics |= {name: table[name].to_numpy(dtype=float) for name in names}
    return Record(run.id, {**empty, **run.config}, metrics)


def same_but_seed(a: RunEntry, b: RunEntry) -> bool:
    """Says whether two runs are of one method, with the same parameters and data; code and machine may differ."""
    if a.method != b.method:
        return False
    return not any(difference.kind in ("parameters", "data") for difference in _compared(a, b).rest)


def _compared(a: RunEntry, b: RunEntry) -> Comparison:
    return compare_runs(record(a, with_metrics=False), record(b, with_metrics=False))


def group(runs: Sequence[RunEntry], seeds_together: bool) -> list[Series]:
    """Returns lines in the order of the runs; with ``seeds_together``, runs that differ only in the seed share a line.

    Colours are those of the methods if each line is of another method; otherwise they go by position in the list.
    """
    groups: list[list[RunEntry]] = []
    for run in runs:
        for members in groups if seeds_together else []:
            if run.seed not in {member.seed for member in members} and same_but_seed(members[0], run):
                members.append(run)
                break
        else:
            groups.append([run])
    order = list(dict.fromkeys(name for run in runs for name in (run.params.get("methods") or {})))
    methods = [members[0].method for members in groups]
    by_method = len(set(methods)) == len(methods) and set(methods) <= set(order)
    names = _names(groups)
    return [
        Series(name, tuple(members), order.index(members[0].method) if by_method else place,
               members[0].method if by_method else members[0].name)
        for place, (name, members) in enumerate(zip(names, groups, strict=True))
    ]  # fmt: skip


def _names(groups: Sequence[Sequence[RunEntry]]) -> list[str]:
    """Returns the titles of the groups, with ids beside those that would be alike."""
    names = []
    for runs in groups:
        run = runs[0]
        where = "" if run.kind == "sample" or (run.kind == "finished" and not run.place.key) else run.kind_label
        method = run.title.removesuffix(f", seed {run.seed}")
        name = run.title if len(runs) == 1 else f"{method}, {len(runs)} seeds"
        names.append(f"{name} · {where}" if where else name)
    return [
        name if names.count(name) == 1 else f"{name} ({runs[0].id})" for name, runs in zip(names, groups, strict=True)
    ]


def smoothed(values: pd.Series, window: int) -> pd.Series:
    """Returns the centred moving mean over ``window`` steps (fewer near the ends); NaN where nothing was measured."""
    half = window // 2
    means = values.rolling(2 * half + 1, center=True, min_periods=1).mean().to_numpy(dtype=float)  # pyright: ignore
    return pd.Series(np.where(np.isnan(values.to_numpy(dtype=float)), np.nan, means), index=values.index)


def positions(run: RunEntry, axis: str) -> pd.Series:
    """Returns where each step of a run stands on an axis of :data:`AXES`; step 0, before training, is at 0.

    Raises:
        UserError: if the run does not have what the axis needs.
    """
    if axis == "tokens":
        table = store.metrics(run)
        if "response_tokens" not in table:
            raise UserError(f"{run.label_of('metrics.csv')} has no column response_tokens: choose another x axis")
        sums = table["response_tokens"].cumsum()
    else:
        table = store.timing(run)
        sums = step_seconds(table).cumsum() / 60
    placed = pd.Series(sums.to_numpy(dtype=float), index=table["step"])
    placed = placed[~placed.index.duplicated()]
    return placed if 0 in placed.index else pd.concat([pd.Series([0.0], index=[0]), placed])


def line(series: Series, read: Reader, column: str, window: int = 1, axis: str = "step") -> pd.DataFrame | None:
    """Returns one column of a series as a table of lines; None where no run has it.

    Each seed is smoothed, then mean and range are taken over the seeds at the steps that all of them have. On another
    axis than that of steps, a step stands at the mean of its seeds' positions.
    """
    columns, where = [], []
    for run in series.runs:
        table = read(run)
        if column in table:
            values = table.set_index("step")[column].astype(float)
            if values.notna().to_numpy().any():
                columns.append(values[~values.index.duplicated()])
                if axis != "step":
                    where.append(positions(run, axis))
    if not columns:
        return None
    raw = pd.concat(columns, axis=1, join="inner")
    smooth = raw.apply(lambda values: smoothed(values, window))
    steps = pd.Index(raw.index)
    at = np.mean([each.reindex(steps) for each in where], axis=0) if where else steps.to_numpy(dtype=float)
    out = pd.DataFrame({"step": steps, "x": at, "value": smooth.mean(axis=1).to_numpy(), "series": series.name})
    if window > 1:
        out["raw"] = raw.mean(axis=1).to_numpy()
    if len(columns) > 1:
        out["low"], out["high"] = smooth.min(axis=1).to_numpy(), smooth.max(axis=1).to_numpy()
    return out.dropna(subset=["value", "x"])


def panel(
    title: str, shown: Sequence[Series], read: Reader, column: str, window: int = 1, axis: str = "step", **settings: Any
) -> Panel:
    """Returns the panel of one column of all series; a series that cannot be read is named in the notes."""
    parts, notes = [], []
    for series in shown:
        try:
            part = line(series, read, column, window, axis)
        except UserError as error:
            notes.append(str(error))
            continue
        if part is not None:
            parts.append(part)
    empty = pd.DataFrame(columns=["step", "x", "value", "series"])
    return Panel(title, pd.concat(parts, ignore_index=True) if parts else empty, notes=notes,
                 help=definitions.of(column), **settings)  # fmt: skip


def scheduled(run: RunEntry) -> pd.DataFrame:
    """Returns coefficients and learning rate at each step, computed from the run's own parameters.

    Raises:
        UserError: if the parameters lack what the schedules need.
    """
    method, train = method_of(run.params, run.method), train_of(run.params, run.method)
    try:
        if lacking := sorted({"steps", "lr"} - train.model_fields_set):
            raise ValueError(f"train lacks {', '.join(lacking)}")
        if "outcome" not in method.model_fields_set:
            raise ValueError(f"methods.{run.method} is missing")
        for shape in (method.beta_shape, method.rlsd_shape, train.lr_shape):
            if shape not in get_args(Shape):
                raise ValueError(f"the shape {shape} is unknown")
        rows = [
            {"step": step, **asdict(coefficients(method, step, train.steps)), "lr": learning_rate(train, step)}
            for step in range(1, train.steps + 1)
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"{run.label_of('config.yaml')}: its schedules cannot be worked out ({error}): it was made by "
                        "another version") from None  # fmt: skip
    table = pd.DataFrame(rows, columns=["step", *COEFFICIENTS])
    return table if method.switch is None else _switched(run, method.switch, table)


def _switched(run: RunEntry, settings: Any, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the coefficients with λ = 0 where the teacher's entropy, as the run measured it, switched λ off."""
    metrics = store.metrics(run)
    if not isinstance(settings, Mapping) or "teacher_entropy" not in metrics:
        return table
    found = EntropySwitchParams.model_construct(**settings)
    switch = EntropySwitch(window(found.warmup, len(table)), found.off)
    on = {step: switch.enter(value) for step, value in zip(metrics["step"], metrics["teacher_entropy"], strict=True)}
    off = [not on.get(step, True) for step in table["step"]]
    return table.assign(rlsd_lambda=table["rlsd_lambda"].mask(off, 0.0))


def coinciding(table: pd.DataFrame) -> list[str]:
    """Returns ``a and b`` for lines of a panel that lie within 1.5% of its range of each other at all common steps."""
    wide = table.pivot_table(index="step", columns="series", values="value", sort=False)
    reach = float(np.nanmax(wide) - np.nanmin(wide)) if wide.size else 0.0
    names, told, pairs = list(wide), set(), []
    for place, name in enumerate(names):
        for other in names[:place]:
            gaps = (wide[name] - wide[other]).abs().dropna()
            if other not in told and len(gaps) > 1 and float(gaps.max()) <= 0.015 * reach:
                pairs.append(f"{name} and {other}")
                told.add(name)
                break
    return pairs


def schedule_panel(title: str, shown: Sequence[Series], name: str) -> Panel:
    """Returns the panel of a coefficient, as scheduled (lines) and as applied (points) in each series' first run."""
    first = [replace(series, runs=series.runs[:1]) for series in shown]
    lines = panel(title, first, scheduled, name, form=".4g")
    applied = panel(title, first, store.metrics, name)
    both = lines.table.merge(
        applied.table.rename(columns={"value": "applied"}), on=["step", "x", "series"], how="outer", sort=True
    )
    return replace(lines, table=both.astype({"value": float, "applied": float}), notes=lines.notes + applied.notes)


def deviation(table: pd.DataFrame, series: str) -> tuple[int, float, float] | None:
    """Returns step, scheduled and applied value where the two differ most; None where all known values agree."""
    both = table[(table["series"] == series) & table["value"].notna() & table["applied"].notna()]
    steps, meant, applied = (np.asarray(both[name], dtype=float) for name in ("step", "value", "applied"))
    gap = np.abs(meant - applied)
    if not (gap > 1e-9 * np.maximum(np.abs(meant), np.abs(applied))).any():
        return None
    at = int(gap.argmax())
    return int(steps[at]), float(meant[at]), float(applied[at])
