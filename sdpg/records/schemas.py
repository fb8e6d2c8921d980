"""Defines the records of rollouts and evaluations: the only contract between training and whoever reads them later.

The module imports no torch. One file holds one step of one rank. A new column is one line here, and the code that fills
it: rows that do not name it, and older files, have null there. docs/records.md says what each column holds, and when
the version rises.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sdpg.records.parquet import KIND_KEY, SCHEMA_VERSION, VERSION_KEY, read_records, records_table, write_records

BASE = "base"
"""The ``method`` in the records of the initial policy, which no method trained."""
VALIDATION = "validation"
"""The name of the validation set, beside those of the benchmarks."""
TOKEN_SIGNALS = (
    "rollout_logprob",
    "logprob",
    "ref_logprob",
    "teacher_logprob",
    "kl_to_teacher",
    "entropy",
    "weight",
    "loss",
    "contrast_logprob",
)
"""Per-token lists of a rollout row; each is null or has the completion's length in tokens."""
TOP_TOKENS = ("student_top", "teacher_top")
"""Whose most probable tokens a rollout row may hold (``watch.top_k``). Each has a column of that name with the tokens'
texts, and one of log-probs with ``_logprob`` after it; both are null, or have k values for each token of the
completion, the most probable first."""

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
        ("reason", pa.string()),
        ("hint_kind", pa.string()),
        ("hint_sibling", pa.int64()),
        ("contrast_prompt", pa.string()),
        ("contrast_sibling", pa.int64()),
        ("contrast_others", pa.list_(pa.int64())),
        ("reward_format", pa.float64()),
        ("reward_length", pa.float64()),
        *[(name, pa.list_(pa.string())) for name in TOP_TOKENS],
        *[(f"{name}_logprob", pa.list_(pa.float32())) for name in TOP_TOKENS],
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION.encode(), KIND_KEY: b"rollout"},
)
ROLLOUT_REQUIRED = (
    "run", "method", "seed", "step", "problem_id", "group", "sibling", "student_prompt", "completion", "completion_ids",
    "tokens", "token_starts", "token_ends", "reward", "status", "gold", "advantage", "gate", "length",
)  # fmt: skip
"""The columns that every row names and every file of any version has; a new column is never among them."""

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
        ("reason", pa.string()),
    ],
    metadata={VERSION_KEY: SCHEMA_VERSION.encode(), KIND_KEY: b"evaluation"},
)
"""The columns of an evaluation row. ``temperature`` is 0 for greedy decoding; ``status`` is ``correct`` where the
answer was right; ``truncated`` is true where the response was cut at the token limit, whether or not it held an answer
by then."""
EVALUATION_REQUIRED = (
    "run", "method", "seed", "step", "benchmark", "problem_id", "sample", "prompt", "completion", "status", "reward",
    "gold", "length", "temperature",
)  # fmt: skip
"""The columns that every evaluation row names and every file has, as :data:`ROLLOUT_REQUIRED` are for rollouts."""


def write_rollouts(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, pa.ListArray] | None = None
) -> None:
    """Writes rollout rows of one step; a column that a row does not name is null in it.

    Args:
        path: the file's path.
        rows: the records.
        columns: columns of all rows, which these then do not name, such as those with a value for each token.

    Raises:
        ValueError: if a per-token list does not have the completion's length, a row names a column that the schema
            lacks, or a row lacks one of :data:`ROLLOUT_REQUIRED`.
    """
    table = records_table(path, list(rows), ROLLOUT_SCHEMA, ROLLOUT_REQUIRED, columns)
    names = (*TOKEN_SIGNALS, "tokens", "token_starts", "token_ends", "completion_ids")
    for name in TOP_TOKENS:
        texts, logprobs = (pc.list_value_length(table[column]).to_pylist() for column in (name, f"{name}_logprob"))  # pyright: ignore[reportAttributeAccessIssue]
        if texts != logprobs:
            raise ValueError(f"{path.name}: {name} does not have as many tokens as log-probs")
    counts = {name: pc.list_value_length(table[name]).to_pylist() for name in names}  # pyright: ignore[reportAttributeAccessIssue]
    told = (table[name].to_pylist() for name in ("problem_id", "sibling", "length"))
    rows_told = zip(counts.pop("completion_ids"), *told, strict=True)
    for row, (count, problem, sibling, length) in enumerate(rows_told):
        for name, found in counts.items():
            if found[row] not in (None, count):
                raise ValueError(
                    f"{path.name}: problem {problem}, sibling {sibling}: {name} has {found[row]} values for {count} "
                    "completion tokens"
                )
        if length != count:
            raise ValueError(f"{path.name}: problem {problem}: length {length} is not {count}")
    write_records(path, table, ("token_starts", "token_ends"))


def write_evaluations(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes evaluation rows, one per sampled answer; a column that a row does not name is null in it.

    Raises:
        ValueError: if a row names a column that the schema lacks, or lacks one of :data:`EVALUATION_REQUIRED`.
    """
    write_records(path, records_table(path, list(rows), EVALUATION_SCHEMA, EVALUATION_REQUIRED))


def read_rollouts(path: Path, columns: list[str] | None = None, rows: bool = True) -> pa.Table:
    """Reads rollout rows, all columns or some, as :func:`sdpg.records.parquet.read_records` does."""
    return read_records(path, ROLLOUT_SCHEMA, ROLLOUT_REQUIRED, columns, rows)


def read_evaluations(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Reads evaluation rows, all columns or some, as :func:`sdpg.records.parquet.read_records` does."""
    return read_records(path, EVALUATION_SCHEMA, EVALUATION_REQUIRED, columns)
