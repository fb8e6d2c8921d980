"""Finds where two runs first differ, step by step, and what differs between the machines that made them."""

from collections.abc import Iterator, Mapping
import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdpg.errors import UserError
from sdpg.records.manifest import noted_files, sha256
from sdpg.records.tables import DIGESTS

PROVENANCE = "config.yaml"
"""The file of a run in which equal runs may differ: it says where and when they were made."""
ENVIRONMENT = ("versions", "hardware", "code", "own_parts", "inputs")
"""The parts of config.yaml that may be why two runs of equal parameters differ."""


def differing_files(recorded: Path, found: Path) -> list[str]:
    """Returns the files of two runs, or of two evaluations, that are not equal in every bit, in order of their names.

    Digests are taken of what lies on the disk; manifests, times and provenance are left out.
    """
    before, after = ({name: sha256(folder / name) for name in noted_files(folder)} for folder in (recorded, found))
    return sorted(
        name for name in before.keys() | after.keys() if name != PROVENANCE and before.get(name) != after.get(name)
    )


def first_differences(recorded: Path, found: Path, steps: int | None = None) -> list[str]:
    """Says at which step two runs part: in the digests of steps, in the metrics and in the curves.

    Args:
        recorded: the folder of one run.
        found: the folder of the other, which may still be in progress.
        steps: the steps to compare; otherwise all.
    """
    said = []
    for name, what in ((DIGESTS, "digest"), ("metrics.csv", "metric"), ("curves.csv", "accuracy")):
        if (line := _first(recorded / name, found / name, what, steps)) is not None:
            said.append(line)
    return said


def _first(recorded: Path, found: Path, what: str, steps: int | None) -> str | None:
    if not recorded.is_file():  # an older run has no digests
        return None
    if not found.is_file():
        return f"{found.name} was not written now"
    before, after = _lines(recorded), _lines(found)
    for step in sorted(step for step in before.keys() | after.keys() if steps is None or step <= steps):
        one, other = before.get(step), after.get(step)
        if one is None or other is None:
            return f"step {step}: only the {'recorded' if other is None else 'new'} run has a line in {found.name}"
        for key in dict.fromkeys([*one, *other]):
            if one.get(key) != other.get(key):
                pair = f"{one.get(key)} recorded, {other.get(key)} now"
                return f"step {step}: the first {what} that differs is {key}: {pair}"
    return None


def _lines(path: Path) -> dict[int, dict[str, str]]:
    """Returns step → the cells of its line, as text, so that every digit counts; a line cut short is left out."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return {int(row["step"]): row for row in csv.DictReader(file) if (row.get("step") or "").isdecimal()}
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}): train the run again") from None


def first_row(recorded: Path, found: Path) -> str:
    """Says in which column and row two Parquet files first differ."""
    try:
        before, after = pq.read_table(recorded), pq.read_table(found)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{recorded} or {found} is damaged ({error}): run the stage that writes it again") from None
    if before.column_names != after.column_names:
        return "other columns"
    if len(before) != len(after):
        return f"{len(before)} rows recorded, {len(after)} now"
    for name in before.column_names:
        one, other = before[name], after[name]
        if not one.equals(other):
            # NaN differs from itself, and lists of floats may hold it.
            pairs = enumerate(zip(one.to_pylist(), other.to_pylist(), strict=True))
            row = next((at for at, (a, b) in pairs if repr(a) != repr(b)), None)
            if row is not None:
                return f"column {name}, row {row}"
    return "the same rows, written otherwise"


def environment_differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Returns what differs between the environments of two runs' config.yaml, one line for each value."""
    return [
        line for section in ENVIRONMENT
        for line in _differences(section, recorded.get(section), found.get(section))
    ]  # fmt: skip


def _differences(path: str, recorded: Any, found: Any) -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*recorded, *found]):
            yield from _differences(f"{path}.{key}", recorded.get(key), found.get(key))
    elif recorded != found:
        yield f"{path}: {recorded} recorded, {found} now"
