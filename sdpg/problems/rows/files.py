"""Reads files of rows, packed by gzip or not: JSON Lines, a JSON list, CSV and Parquet.

Rows are dictionaries, one after another, each with its place in the file for errors. A byte order mark, the line ends
of Windows and blank lines make no difference. The cells of a CSV file are texts, as they are written: 027 is not 27.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any, BinaryIO, cast
import zlib

import pyarrow as pa
import pyarrow.parquet as pq

from sdpg.errors import UserError
from sdpg.files import json_object

KINDS = (".jsonl", ".json", ".csv", ".parquet")
"""The endings of files that are read, in any case; ``.gz`` may follow."""
GZIP = b"\x1f\x8b"
LONGEST_CELL = 1 << 30
"""The characters of a cell of a CSV file that are read; Python's own limit is shorter than some worked solutions."""
Placed = tuple[str, dict[str, Any]]
"""A place such as ``line 3``, and the row that stands there."""


def split_name(name: str) -> tuple[str, str] | None:
    """Splits a file's name into what comes before its kind, and its kind; ``None`` if no such file is read."""
    bare = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    kind = next((kind for kind in KINDS if bare.lower().endswith(kind)), None)
    return None if kind is None else (bare[: -len(kind)], kind)


def file_kind(name: str, where: str) -> str:
    """Returns the kind of a file, one of :data:`KINDS`.

    Raises:
        UserError: if files of this name are not read; the message begins with ``where``.
    """
    if (split := split_name(name)) is None:
        raise UserError(
            f"{where} is {name!r}: files that end in {', '.join(KINDS)} are read (.gz may follow); convert it"
        )
    return split[1]


@contextmanager
def opened(path: Path, remedy: str) -> Iterator[BinaryIO]:
    """Opens a file of rows.

    Args:
        path: the file.
        remedy: what a person does where it is missing; the error ends with it.

    Raises:
        UserError: if it does not exist or cannot be read.
    """
    try:
        file = path.open("rb")
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}") from None
    with file:
        yield file


def rows_in(file: BinaryIO, name: str, kind: str, columns: Sequence[str] | None = None) -> Iterator[Placed]:
    """Yields the rows of an open file, from its begin.

    Args:
        file: a file that can be sought in.
        name: its name in errors.
        kind: one of :data:`KINDS`.
        columns: the columns of a Parquet file that are read; ``None`` reads all.

    Raises:
        UserError: if the file is damaged or of another kind, or a row is no object; the message names its place.
    """
    file.seek(0)
    packed = file.read(len(GZIP)) == GZIP
    file.seek(0)
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    try:
        match kind:
            case ".jsonl":
                yield from _json_lines(stream, name)
            case ".json":
                yield from _json_list(stream, name)
            case ".csv":
                yield from _csv(stream, name)
            case _:
                yield from _parquet(io.BytesIO(stream.read()) if packed else stream, name, columns)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{name} is damaged or cut off (gzip: {error}): restore it") from None


def schema_names(path: Path) -> list[str] | None:
    """Returns the columns of a Parquet file that is not packed, without reading its rows; ``None`` for other files."""
    try:
        return list(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid):
        return None


def _json_lines(lines: Iterable[bytes], name: str) -> Iterator[Placed]:
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield f"line {number}", json_object(line, f"{name}, line {number}")


def _json_list(file: BinaryIO, name: str) -> Iterator[Placed]:
    text = file.read()
    if not text.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        # Some files of this ending hold one object a line.
        yield from _json_lines(text.splitlines(), name)
        return
    try:
        rows = json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason}): convert the file") from None
    except RecursionError:
        raise UserError(f"{name}: brackets are nested too deeply: mend the file") from None
    except ValueError as error:
        raise UserError(f"{name}: not valid JSON ({error}): mend the file") from None
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{name}, row {number}: a JSON object is expected, not {type(row).__name__}")
        yield f"row {number}", row


def _csv(file: BinaryIO, name: str) -> Iterator[Placed]:
    csv.field_size_limit(LONGEST_CELL)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    try:
        header = next(reader, [])
        if repeated := {column for column in header if header.count(column) > 1}:
            raise UserError(f"{name}: the columns {', '.join(sorted(repeated))} come twice: rename one of each")
        for cells in reader:
            place = f"line {reader.line_num}"
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{name}, {place}: {len(cells)} cells, but the first line names {len(header)} columns: mend the "
                    'row; a cell with a comma or a line end stands in "quotes"'
                )
            if cells:
                yield place, dict(zip(header, cells, strict=True))
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason}): convert the file") from None
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: not valid CSV ({error}): mend the row") from None
    finally:
        # Whoever opened the file reads it once more, or closes it.
        text.detach()


def _parquet(file: BinaryIO, name: str, columns: Sequence[str] | None) -> Iterator[Placed]:
    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches(columns=None if columns is None else list(columns)):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{name} is no readable Parquet file: {error}. Restore or convert it") from None
