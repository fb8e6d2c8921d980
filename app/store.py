"""Reads what pages show of a run: metrics, curves, rollouts, evaluations, cached until the file changes.

Nothing is read that a page does not show: the index of a run's rollouts reads scalars and each rollout's mean KL, and
tokens are read for one step at a time. The module imports no torch.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
import io
from pathlib import Path
import re
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.records.manifest import check_file
from sdpg.records.parquet import join_records
from sdpg.records.schemas import read_evaluations, read_rollouts
from sdpg.records.tables import holds_words

STEP = re.compile(r"^step-(\d{6})(?:-rank-\d+)?\.parquet$")
ROW = ["step", "problem_id", "group", "sibling", "reward", "status", "extracted_answer", "gold", "advantage", "gate",
       "length", "truncated", "verifier", "verifier_version"]  # fmt: skip
"""The columns of the index that stand in a rollout's row."""
MEANS = ("kl_to_teacher", "entropy")
"""The per-token values whose mean over each rollout is in the index; NaN where they were not recorded."""

P = ParamSpec("P")
T = TypeVar("T")


def stamp(path: Path) -> tuple[int, int]:
    """Returns what changes when a file is written again."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def cached_by_file(size: int) -> Callable[[Callable[[Path], T]], Callable[[Path], T]]:
    """Caches the last ``size`` results of a reader of one file; a file that was written again is read again.

    A file that is not what its run's manifest says is a :class:`UserError` and is not read.

    Callers must not change the results.
    """

    def decorate(read: Callable[[Path], T]) -> Callable[[Path], T]:
        @lru_cache(maxsize=size)
        def kept(path: Path, stamped: tuple[int, int]) -> T:
            del stamped
            check_file(path)
            return read(path)

        @wraps(read)
        def reader(path: Path) -> T:
            try:
                return kept(path, stamp(path))
            except (FileNotFoundError, NotADirectoryError):
                raise UserError(f"{path} does not exist: run the stage that writes it") from None

        return reader

    return decorate


@cached_by_file(256)
def _read_csv(path: Path) -> pd.DataFrame:
    text = path.read_text(encoding="utf-8", errors="replace")
    # The last line of a run in progress may be incomplete.
    text = text[: text.rfind("\n") + 1]
    try:
        table = pd.read_csv(io.StringIO(text))
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is damaged ({error}): run the stage that writes it again") from None
    if "step" not in table:
        raise UserError(f"{path} has no column step: run the stage that writes it again")
    if table.empty:
        return table.astype(float)  # the run has not made its first step
    broken = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    # A column that another version wrote in words is no curve.
    words = [name for name in broken if holds_words(str(name), table[name].dropna().astype(str).tolist())]
    table = table.drop(columns=words)
    if broken := [name for name in broken if name not in words]:
        raise UserError(f"{path} holds something that is no number in column {broken[0]}: run its stage again")
    return table


def metrics(run: RunEntry) -> pd.DataFrame:
    """Returns metrics.csv: a row per training step, NaN where a step measured nothing."""
    return _read_csv(run.path("metrics.csv"))


def curves(run: RunEntry) -> pd.DataFrame:
    """Returns curves.csv: a row per evaluation, from the base at step 0; accuracies per benchmark and on validation."""
    return _read_csv(run.path("curves.csv"))


def timing(run: RunEntry) -> pd.DataFrame:
    """Returns timing.csv: seconds, tokens a second and memory, a row per training step."""
    return _read_csv(run.path("timing.csv"))


def benchmarks(run: RunEntry) -> dict[str, str]:
    """Returns the run's benchmarks: name → title."""
    entries = (run.params.get("data") or {}).get("benchmarks") or {}
    return {name: str((entry or {}).get("title") or name) for name, entry in entries.items()}


def _steps(run: RunEntry, folder: str) -> dict[int, list[str]]:
    files: dict[int, list[str]] = {}
    for name in run.names(folder):
        if match := STEP.match(name):
            files.setdefault(int(match.group(1)), []).append(f"{folder}/{name}")
    return files


def rollout_steps(run: RunEntry) -> list[int]:
    """Returns the steps whose rollouts were written."""
    return list(_steps(run, "rollouts"))


def evaluation_steps(run: RunEntry) -> list[int]:
    """Returns the steps at which the run was evaluated in training; the base's step 0 is not among them."""
    return list(_steps(run, "evaluations"))


@cached_by_file(6)
def _step_table(path: Path) -> pa.Table:
    return read_rollouts(path)


def step_rollouts(run: RunEntry, step: int) -> pa.Table:
    """Returns every column of a step's rollouts, from all ranks: :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`, and the
    files' further columns."""
    names = _steps(run, "rollouts").get(step)
    if not names:
        raise UserError(f"{run.label_of('rollouts')} has no records of step {step}: choose another step")
    tables = [_step_table(run.path(name)) for name in names]
    return join_records(tables, f"{run.label_of('rollouts')}, step {step}")


def rollout(run: RunEntry, step: int, group: int, sibling: int) -> dict[str, Any]:
    """Returns one rollout's row, with its per-token lists."""
    table = step_rollouts(run, step)
    here = pc.and_(pc.equal(table["group"], group), pc.equal(table["sibling"], sibling))
    places = np.flatnonzero(here.to_numpy(zero_copy_only=False))
    if len(places) == 0:
        raise UserError(f"{run.label_of('rollouts')}: step {step} has no group {group} with a sibling {sibling}")
    return table.slice(int(places[0]), 1).to_pylist()[0]


def _row_means(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the mean of each row's list, (B,); NaN where there is none."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # the column has no rows at all
        return np.zeros(0)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    ends = np.cumsum(lengths)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(lengths > 0, (sums[ends] - sums[ends - lengths]) / np.maximum(lengths, 1), np.nan)


@cached_by_file(2048)
def _index_of_file(path: Path) -> pa.Table:
    table = read_rollouts(path, [*ROW, *MEANS])
    means = {name: pa.array(_row_means(table.column(name)), from_pandas=True) for name in MEANS}
    table = table.select(ROW)
    for name, values in means.items():
        table = table.append_column(name, values)
    return table


@lru_cache(maxsize=4)
def _joined(files: tuple[tuple[Path, tuple[int, int]], ...]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    tables, notices = [], []
    for path, _ in files:
        try:
            tables.append(_index_of_file(path))
        except UserError as error:
            notices.append(str(error))
    if not tables:
        return pd.DataFrame({name: [] for name in (*ROW, *MEANS)}), tuple(notices)
    return pa.concat_tables(tables).to_pandas(), tuple(notices)


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns a table's rows, with None for every missing value of pandas (NaN in text among them)."""
    return table.astype(object).where(table.notna(), None).to_dict("records")  # pyright: ignore[reportReturnType]


def index(run: RunEntry) -> tuple[pd.DataFrame, list[str]]:
    """Returns a row per recorded rollout (:data:`ROW` and the means of :data:`MEANS`), and notices of unread files.

    The table is cached and must not be changed.
    """
    paths = [run.path(name) for names in _steps(run, "rollouts").values() for name in names]
    frame, notices = _joined(tuple((path, stamp(path)) for path in paths))
    return frame, list(notices)


def search(run: RunEntry, text: str, column: str = "completion") -> set[tuple[int, int, int]]:
    """Returns (step, group, sibling) of the rollouts whose text contains ``text``, in any case."""
    keys = set()
    for names in _steps(run, "rollouts").values():
        for name in names:
            table = read_rollouts(run.path(name), ["step", "group", "sibling", column])
            hits = table.filter(pc.match_substring(table[column], text, ignore_case=True))
            keys |= set(zip(*(hits[key].to_pylist() for key in ("step", "group", "sibling")), strict=True))
    return keys


@cached_by_file(32)
def _answers(path: Path) -> pa.Table:
    return read_evaluations(path)


def evaluation(run: RunEntry, step: int) -> pa.Table:
    """Returns the in-training evaluation of a step, :data:`sdpg.records.schemas.EVALUATION_SCHEMA`."""
    names = _steps(run, "evaluations").get(step)
    if not names:
        raise UserError(f"{run.label_of('evaluations')} has no evaluation at step {step}: choose another step")
    return join_records([_answers(run.path(name)) for name in names], f"{run.label_of('evaluations')}, step {step}")


def final(run: RunEntry) -> pa.Table:
    """Returns the final policy's larger samples.

    Raises:
        UserError: if the evaluate stage was not run for it.
    """
    if run.final is None:
        raise UserError(f"{run.place.files.label}evaluations/{run.name} does not exist: run the stage "
                        f"evaluate@{run.name} (dvc repro evaluate@{run.name})")  # fmt: skip
    return _answers(run.place.files.path(run.final))


def base(run: RunEntry) -> pa.Table:
    """Returns the base's evaluations beside the run: methods ``base`` and ``base-teacher``."""
    name = "models/base-evaluations/sampled.parquet"
    if not run.place.files.exists(name):
        raise UserError(f"{run.place.files.label}{name} does not exist: run the stage base (dvc repro base)")
    return _answers(run.place.files.path(name))


def recorded_tokens(run: RunEntry) -> int:
    """Returns the number of recorded response tokens."""
    return int(index(run)[0]["length"].sum())
