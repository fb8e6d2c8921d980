"""Reads the raw rows of a problem source: a hub dataset, a folder in its layout, a local file, an own function."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any, cast

from sdpg.errors import UserError
from sdpg.params import ColumnMap, FileSource, HubSource, Imported
from sdpg.params.imported import check_call, load_part
from sdpg.problems.rows.columns import MissingColumn, Unusable, root, text_of, user_message, value_at
from sdpg.problems.rows.files import file_kind, opened, rows_in, schema_names
from sdpg.records.provenance import hash_files

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Rows:
    """Raw rows and the name of their origin in errors; ``places`` are those of a file's rows, such as ``line 3``.

    Rows are iterated once, so that only the usable rows of a large hub dataset are ever in memory.
    """

    rows: Iterable[dict[str, Any]]
    count: int
    origin: str
    places: Sequence[str] | None = None
    commit: str | None = None

    def place(self, index: int) -> str:
        """Returns the name of a row in an error."""
        return f"{self.origin}, {f'row {index + 1}' if self.places is None else self.places[index]}"


def read_rows(source: HubSource | FileSource, where: str, folder: Path) -> Rows:
    """Reads a source; files are below ``folder``, and ``where`` is its name in errors.

    Raises:
        UserError: if it cannot be reached or read, or a column is missing.
    """
    return _read_hub(source, where, folder) if isinstance(source, HubSource) else _read_file(source, where, folder)


def _needed_columns(columns: ColumnMap, present: Iterable[str], place: str) -> list[str]:
    """Returns the columns in which the paths of a map begin."""
    paths = (columns.problem, columns.answer, columns.solution, columns.id)
    try:
        return list(dict.fromkeys(root(path, present) for path in paths if path is not None))
    except MissingColumn as error:
        raise UserError(f"{place}: {error}") from None


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
    needed = _needed_columns(source.columns, dataset.column_names, f"{where}: {origin}")
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
    kind, path = file_kind(source.path, f"{where}.path"), folder / source.path
    present = schema_names(path) if kind == ".parquet" else None
    needed = None if present is None else _needed_columns(source.columns, present, str(path))
    with opened(path, f"put the file there, or correct {where}.path in params.yaml") as file:
        placed = list(rows_in(file, str(path), kind, needed))
    return Rows([row for _, row in placed], len(placed), str(path), [place for place, _ in placed])


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
    """Returns the text at a column's path, as :func:`~sdpg.problems.rows.columns.text_of` reads it; an absent one is
    empty.

    Raises:
        UserError: if there is no such column, or it holds no text; the message names the row.
    """
    try:
        return "" if column is None else text_of(value_at(row, column), column)
    except Unusable as error:
        raise UserError(f"{rows.place(index)}: {error}") from None


def problem_cell(rows: Rows, index: int, row: dict[str, Any], columns: ColumnMap) -> str:
    """Returns a row's problem, less what ``columns.problem_without`` matches; of a chat it is the user's message."""
    try:
        text = text_of(user_message(value_at(row, columns.problem)), columns.problem)
    except Unusable as error:
        raise UserError(f"{rows.place(index)}: {error}") from None
    return text if columns.problem_without is None else re.sub(columns.problem_without, "", text).strip()


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
