"""Outputs that are never half written: a temporary name beside the target, then a rename."""

from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import shutil
from typing import Any

from safetensors import SafetensorError

from sdpg.errors import UserError


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-{os.getpid()}")


def _explain(path: Path, error: OSError | SafetensorError) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(f"cannot write {path}: {reason}. Nothing that was there before has changed; "
                     "free some space or mend the permissions, then run the same command again")  # fmt: skip


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; on success it becomes ``path``, on any failure it is removed.

    Raises:
        UserError: if the disk is full or the place cannot be written; ``path`` keeps what it held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Yields an empty temporary folder; on success it takes the place of ``path``, on any failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    # A killed process may have left its own behind; a target has one writer at a time.
    for pattern in (".partial-*", ".outgoing-*"):
        for stale in path.parent.glob(f".{path.name}{pattern}"):
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
    # safetensors reports a full disk by an exception of its own.
    except (OSError, SafetensorError) as error:
        raise _explain(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON; NaN and infinity are refused, as JSON has neither."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON object a line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads one JSON object a line; blank lines are skipped.

    Raises:
        UserError: if the file is missing, or a line is no JSON object (named by its number).
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: put the file there, or correct its name in params.yaml") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        # Beside errors of form: brackets thousands deep, and numbers of thousands of digits.
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or error
            raise UserError(f"{path}, line {number}: not valid JSON ({reason}): mend or remove the line") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: a JSON object is expected, not {type(row).__name__}")
        rows.append(row)
    return rows
