"""Reads the raw rows of a problem source: a hub dataset, a folder in its layout, a local file, an own function."""

from collections.abc import Iterable
from dataclasses import dataclass
import math
from pathlib import Path
import re
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from sdpg.errors import UserError
from sdpg.files import read_json_lines
from sdpg.params import ColumnMap, FileSource, HubSource, Imported
from sdpg.params.imported import check_call, load_part
from sdpg.records.provenance import hash_files

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Rows:
    """Raw rows and the name of their origin in errors; ``lines`` marks JSON Lines, whose rows have line numbers.

    Rows are iterated once, so that only the usable rows of a large hub dataset are ever in memory.
    """

    rows: Iterable[dict[str, Any]]
    count: int
    origin: str
    lines: Path | None = None
    commit: str | None = None

    def place(self, index: int) -> str:
        """Returns the name of a row in an error."""
        if self.lines is None:
            return f"{self.origin}, row {index + 1}"
        return f"{self.origin}, line {json_line_number(self.lines, index)}"


def json_line_number(path: Path, index: int) -> int:
    """Returns the line, from 1, of the ``index``-th row of a JSON Lines file, which may have blank lines."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [number for number, line in enumerate(lines, start=1) if line.strip()][index]


def read_rows(source: HubSource | FileSource, where: str, folder: Path) -> Rows:
    """Reads a source; files are below ``folder``, and ``where`` is its name in errors.

    Raises:
        UserError: if it cannot be reached or read, or a column is missing.
    """
    return _read_hub(source, where, folder) if isinstance(source, HubSource) else _read_file(source, where, folder)


def _needed_columns(columns: ColumnMap) -> list[str]:
    return list(
        dict.fromkeys(c for c in (columns.problem, columns.answer, columns.solution, columns.id) if c is not None)
    )


def _missing_column(place: str, column: str, present: Iterable[str]) -> UserError:
    return UserError(
        f"{place}: there is no column {column!r}; there are: {', '.join(sorted(present))}. Name the right one under "
        "`columns` of this source"
    )


def _read_hub(source: HubSource, where: str, folder: Path) -> Rows:
    # Importing datasets takes a second, which runs without hub data do not need.
    from datasets import Dataset, config, load_dataset
    from datasets.exceptions import DatasetsError

    origin = f"dataset {source.id}" + (f" ({source.config})" if source.config else "")
    local = folder / source.id
    cache = None
    if local.is_dir():
        # datasets knows a folder again by its last name and its card, also when it is another, or holds other files.
        files = [file for file in local.rglob("*") if not any(part[0] == "." for part in file.relative_to(local).parts)]
        cache = str(Path(config.HF_DATASETS_CACHE) / "folders" / hash_files(filter(Path.is_file, files), local))

    def load(path: str) -> Dataset:
        try:
            dataset = load_dataset(path, source.config, revision=source.revision, split=source.split, cache_dir=cache)
        except ConnectionError:
            raise
        except (OSError, ValueError, DatasetsError) as error:
            raise UserError(
                f"{where}: {origin}, split {source.split!r}, revision {source.revision!r} does not load: {error}\n"
                f"Correct id, config, revision or split, or put the dataset's files, README.md included, into {local}"
            ) from None
        assert isinstance(dataset, Dataset), "one split was asked for"
        return dataset

    commit = None
    try:
        dataset = load(str(local) if local.is_dir() else source.id)
        if not local.is_dir():
            commit = _commit(dataset)
            # Without the hub, datasets takes the version that it loaded last, whatever the revision.
            if commit is not None and _COMMIT.fullmatch(source.revision) and commit != source.revision:
                raise ConnectionError(f"revision is {source.revision}, but only commit {commit} is at hand")
    except ConnectionError as error:
        snapshot = _snapshot(source)
        if snapshot is None:
            raise UserError(
                f"{where}: {origin} cannot be reached ({error}). Go online once, or put its files, README.md included, "
                f"into {local} and run again"
            ) from None
        dataset, commit = load(str(snapshot)), snapshot.name
    needed = _needed_columns(source.columns)
    for column in needed:
        if column not in dataset.column_names:
            raise _missing_column(f"{where}: {origin}", column, dataset.column_names)
    rows = cast(Iterable[dict[str, Any]], dataset.select_columns(needed))
    return Rows(rows, len(dataset), source.id + (f"/{source.config}" if source.config else ""), commit=commit)


def _commit(dataset: Any) -> str | None:
    """Returns the commit of a dataset from the hub, which names its cache folder; None for a local folder."""
    name = Path(dataset.cache_files[0]["filename"]).parent.name
    return name if _COMMIT.fullmatch(name) else None


def _snapshot(source: HubSource) -> Path | None:
    """Returns the dataset's folder in the hub's cache, which its commit names; ``None`` where there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source.id, repo_type="dataset", revision=source.revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _read_file(source: FileSource, where: str, folder: Path) -> Rows:
    if Path(source.path).is_absolute() or ".." in Path(source.path).parts:
        raise UserError(
            f"{where}.path is {source.path!r}, outside data.folder ({folder}): put the file into that folder, whose "
            "content the pipeline watches for changes, or change data.folder"
        )
    path = folder / source.path
    needed = _needed_columns(source.columns)
    if path.suffix == ".jsonl":
        records = read_json_lines(path)
        rows = Rows(records, len(records), str(path), path)
        for index, row in enumerate(records):
            for column in needed:
                if column not in row:
                    raise _missing_column(rows.place(index), column, row)
        return rows
    if path.suffix != ".parquet":
        raise UserError(f"{where}.path is {source.path!r}: only .jsonl and .parquet files are read; convert it")
    try:
        present = pq.read_schema(path).names
        for column in needed:
            if column not in present:
                raise _missing_column(str(path), column, present)
        table = pq.read_table(path, columns=needed)
        return Rows((row for batch in table.to_batches() for row in batch.to_pylist()), table.num_rows, str(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: put the file there, or correct {where}.path in params.yaml") from None
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is no readable Parquet file: {error}. Restore or convert it") from None


def own_rows(source: Imported, where: str) -> Rows:
    """Calls a user's own function with its options, and reads all rows that it yields.

    Args:
        source: the function. Each row is a dict with ``problem`` and ``answer``, and ``solution`` and ``id`` where it
            has them.
        where: what errors call the source.

    Raises:
        UserError: if the function cannot be called or raises an exception, or a row is not as it has to be.
    """
    found = load_part(source, where)
    check_call(found, source, where)
    rows: list[dict[str, Any]] = []
    try:
        for row in found(**source.options):
            rows.append(row)
    # Whatever it is, its author has to see what raised it.
    except Exception as error:
        raise UserError(
            f"{where}: {source.path} raised {type(error).__name__} after {len(rows)} rows: {error}. Correct it; it has "
            "to return or yield one dict for each problem"
        ) from error
    known = {"problem", "answer", "solution", "id"}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or not {"problem", "answer"} <= row.keys() <= known:
            shown = sorted(map(str, row)) if isinstance(row, dict) else f"{type(row).__name__} {str(row)[:60]!r}"
            raise UserError(
                f"{source.path}, row {number}: a dict with problem and answer, and if need be solution and id, is "
                f"expected, not {shown}: correct what {where} yields"
            )
    return Rows([dict.fromkeys(known) | row for row in rows], len(rows), source.path)


def cell(rows: Rows, index: int, row: dict[str, Any], column: str | None) -> str:
    """Returns a cell as text; an absent one is empty. Whole floats, as some repacks store answers, lose their point."""
    match value := None if column is None else row[column]:
        case None:
            return ""
        case str():
            if _SURROGATE.search(value):
                raise UserError(
                    f"{rows.place(index)}: column {column!r} holds half a character (a lone surrogate such as "
                    "\\ud800), which no file or tokenizer takes: mend or remove the row"
                )
            return value.strip()
        case float() if not math.isfinite(value):
            return ""
        case float() if value.is_integer():
            return str(int(value))
        case float():
            return str(value)
        # Longer whole numbers than str() takes are no text or number that an answer could equal.
        case int() if value.bit_length() < 10_000:
            return str(value)
    raise UserError(
        f"{rows.place(index)}: column {column!r} holds a {type(value).__name__}, not text or a number: name a column "
        "with plain text, or convert the file"
    )


def answer_cell(rows: Rows, index: int, row: dict[str, Any], columns: ColumnMap) -> str:
    """Returns a row's answer, which stands behind ``columns.answer_after`` where that is given."""
    text = cell(rows, index, row, columns.answer)
    if columns.answer_after is None:
        return text
    _, mark, answer = text.rpartition(columns.answer_after)
    return answer if mark else ""


def solution_cell(rows: Rows, index: int, row: dict[str, Any], columns: ColumnMap) -> str:
    """Returns a row's solution, less the answer behind it and what ``columns.solution_without`` matches."""
    text = cell(rows, index, row, columns.solution)
    if columns.answer_after is not None and columns.solution == columns.answer:
        text = text.rpartition(columns.answer_after)[0]
    if columns.solution_without is not None:
        text = re.sub(columns.solution_without, "", text)
    return text.strip()
