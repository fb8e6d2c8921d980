"""Accuracies of the runs in the app, per problem and as rows of the tables. The module imports no torch.

The estimators are the report's own (sdpg.results.tables); here the runs of one place are put together for them, and
incomplete or damaged runs are left out by name instead of stopping the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter

from app import disk_index, store
from app.evaluations import BASE_FILE, base, counts_in_training, counts_of_final, final, in_training
from app.sources import Found, RunEntry
from sdpg.errors import UserError
from sdpg.params import Params, parse_params
from sdpg.params.section import without_unknown
from sdpg.params.stored import fields_read
from sdpg.records.schemas import BASE, VALIDATION
from sdpg.results.runs import Results, Run
from sdpg.results.statistics.estimates import ProblemCounts
from sdpg.results.statistics.summaries import EvaluationSummary
from sdpg.results.tables import BASELINE, FinalRow, MainRow, final_rows, main_rows

WORKSPACE = "workspace"
"""The name in the URL of the place whose key is empty."""


def by_place(found: Found) -> dict[str, list[RunEntry]]:
    """Returns the finished runs of each place, by its name in the URL; only finished runs can be compared."""
    places: dict[str, list[RunEntry]] = {}
    for run in found.runs.values():
        if run.kind in ("finished", "sample"):
            places.setdefault(run.place.key or WORKSPACE, []).append(run)
    return places


def by_method(runs: Sequence[RunEntry]) -> dict[str, list[RunEntry]]:
    """Returns the runs of each method by seed; methods are in the order of the first run's own parameters."""
    order = list(dict.fromkeys(name for run in runs for name in (run.params.get("methods") or {})))
    methods: dict[str, list[RunEntry]] = {}
    for run in sorted(runs, key=lambda run: (order.index(run.method) if run.method in order else len(order), run.seed)):
        methods.setdefault(run.method, []).append(run)
    return methods


def method_places(runs: Sequence[RunEntry]) -> dict[str, int]:
    """Returns each method's place in the parameters, which decides its colour."""
    order = list(dict.fromkeys(name for run in runs for name in (run.params.get("methods") or {})))
    order += [run.method for run in runs if run.method not in order]
    return {name: place for place, name in enumerate(dict.fromkeys(order))}


def method_title(run: RunEntry) -> str:
    """Returns the method's title in the run's own parameters."""
    entry = (run.params.get("methods") or {}).get(run.method) or {}
    return str(entry.get("title") or run.method)


@dataclass(frozen=True)
class FoundRun(Run):
    """A run of the app, in the form that the report's statistics read."""

    entry: RunEntry = field(kw_only=True)

    def evaluation(self, step: int) -> dict[str, EvaluationSummary]:
        """Returns the in-training evaluation of a step: benchmark → its answers."""
        return in_training(self.entry, step)


@dataclass(frozen=True)
class Gathered:
    """The runs of a place, ready for the tables.

    Attributes:
        results: the results; None where no method is complete.
        runs: method → its runs, for the methods in ``results``.
        left_out: sentences that say what is not in the tables, and why.
    """

    results: Results | None
    runs: dict[str, list[RunEntry]]
    left_out: list[str]


def _columns(table: pd.DataFrame) -> dict[str, Any]:
    return {name: table[name].to_numpy(dtype=np.float64) for name in table}


def _read(run: RunEntry, benchmarks: Sequence[str]) -> FoundRun:
    """Returns the run; raises a :class:`UserError` if something is missing that the tables need."""
    curves = store.curves(run)
    if missing := [name for name in (*benchmarks, VALIDATION) if name not in curves]:
        raise UserError(f"{run.label_of('curves.csv')} has no column {', '.join(missing)}: it was made with other "
                        "benchmarks")  # fmt: skip
    if curves.empty:
        raise UserError(f"{run.label_of('curves.csv')} has no rows: run its stage again")
    # No table reads metrics.csv, which is the longest of a run's files.
    return FoundRun(run.method, run.seed, run.path(""), dict(run.config), _columns(curves), {}, final(run), entry=run)


class TableParams(Params):
    """A run's parameters, in which the fields that no table reads are not validated."""

    profile: str = "unknown"
    preset: str = "unknown"
    prompts: Any = None
    rollout: Any = None
    reward: Any = None
    watch: Any = None
    tracking: Any = None


def run_params(run: RunEntry) -> Params:
    """Returns the run's parameters, typed.

    A resolved method holds every field; fields without effect are left out. A run of another commit may hold more or
    fewer keys: keys that this code does not know are left out, and keys that no table reads may be missing.

    Raises:
        UserError: if a key is missing that tables read, or it has another meaning now.
    """
    tree = dict(run.params)
    methods = tree.get("methods")
    if isinstance(methods, dict):
        tree["methods"] = {name: fields_read(entry) for name, entry in methods.items()}
    return parse_params(without_unknown(TableParams, tree), run.label_of("config.yaml"), TableParams)


def gather(runs: Sequence[RunEntry], seeds: Sequence[int]) -> Gathered:
    """Puts the runs of one place together; a method is included if its runs of all ``seeds`` are complete.

    Raises:
        UserError: if the first run's parameters come from another version of this code.
    """
    methods = by_method([run for run in runs if run.seed in seeds])
    if not methods:
        return Gathered(None, {}, [])
    first = runs[0]
    params = run_params(first)
    complete: dict[str, list[Run]] = {}
    entries: dict[str, list[RunEntry]] = {}
    left_out: list[str] = []
    for method, group in methods.items():
        title = method_title(group[0])
        if lacking := [seed for seed in seeds if seed not in {run.seed for run in group}]:
            left_out.append(f"{title} has no run of seed {', '.join(map(str, lacking))}")
            continue
        try:
            params = _with_method(params, group[0])
            complete[method] = [_read(run, list(params.data.benchmarks)) for run in group]
            entries[method] = group
        except UserError as error:
            left_out.append(f"{title}: {error}")
    what_ran = params.run.model_copy(update={"methods": list(complete), "seeds": list(seeds)})
    results = Results(params.model_copy(update={"run": what_ran}), complete, base(runs))
    if not results.base:
        left_out.append("The base has no evaluations here, so that there are no gains over it")
    return _readable(results, entries, left_out)


def _with_method(params: Params, run: RunEntry) -> Params:
    """Returns the parameters with the entry of the run's method as the run itself has it."""
    own = run_params(run).methods
    if run.method not in own:
        raise UserError(f"{run.label_of('config.yaml')} has no methods.{run.method}: run its stage again")
    return params.model_copy(update={"methods": {**params.methods, run.method: own[run.method]}})


def _failure(results: Results, runs: dict[str, list[Run]]) -> str | None:
    """Says why these methods cannot be compared, or returns None; reads only counts, and no interval."""
    try:
        counts = {}
        for method in runs:
            for benchmark in results.benchmarks:
                counts[method, benchmark] = results.last(method, benchmark)
                for run, count in zip(runs[method], counts[method, benchmark], strict=True):
                    end = float(run.curves[benchmark][-1])
                    if abs(end - count.accuracy.mean()) > 1e-3:
                        return (f"{run.folder}: curves.csv ends with {end:.4f} on {benchmark!r}, but its evaluation "
                                f"rows give {count.accuracy.mean():.4f}: run its stage again")  # fmt: skip
                if len({count.problems for count in counts[method, benchmark]}) > 1:
                    return f"its seeds were evaluated on different problems of {benchmark!r}"
                other = counts.get((BASELINE, benchmark))
                if other and other[0].problems != counts[method, benchmark][0].problems:
                    return f"it was evaluated on other problems of {benchmark!r} than {results.title(BASELINE)}"
    except UserError as error:
        return str(error)
    return None


def _readable(results: Results, entries: dict[str, list[RunEntry]], left_out: list[str]) -> Gathered:
    """Leaves out the methods whose evaluations are missing, damaged, or of other problems."""
    kept: dict[str, list[Run]] = {}
    # GRPO comes first: the others are compared with it.
    for method in sorted(results.runs, key=lambda name: name != BASELINE):
        pair = {BASELINE: kept[BASELINE]} if BASELINE in kept else {}
        failure = _failure(results, {**pair, method: results.runs[method]})
        if failure is None:
            kept[method] = results.runs[method]
        else:
            left_out.append(f"{results.title(method)}: {failure}")
    runs = {method: kept[method] for method in results.runs if method in kept}
    if not runs:
        return Gathered(None, {}, left_out)
    return Gathered(Results(results.params, runs, results.base), {name: entries[name] for name in runs}, left_out)


def _stamps(gathered: Gathered) -> tuple[Any, ...]:
    """Returns a key that changes with any file behind the rows."""
    parts: list[Any] = []
    for runs in gathered.runs.values():
        for run in runs:
            paths = [run.path("curves.csv"), run.path("config.yaml")]
            paths += [run.place.files.path(run.final)] if run.final else []
            parts.append((run.id, run.folder, *[(str(path), path.stat().st_mtime_ns) for path in paths]))
    return tuple(parts)


class _Kept:
    """Results that are hashed and compared by their files, so that a cache can hold their rows."""

    def __init__(self, gathered: Gathered, results: Results) -> None:
        self.gathered, self.results = gathered, results
        self.key = _stamps(gathered)

    def content(self) -> str:
        """Returns a digest of every file behind the rows."""
        files: list[Path] = []
        for run in (run for runs in self.gathered.runs.values() for run in runs):
            files += [run.path(name) for name in ("config.yaml", "curves.csv", "metrics.csv")]
            files += [run.path(f"evaluations/{name}") for name in run.names("evaluations")]
            files += [run.place.files.path(run.final)] if run.final else []
            files += [run.place.files.path(BASE_FILE)] if run.place.files.exists(BASE_FILE) else []
        return disk_index.digest(*files)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and other.key == self.key


_MAIN, _FINAL = TypeAdapter(list[MainRow]), TypeAdapter(list[FinalRow])


@lru_cache(maxsize=4)
def _main(kept: _Kept) -> list[MainRow]:
    return disk_index.kept("main rows", kept.content(), _MAIN, lambda: main_rows(kept.results))


@lru_cache(maxsize=4)
def _final(kept: _Kept) -> list[FinalRow]:
    return disk_index.kept("final rows", kept.content(), _FINAL, lambda: final_rows(kept.results))


def main_table(gathered: Gathered) -> list[MainRow]:
    """Returns the rows of the main table; they are cached until a file changes."""
    assert gathered.results is not None
    return _main(_Kept(gathered, gathered.results))


def final_table(gathered: Gathered) -> tuple[list[FinalRow], list[str]]:
    """Returns the rows of the larger samples, and the titles of methods that have none."""
    assert gathered.results is not None
    results = gathered.results
    benchmarks = results.benchmarks

    def complete(run: Run) -> bool:
        return all((benchmark, greedy) in run.final for benchmark in benchmarks for greedy in (False, True))

    runs = {method: group for method, group in results.runs.items() if all(map(complete, group))}
    without = [results.title(method) for method in results.runs if method not in runs]
    if not runs:
        return [], without
    chosen = Gathered(Results(results.params, runs, results.base),
                      {method: gathered.runs[method] for method in runs}, [])  # fmt: skip
    return _final(_Kept(chosen, chosen.results)), without  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Solved:
    """The share of right answers to each problem, for one row of the heatmap: a method, one run, or the base."""

    key: str
    title: str
    counts: tuple[ProblemCounts, ...]
    """The counts of each seed."""
    runs: tuple[RunEntry, ...]

    @property
    def by_problem(self) -> dict[str, float]:
        """Returns the accuracy of each problem, averaged over the seeds that answered it."""
        values: dict[str, list[float]] = {}
        for counts in self.counts:
            for problem, accuracy in zip(counts.problems, counts.accuracy.tolist(), strict=True):
                values.setdefault(problem, []).append(accuracy)
        return {problem: float(np.mean(accuracies)) for problem, accuracies in values.items()}

    @property
    def samples(self) -> int:
        """Returns the number of answers per problem, all seeds together."""
        return sum(counts.samples for counts in self.counts)


Source = Callable[[RunEntry], ProblemCounts | None]


def last_of(benchmark: str) -> Source:
    """Returns a reader of the last evaluation in training."""

    def read(run: RunEntry) -> ProblemCounts | None:
        steps = store.evaluation_steps(run)
        return counts_in_training(run, max(steps)).get(benchmark) if steps else None

    return read


def final_of(benchmark: str) -> Source:
    """Returns a reader of the larger samples of the final policy."""
    return lambda run: counts_of_final(run, benchmark)


def solved(runs: Sequence[RunEntry], benchmark: str, source: Source, each_run: bool) -> tuple[list[Solved], list[str]]:
    """Returns rows (the base first, if it was evaluated, then methods or runs), and why runs are missing."""
    rows: list[Solved] = []
    notices: list[str] = []
    try:
        if answers := base(runs).get((BASE, benchmark, False)):
            rows.append(Solved(BASE, "Base", (answers.counts,), ()))
    except UserError as error:
        notices.append(str(error))
    for method, group in by_method(runs).items():
        read: list[tuple[RunEntry, ProblemCounts]] = []
        for run in group:
            try:
                if counts := source(run):
                    read.append((run, counts))
                else:
                    notices.append(f"{run.name} was not evaluated so")
            except UserError as error:
                notices.append(str(error))
        if each_run:
            rows += [Solved(run.id, run.name, (counts,), (run,)) for run, counts in read]
        elif read:
            rows.append(Solved(method, method_title(group[0]), tuple(counts for _, counts in read),
                               tuple(run for run, _ in read)))  # fmt: skip
    return rows, notices


def matrix(rows: Sequence[Solved]) -> pd.DataFrame:
    """Returns problems × rows (by key), NaN where a row has no answers to a problem; the easiest problem comes
    first."""
    table = pd.DataFrame({row.key: row.by_problem for row in rows})
    return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]


def through_training(runs: Sequence[RunEntry], benchmark: str, problem: str) -> tuple[pd.DataFrame, list[str]]:
    """Returns run, method, step, correct, samples and accuracy at each evaluation of one problem; and notices."""
    rows: list[Mapping[str, Any]] = []
    notices: list[str] = []
    for run in runs:
        for step in store.evaluation_steps(run):
            try:
                counts = counts_in_training(run, step).get(benchmark)
            except UserError as error:
                notices.append(str(error))
                continue
            if counts is None or problem not in counts.problems:
                continue
            at = counts.problems.index(problem)
            correct, samples = int(counts.correct[at]), counts.samples
            rows.append({"run": run.id, "method": run.method, "step": step, "correct": correct, "samples": samples,
                         "accuracy": correct / samples})  # fmt: skip
    columns = ["run", "method", "step", "correct", "samples", "accuracy"]
    return pd.DataFrame(rows, columns=columns), notices
