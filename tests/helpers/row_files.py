"""Writes rows as people keep them: in every kind of file that is read."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_rows(path: Path, rows: list[dict[str, Any]], line_end: str = "\n", mark: bytes = b"") -> None:
    """Writes a file of the kind that its name says; texts end lines with ``line_end`` and begin with ``mark``."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        stream = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), stream)
        content = stream.getvalue()
    elif name.endswith(".csv"):
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator=line_end)
        writer.writeheader()
        writer.writerows(rows)
        content = mark + text.getvalue().encode()
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        joined = f"[{f',{line_end}'.join(lines)}]" if name.endswith(".json") else line_end.join([*lines, ""])
        content = mark + joined.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.name.lower().endswith(".gz") else content)
