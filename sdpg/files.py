"""Outputs that are never half written: a temporary name beside the target, then a rename."""

from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
import json
import os
from pathlib import Path, PurePosixPath
import re
import shutil
from typing import Any

import psutil
from safetensors import SafetensorError

from sdpg.errors import UserError

LONGEST_NAME = 255
"""The bytes of a name that common file systems allow."""


def check_name(name: str, field: str) -> None:
    """Refuses a name that is not one plain component of a path.

    Args:
        name: the name.
        field: the place that the name comes from, with which an error begins.

    Raises:
        UserError: if the name is empty, ``.`` or ``..``, holds a slash or a character that cannot be printed, or is too
            long: it could lead out of the folder in which it is used.
    """
    reason = None
    if name in ("", ".", ".."):
        reason = "names no file or folder of its own"
    elif "/" in name or "\\" in name or not name.isprintable():
        reason = "holds a slash or a character that cannot be printed"
    elif len(name.encode("utf-8")) > LONGEST_NAME:
        reason = f"has more than {LONGEST_NAME} bytes"
    if reason:
        raise UserError(f"{field}: {name[:80]!r} {reason}, and a plain name is needed: correct it")


def child(folder: Path, name: str, field: str) -> Path:
    """Returns the path of a name inside a folder, for what is written or removed there.

    Raises:
        UserError: if the name is no plain name, as :func:`check_name` says, or is a symbolic link there.
    """
    check_name(name, field)
    if (folder / name).is_symlink():
        raise UserError(f"{field}: {folder / name} is a symbolic link, which may lead anywhere: remove it")
    return folder / name


def check_within(path: str, field: str) -> None:
    """Refuses a path, read from outside, that could lead out of the folder to which it is relative.

    Raises:
        UserError: if the path is absolute, or one of its parts is no plain name, as :func:`check_name` says.
    """
    for part in PurePosixPath(path).parts or ("",):
        check_name(part, field)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def is_remains(name: str) -> bool:
    """Says whether a name is that of a temporary file or folder whose process has ended."""
    match = _REMAINS.fullmatch(name)
    return match is not None and not psutil.pid_exists(int(match.group(1)))


_REMAINS = re.compile(r"\..+\.(?:partial|outgoing)-(\d{1,9})(?:-journal|-wal|-shm)?")


def _explain(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot write {path}: {reason}. Nothing that was there before has changed; "
                     "free some space or mend the permissions, then run the same command again")  # fmt: skip


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, where they are missing.

    Raises:
        UserError: if something else stands in its place or in that of a folder above it, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for place in (path, *path.parents):
            if os.path.lexists(place) and not os.path.isdir(place):
                raise UserError(f"{place} is no folder, and one is needed there: move it away, then run the same "
                                "command again") from None  # fmt: skip
        raise _explain(path, error) from error


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on success it becomes ``path``, on any failure it is removed.

    Raises:
        UserError: if the disk is full or the place cannot be written, or ``path`` is a folder; ``path`` keeps what it
            held.
    """
    make_folder(path.parent)
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is to be written there: move it away, then run the same "
                        "command again")  # fmt: skip
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _explain(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """Yields an empty temporary folder; on success it takes the place of ``path``, on any failure it is removed.

    Raises:
        UserError: if the disk is full or the place cannot be written, or ``path`` is something else than a folder;
            ``path`` keeps what it held.
    """
    make_folder(path.parent)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise UserError(f"{path} is no folder, and one is to be written there: move it away, then run the same command "
                        "again")  # fmt: skip
    temporary = _temporary(path)
    # A killed process may have left its own behind; what a living one is writing stays.
    for stale in path.parent.glob(f".{escape(path.name)}.*"):
        if is_remains(stale.name) and not stale.is_symlink():
            if ".outgoing-" in stale.name and not path.exists():
                # The kill came between the two renames below: what was there is still whole.
                os.replace(stale, path)
            else:
                shutil.rmtree(stale)
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            # A folder cannot be renamed onto another, so the old one steps aside first.
            outgoing = path.with_name(f".{path.name}.outgoing-{os.getpid()}")
            os.replace(path, outgoing)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(outgoing, path)
                raise
            shutil.rmtree(outgoing)
        else:
            os.replace(temporary, path)
    except Exception as error:
        # Of a full disk safetensors tells by an exception of its own, and tokenizers by a bare one.
        bare = type(error) is Exception and "(os error " in str(error)
        if bare or isinstance(error, (OSError, SafetensorError)):
            raise _explain(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        remedy: what a person does to have it written again; errors end with it.

    Raises:
        UserError: if the file is missing or is no JSON that can be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {remedy}") from None
    # Beside errors of form: brackets thousands deep, and numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}") from None


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def json_object(line: str | bytes, where: str) -> dict[str, Any]:
    """Returns the JSON object of one line.

    Raises:
        UserError: if the line is no JSON object; the message begins with ``where``.
    """
    try:
        row = json.loads(line if isinstance(line, str) else line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason}): convert the file") from None
    except RecursionError:
        raise UserError(f"{where}: not valid JSON (brackets are nested too deeply): mend or remove the line") from None
    # Beside errors of form: numbers of thousands of digits.
    except ValueError as error:
        reason = getattr(error, "msg", None) or error
        raise UserError(f"{where}: not valid JSON ({reason}): mend or remove the line") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: a JSON object is expected, not {type(row).__name__}")
    return row


def read_numbered_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Reads one JSON object a line, with the number of its line; blank lines are skipped.

    Raises:
        UserError: if the file is missing, or a line is no JSON object (named by its number).
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: put the file there, or correct its name in params.yaml") from None
    return [
        (number, json_object(line, f"{path}, line {number}"))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads one JSON object a line, as :func:`read_numbered_lines` does."""
    return [row for _, row in read_numbered_lines(path)]
