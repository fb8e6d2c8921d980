"""Notes what a checkpoint was saved with, and refuses to go on from anything else.

A disk, a copy or an editor may change a file of a run in progress. ``state.json`` holds size and digest of the
checkpoint's own files and of all records and tables up to its step, and a digest of itself: what differs is named, and
nothing is trained from it. The module imports no torch.
"""

from collections.abc import Mapping
import json
from pathlib import Path
import re
from typing import Any

import xxhash

from sdpg.errors import UserError
from sdpg.files import read_json, replaced_file

CHECKPOINT = re.compile(r"^checkpoint-(\d{6})$")
STEP_FILE = re.compile(r"^step-(\d{6})\b.*\.parquet$")
RECORDS = ("rollouts", "evaluations")
TIMES = "timing.csv"
"""A table of which the form alone is checked: no result depends on its times, and equal runs differ in it."""
STATE = "state.json"
Noted = dict[str, tuple[int, str]]
"""The path of a file, relative to its folder → its size in bytes and the digest of its content."""


def newest_checkpoint(state: Path) -> Path | None:
    """Returns the folder of the last checkpoint that was written whole."""
    checkpoints = sorted(path for path in state.iterdir() if CHECKPOINT.match(path.name)) if state.exists() else []
    return checkpoints[-1] if checkpoints else None


def note_files(folder: Path, names: list[str], known: Mapping[str, Any]) -> Noted:
    """Returns size and digest of files; those that are known already, as records never change, are not read again."""
    noted: Noted = {}
    for name in names:
        if name.endswith(".parquet") and name in known:
            size, digest = known[name]
        else:
            size, digest = (folder / name).stat().st_size, _digest(folder / name)
        noted[name] = (size, digest)
    return noted


def known_files(state: Path) -> Mapping[str, Any]:
    """Returns the files that the newest checkpoint notes; none where it cannot be read, as a new one replaces it."""
    newest = newest_checkpoint(state)
    try:
        return {} if newest is None else read_state(newest)["files"]
    except UserError:
        return {}


def run_files(state: Path, step: int) -> list[str]:
    """Returns the records up to a step and the tables of a run in progress, relative to its folder."""
    records = [
        path.relative_to(state).as_posix() for folder in RECORDS for path in sorted((state / folder).glob("*"))
        if (match := STEP_FILE.match(path.name)) and int(match.group(1)) <= step
    ]  # fmt: skip
    return records + sorted(path.name for path in state.glob("*.csv") if path.name != TIMES)


def write_state(folder: Path, values: dict[str, Any]) -> None:
    """Writes state.json with a digest of itself."""
    (folder / STATE).write_text(json.dumps({**values, "digest": _own_digest(values)}), encoding="utf-8")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Reads state.json of a checkpoint.

    Raises:
        UserError: if it is missing, or is not what was written.
    """
    path = checkpoint / STATE
    values = read_json(path, _remedy(checkpoint))
    if not isinstance(values, dict) or values.pop("digest", None) != _own_digest(values):
        raise _damaged(checkpoint, path)
    return values


def check_files(checkpoint: Path, saved: Mapping[str, Any]) -> None:
    """Refuses a checkpoint, or records or tables up to its step, that are not what it was saved with.

    Raises:
        UserError: if a file is missing or differs; the message names it.
    """
    for folder, noted in ((checkpoint, saved["tensors"]), (checkpoint.parent, saved["files"])):
        for name, (size, digest) in noted.items():
            path = folder / name
            # Tables may have lines of later steps by now.
            longer = size if path.suffix == ".csv" else None
            try:
                found = path.stat().st_size, _digest(path, longer)
            except OSError:
                raise _damaged(checkpoint, path) from None
            if found[1] != digest or (found[0] < size if longer is not None else found[0] != size):
                raise _damaged(checkpoint, path)
    times = checkpoint.parent / TIMES
    if saved["times"] is not None and not _are_times(times, saved["times"], saved["step"]):
        raise _damaged(checkpoint, times)


def times_header(state: Path) -> str | None:
    """Returns the first line of the table of times; ``None`` where there is no such table."""
    path = state / TIMES
    return path.read_text(encoding="utf-8").split("\n")[0] if path.exists() else None


def _are_times(path: Path, header: str, step: int) -> bool:
    """Says whether a table has this header, and a line of numbers for each step up to ``step``."""
    try:
        # What comes after the last newline, or after the step, is cut off.
        lines = path.read_bytes().decode("latin-1").split("\n")[:-1][: step + 1]
        rows = [[float(field or 0) for field in line.split(",")] for line in lines[1:]]
    except (OSError, ValueError):
        return False
    steps = [row[0] for row in rows]
    return lines[:1] == [header] and steps == list(range(1, step + 1)) and {len(row) for row in rows} <= {
        len(header.split(","))
    }  # fmt: skip


def cut_after(state: Path, step: int, files: Mapping[str, Any]) -> None:
    """Removes the records and lines of later steps, and a line or file that a kill left half written.

    Args:
        state: the folder of the run in progress.
        step: the step of its checkpoint, 0 where there is none.
        files: the files that the checkpoint was saved with; tables get the length that they had.
    """
    for folder in (state / name for name in RECORDS):
        for path in folder.iterdir() if folder.exists() else []:
            match = STEP_FILE.match(path.name)
            if match is None or int(match.group(1)) > step:
                path.unlink()
    for path in state.glob("*.csv"):
        if path.name == TIMES and files:
            size = sum(len(line) + 1 for line in path.read_bytes().split(b"\n")[: step + 1])
        elif path.name in files:
            size = files[path.name][0]
        else:
            path.unlink()
            continue
        if path.stat().st_size > size:
            with replaced_file(path) as temporary, path.open("rb") as file:
                temporary.write_bytes(file.read(size))


def _digest(path: Path, size: int | None = None) -> str:
    digest = xxhash.xxh3_128()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, 1 << 24))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def _own_digest(values: dict[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(values, sort_keys=True).encode())


def _remedy(checkpoint: Path) -> str:
    return (
        f"restore it from a copy, or have `sdpg doctor` move {checkpoint.parent} aside; the same command then makes "
        "the run's steps anew"
    )


def _damaged(checkpoint: Path, path: Path) -> UserError:
    return UserError(f"{path} is missing or damaged: it is not what {checkpoint.name} was saved with. Nothing was "
                     f"changed: {_remedy(checkpoint)}")  # fmt: skip
