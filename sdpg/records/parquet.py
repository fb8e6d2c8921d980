"""Reads and writes Parquet files that say which kind of record they hold, in which version; columns may be added.

A reader accepts a file whose columns differ: a column that the file lacks is null, and one that the schema does not
know is kept. The version says what the columns *mean*; it rises only when a meaning changes, and then
:data:`CONVERSIONS` converts the files of older versions, one version at a time. docs/records.md has the rules. The
module imports no torch.
"""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdpg.errors import UserError
from sdpg.files import replaced_file

SCHEMA_VERSION = "2"
VERSION_KEY = b"sdpg_schema_version"
KIND_KEY = b"sdpg_kind"


class Conversion(NamedTuple):
    """A step from one version of the records to the next.

    Attributes:
        needs: the columns that ``convert`` reads; every file of the older version has them, and they are read beside
            the columns that the caller wants.
        convert: a function from a table in the older version to its rows in the next one.
    """

    needs: tuple[str, ...]
    convert: Callable[[pa.Table], pa.Table]


def _tell_cut_responses(table: pa.Table) -> pa.Table:
    """Adds ``truncated``: true where the status says so, null elsewhere, since an answer may precede the cut."""
    if "truncated" in table.column_names:
        return table
    cut = [status == "truncated" or None for status in table["status"].to_pylist()]
    return table.append_column("truncated", pa.array(cut, pa.bool_()))


CONVERSIONS: dict[int, Conversion] = {1: Conversion(("status",), _tell_cut_responses)}
"""Version → the step to the next version; rollouts and evaluations share these steps.

In version 1, only the status ``truncated`` said that a response was cut, and only for responses without an answer.
"""


def records_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    required: Sequence[str],
    columns: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """Arranges rows in the schema's columns; a column that a row does not name is null in it.

    Args:
        path: the path of the file that the rows are for, which errors name.
        rows: the records.
        schema: the schema of their kind of record.
        required: the columns that each row must name.
        columns: whole columns, which the rows then need not name.

    Raises:
        ValueError: if a row names a column that the schema lacks, or lacks a required one.
    """
    whole = columns or {}
    for row in rows:
        if unknown := sorted({*row, *whole} - set(schema.names)):
            raise ValueError(f"{path.name}: a row has fields that the schema has not: {', '.join(unknown)}")
        if missing := [name for name in required if name not in row and name not in whole]:
            raise ValueError(f"{path.name}: a row lacks required fields: {', '.join(missing)}")
    table = pa.Table.from_pylist(list(rows), schema=schema)
    for name, values in whole.items():
        place = schema.get_field_index(name)
        table = table.set_column(place, schema.field(place), values)
    return table


def write_records(path: Path, table: pa.Table, rising: Collection[str] = ()) -> None:
    """Writes the file whole or not at all, with a checksum for each page.

    Args:
        path: the file's path.
        table: the records.
        rising: columns of lists of whole numbers that rise, of which only the differences are stored.
    """
    # Numbers per token hardly ever repeat: a dictionary of them makes the file larger, and takes most of the time.
    repeating: Any = [
        f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
        for field in table.schema
        if field.name not in rising
        and not (pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type))
    ]
    differences = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in rising}
    with replaced_file(path) as temporary:
        pq.write_table(
            table, temporary, compression="zstd", use_dictionary=repeating, column_encoding=differences,
            write_page_checksum=True,
        )  # fmt: skip


def read_records(
    path: Path,
    schema: pa.Schema,
    required: Sequence[str],
    columns: Sequence[str] | None = None,
    rows: bool = True,
) -> pa.Table:
    """Reads records of one kind, and returns them in the current version whatever the file's version is.

    Args:
        path: the file's path.
        schema: the schema of the kind of record; its metadata names the kind and the version.
        required: the columns that a file of any version has.
        columns: the columns to read, in this order; by default those of the schema, then the file's further columns.
        rows: False for a table without rows, which says what columns the file would give; only the footer is read.

    Returns:
        A table with the schema's types; text that is not valid UTF-8 has replacement characters.

    Raises:
        UserError: if the file is missing, damaged, of another kind, or of a version that this code cannot read.
        ValueError: if a column is wanted that neither the schema nor the file has.
    """
    try:
        return _read(path, schema, required, columns, rows)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it") from None
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{path} cannot be read ({error.strerror}): mend its permissions or its disk") from None
        raise _damaged(path, error) from None
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, why: object) -> UserError:
    return UserError(f"{path} is damaged ({why}): run the stage that writes it again")


def _read(
    path: Path, schema: pa.Schema, required: Sequence[str], columns: Sequence[str] | None, rows: bool
) -> pa.Table:
    # Read this one file alone: a reader of data sets would take folders named like "seed=0" for columns.
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        inside = file.schema_arrow
        steps = _steps(path, inside.metadata or {}, schema)
        _check_footer(path, file)
        known = [*schema.names, *(name for name in inside.names if name not in schema.names)]
        wanted = known if columns is None else list(columns)
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(f"{path} has no column {', '.join(unknown)}, and nor has its schema")
        needs = [name for step in steps for name in step.needs]
        if missing := [name for name in needs if name not in inside.names]:
            raise _damaged(path, f"it has no column {', '.join(missing)}, which every record of its version has")
        present = [name for name in inside.names if name in wanted or name in needs]
        if rows:
            table = file.read(columns=present)
            _check_counts(path, file, table)
        else:
            table = inside.empty_table().select(present)
    for step in steps:
        table = step.convert(table)
    if missing := [name for name in wanted if name in required and name not in table.column_names]:
        raise _damaged(path, f"it has no column {', '.join(missing)}, which every record of its kind has")
    fields = [schema.field(name) if name in schema.names else table.schema.field(name) for name in wanted]
    values = [_typed(table, field) for field in fields]
    return readable(pa.table(values, schema=pa.schema(fields, metadata=schema.metadata)))


def _steps(path: Path, metadata: Mapping[bytes, bytes], schema: pa.Schema) -> list[Conversion]:
    """Returns the conversions from the file's version to the schema's."""
    own = schema.metadata or {}
    if metadata.get(KIND_KEY) not in (None, own[KIND_KEY]):
        raise UserError(f"{path} holds {metadata[KIND_KEY]!r} records, not what is expected here")
    said, current = metadata.get(VERSION_KEY, b"none").decode(errors="replace"), int(own[VERSION_KEY])
    if said.isdecimal() and int(said) > current:
        raise UserError(f"{path} has schema version {said}, of newer code; this code reads versions up to {current}: "
                        "update this checkout (git pull), or use the commit that wrote the file")  # fmt: skip
    versions = range(int(said), current) if said.isdecimal() else ()
    if not said.isdecimal() or any(version not in CONVERSIONS for version in versions):
        raise UserError(f"{path} has schema version {said}; this code reads {min(CONVERSIONS, default=current)} to "
                        f"{current}: run the stage that writes it again")  # fmt: skip
    return [CONVERSIONS[version] for version in versions]


def _check_footer(path: Path, file: pq.ParquetFile) -> None:
    """Raises if the footer, which has no checksum, disagrees with itself about what it states twice."""
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise _damaged(path, "two columns have one name")
    if again := (file.metadata.metadata or {}).get(b"ARROW:schema"):
        try:
            said = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(again)))
        except ValueError as error:  # the text is not valid base64
            raise _damaged(path, error) from None
        if said.names != names:
            raise _damaged(path, "its two lists of columns differ")


def _check_counts(path: Path, file: pq.ParquetFile, table: pa.Table) -> None:
    """Raises if a column's number of values differs from the footer's: the header of a page has no checksum."""
    if len(table) != file.metadata.num_rows:
        raise _damaged(path, f"it has {len(table)} rows of {file.metadata.num_rows}")
    groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
    paths = [file.schema.column(at).path for at in range(len(file.schema))]
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not pa.types.is_list(column.type) or pa.types.is_nested(column.type.value_type):
            continue
        # A list that is empty or null stands in the file as one value.
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        values = int(lengths.clip(1).sum())
        # Only columns that were read are checked: a damaged chunk that nobody read ends the process (in pyarrow 25).
        places = [at for at, leaf in enumerate(paths) if leaf.startswith(f"{name}.list.")]
        expected = sum(group.column(at).num_values for group in groups for at in places)
        if values != expected:
            raise _damaged(path, f"{name} has {values} values of {expected}")


def _typed(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    """Returns a column in the field's type; it is null where the table lacks the column."""
    if field.name not in table.column_names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    return table.column(field.name).cast(field.type)


def join_records(tables: Sequence[pa.Table], source: str) -> pa.Table:
    """Puts the rows of several files into one table; a column that one file lacks is null in its rows.

    Raises:
        UserError: if a column that the schema lacks has types that cannot be joined; the message names ``source``.
    """
    try:
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"the files of {source} do not go together ({error}): run the stage again") from None


def readable(table: pa.Table) -> pa.Table:
    """Returns the same rows, with bytes that are not valid UTF-8 replaced (such as those of a lone surrogate)."""
    for place, column in enumerate(table.columns):
        kind = column.type
        if not (pa.types.is_string(kind) or (pa.types.is_list(kind) and pa.types.is_string(kind.value_type))):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            mended = pa.chunked_array([_mended(chunk) for chunk in column.chunks], type=kind)
            table = table.set_column(place, table.schema.field(place), mended)
    return table


def _mended(chunk: pa.Array) -> pa.Array:
    if pa.types.is_list(chunk.type):
        whole = pa.ListArray.from_arrays(chunk.offsets, _mended(chunk.values), mask=chunk.is_null())
        return whole.cast(chunk.type)
    values = [
        None if value is None else value.decode("utf-8", "replace") for value in chunk.view(pa.binary()).to_pylist()
    ]
    return pa.array(values, type=pa.string())
