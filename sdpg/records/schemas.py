"""Parquet records of rollouts and evaluations: the only contract between training and whoever looks at it later.

Imports no torch. One file holds one step of one rank; the schema's version stands in the file's metadata.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdpg.errors import UserError
from sdpg.files import replaced_file

BASE = "base"
"""The method of the records of the initial policy, which is no method."""
VALIDATION = "validation"
"""The name under which the validation set stands beside the benchmarks."""
SCHEMA_VERSION = "2"
VERSION_KEY = b"sdpg_schema_version"

TOKEN_SIGNALS = (
    "rollout_logprob",
    "logprob",
    "ref_logprob",
    "teacher_logprob",
    "kl_to_teacher",
    "entropy",
    "weight",
    "loss",
)
"""Per-token lists of a rollout row; each is null or has the completion's length in tokens."""

ROLLOUT_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("problem_id", pa.string()),
        ("group", pa.int64()),
        ("sibling", pa.int64()),
        ("student_prompt", pa.string()),
        ("teacher_prompt", pa.string()),
        ("completion", pa.string()),
        ("completion_ids", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.string())),
        ("token_starts", pa.list_(pa.int32())),
        ("token_ends", pa.list_(pa.int32())),
        *[(name, pa.list_(pa.float32())) for name in TOKEN_SIGNALS],
        ("reward", pa.float64()),
        ("status", pa.string()),
        ("extracted_answer", pa.string()),
        ("gold", pa.string()),
        ("advantage", pa.float64()),
        ("gate", pa.float64()),
        ("length", pa.int64()),
        ("truncated", pa.bool_()),
        ("verifier", pa.string()),
        ("verifier_version", pa.string()),
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION.encode(), b"sdpg_kind": b"rollout"},
)

EVALUATION_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("benchmark", pa.string()),
        ("problem_id", pa.string()),
        ("sample", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("status", pa.string()),
        ("reward", pa.float64()),
        ("extracted_answer", pa.string()),
        ("gold", pa.string()),
        ("length", pa.int64()),
        ("truncated", pa.bool_()),
        ("temperature", pa.float64()),
        ("verifier", pa.string()),
        ("verifier_version", pa.string()),
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION.encode(), b"sdpg_kind": b"evaluation"},
)
"""``temperature`` is 0 for greedy decoding; ``status`` is ``correct`` where the answer was right; ``truncated`` where
the response was cut at the token limit, whether or not it held an answer by then."""


def write_rollouts(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rollout rows of one step.

    Raises:
        ValueError: if a per-token list does not have the completion's length.
    """
    rows = list(rows)
    for row in rows:
        length = len(row["completion_ids"])
        for name in (*TOKEN_SIGNALS, "tokens", "token_starts", "token_ends"):
            if row[name] is not None and len(row[name]) != length:
                raise ValueError(
                    f"{path.name}: problem {row['problem_id']}, sibling {row['sibling']}: {name} has "
                    f"{len(row[name])} values for {length} completion tokens"
                )
        if row["length"] != length:
            raise ValueError(f"{path.name}: problem {row['problem_id']}: length {row['length']} is not {length}")
    _write(path, rows, ROLLOUT_SCHEMA)


def write_evaluations(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes evaluation rows, one per sampled answer."""
    _write(path, list(rows), EVALUATION_SCHEMA)


def _write(path: Path, rows: list[Mapping[str, Any]], schema: pa.Schema) -> None:
    for row in rows:
        if set(row) != set(schema.names):
            raise ValueError(f"{path.name}: a row's fields differ from the schema: {set(row) ^ set(schema.names)}")
    table = pa.Table.from_pylist(rows, schema=schema)
    with replaced_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_rollouts(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Reads rollout rows, all columns or some."""
    return _read(path, ROLLOUT_SCHEMA, columns)


def read_evaluations(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Reads evaluation rows, all columns or some."""
    return _read(path, EVALUATION_SCHEMA, columns)


def _read(path: Path, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    try:
        metadata = pq.read_schema(path).metadata or {}
        if (found := metadata.get(VERSION_KEY, b"none").decode()) != SCHEMA_VERSION:
            raise UserError(f"{path} has schema version {found}; this code reads {SCHEMA_VERSION}: run the stage again")
        if metadata.get(b"sdpg_kind") != (schema.metadata or {})[b"sdpg_kind"]:
            raise UserError(f"{path} holds {metadata.get(b'sdpg_kind')!r} records, not what is expected here")
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage that writes it") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is damaged ({error}): run the stage that writes it again") from None
