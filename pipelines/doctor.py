"""Says what is installed and found here, and sets aside what stops a project from going on.

What a kill left half made is named: databases and work in progress are renamed and never deleted; of remains
that no process writes any more, an earlier output is put back and a half-written one is removed. What is in use stays.
"""

import argparse
from collections.abc import Iterator
from contextlib import closing
import json
import os
from pathlib import Path
import shutil
import sqlite3
from typing import TYPE_CHECKING

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import UserError, entry_point
from sdpg.files import is_remains
from sdpg.locks import InUse, exclusive, holders

if TYPE_CHECKING:
    from sdpg.params import Params

FOLDERS = ("data", "models", "runs", "evaluations", "reports", "benchmarked", ".state")
"""The folders of outputs, in which remains are looked for."""
ASIDE = paths.STATE / "set-aside"
BESIDE = ("-journal", "-wal", "-shm")
"""The endings of files that belong to a sqlite database."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command, which has no options."""
    return command_parser("doctor", __doc__, "")


def main() -> None:
    """Runs ``sdpg doctor``; prints what is installed, what was found and what was done."""
    parser().parse_args()
    # Importing these takes time, which --help need not wait for.
    from pipelines.installed import look_around
    from sdpg.params import PARAMS_FILE, load_params

    params = load_params() if PARAMS_FILE.is_file() else None
    for line in look_around(params):
        print(line, flush=True)
    if params is None:
        print("\nThere is no project here: sdpg new my-project makes one.")
        return
    print(f"\nProject {Path.cwd()}:", flush=True)
    found = list(examine(params))
    print(
        "\n".join(found) if found else "Nothing stands in the way: databases, work in progress and outputs are whole."
    )


def examine(params: "Params") -> Iterator[str]:
    """Yields a line for each thing that was found, and mends it."""
    yield from (f"in use, left alone: {line}" for line in holders())
    from sdpg.records.event_queue import queues
    from sdpg.records.work import FINGERPRINT

    yield from _mlflow_database(params)
    yield from _study_database(params)
    for place in (Path(), *map(Path, FOLDERS)):
        yield from _remains(place, deep=place != Path())
    for folder in sorted(paths.STATE.iterdir()) if paths.STATE.is_dir() else ():
        if FINGERPRINT.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            yield from _work(folder)
    for queue in queues():
        yield from _events(queue)


def set_aside(path: Path, folder: Path | None = None) -> Path:
    """Gives a file or folder a free name, beside it or in a folder, and returns it; files of a database go with it."""
    number, place = 1, folder or path.parent
    place.mkdir(exist_ok=True)
    while (target := place / f"{path.name}.damaged-{number}").exists():
        number += 1
    os.rename(path, target)
    for ending in BESIDE:
        if (beside := path.with_name(path.name + ending)).exists():
            os.rename(beside, target.with_name(target.name + ending))
    return target


def _mlflow_database(params: "Params") -> Iterator[str]:
    from sdpg.records.mlflow_store import damage, database_file, store_lock

    file = database_file(params.tracking)
    if file is None:
        return
    with store_lock():
        if (reason := damage(file, thorough=True)) is not None:
            yield f"{file} {reason}: it is now {set_aside(file)}; the next command makes a new one"


def _study_database(params: "Params") -> Iterator[str]:
    from sdpg.tuning.storage import address

    url = address(params)
    file = Path(url.database or "")
    if url.get_backend_name() != "sqlite" or not file.is_file():
        return
    if (reason := _study_damage(file)) is not None:
        yield f"{file} {reason}: it is now {set_aside(file)}; sdpg tune begins its studies anew"


def _study_damage(file: Path) -> str | None:
    if not file.stat().st_size:
        return "is empty"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
            if (found := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                return f"is damaged ({found})"
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            known = {"studies", "trials", "version_info"} <= tables
            if not known or not database.execute("SELECT * FROM version_info").fetchall():
                return "is not Optuna's, or was left half made"
    except sqlite3.DatabaseError as error:
        broken = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
        return f"is damaged ({error})" if broken else None
    return None


def _remains(place: Path, deep: bool) -> Iterator[str]:
    """Removes temporary files and folders of ended processes; an output that had stepped aside is put back."""
    if not place.is_dir():
        return
    for path in sorted(place.rglob(".*") if deep else place.glob(".*")):
        if not is_remains(path.name) or path.is_symlink() or not path.exists():
            continue
        target = path.with_name(path.name[1:].rsplit(".", 1)[0])
        if ".outgoing-" in path.name and not target.exists():
            os.rename(path, target)
            yield f"{path}, stepped aside for a new {target} that was never finished: it is {target} again"
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        yield f"{path}, left half written by a process that ended: removed"


def _work(folder: Path) -> Iterator[str]:
    """Sets work in progress aside that a resumed run could not read."""
    try:
        with exclusive(folder):
            if (reason := _unreadable(folder)) is not None:
                yield f"{folder}: {reason}. It is now {set_aside(folder, ASIDE)}; the run begins anew"
    except InUse:
        return


def _events(queue: Path) -> Iterator[str]:
    """Names events that wait for MLflow, and sets those aside that cannot be read."""
    from sdpg.records.delivery import UNREADABLE, count_events
    from sdpg.records.event_queue import locked

    try:
        with locked(queue):
            if (count := count_events(queue)) > 0:
                yield f"{queue}: {count} events wait for MLflow; sdpg deliver delivers them"
    except UNREADABLE as error:
        yield f"{queue} is damaged ({error}): it is now {set_aside(queue, ASIDE)}; MLflow lacks what it held"
    except (InUse, FileNotFoundError):
        return


def _unreadable(folder: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    from sdpg.params import read_yaml
    from sdpg.training.saved_files import check_files, read_state

    if (folder / "config.yaml").exists():
        try:
            if not isinstance(read_yaml(folder / "config.yaml"), dict):
                return "config.yaml says nothing"
        except (UserError, ValueError) as error:
            return f"config.yaml cannot be read ({error})"
    for table in sorted(folder.glob("*.csv")):
        try:
            header, *lines = table.read_text(encoding="utf-8").splitlines(keepends=True)
            for line in lines:
                if line.endswith("\n"):
                    int(line.split(",", 1)[0])
            if not header.startswith("step"):
                return f"{table.name} has no column of steps"
        except ValueError as error:
            return f"{table.name} is damaged ({error})"
    for checkpoint in sorted(path for path in folder.glob("checkpoint-*") if path.is_dir()):
        try:
            saved = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
            int(saved["step"])
            # Those of other versions of the code have none, and nothing goes on from them.
            if "digest" in saved:
                check_files(checkpoint, read_state(checkpoint))
            for file in checkpoint.glob("*.safetensors"):
                with safe_open(file, framework="numpy") as tensors:
                    tensors.keys()
        except UserError as error:
            return str(error)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            return f"{checkpoint.name} is damaged ({error})"
    return None


if __name__ == "__main__":
    entry_point(main)
