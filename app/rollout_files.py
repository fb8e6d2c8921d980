"""Rollouts as files to take away: JSON lines, and Parquet of the record's own schema."""

from collections.abc import Mapping, Sequence
import io
import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sdpg.records.schemas import ROLLOUT_SCHEMA

Rows = Sequence[Mapping[str, Any]]


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_finite(each) for each in value] if isinstance(value, list) else value


def as_json_lines(rows: Rows) -> bytes:
    """One JSON object a line; what is not finite becomes null."""
    lines = (json.dumps({name: _finite(value) for name, value in row.items()}, ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def as_parquet(rows: Rows) -> bytes:
    """A file that :func:`sdpg.records.schemas.read_rollouts` reads."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=ROLLOUT_SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()
