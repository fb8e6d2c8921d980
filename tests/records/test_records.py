"""Tests the Parquet contract between training and its readers."""

from pathlib import Path
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdpg.errors import UserError
from sdpg.records.schemas import (
    EVALUATION_SCHEMA,
    ROLLOUT_SCHEMA,
    TOKEN_SIGNALS,
    read_evaluations,
    read_rollouts,
    write_evaluations,
    write_rollouts,
)


def rollout(**changes: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(ROLLOUT_SCHEMA.names)
    row |= {
        "run": "grpo-0", "method": "grpo", "seed": 0, "step": 1, "problem_id": "p", "group": 0, "sibling": 0,
        "completion": "ab", "completion_ids": [1, 2], "tokens": ["a", "b"], "token_starts": [0, 1],
        "token_ends": [1, 2], "rollout_logprob": [-0.5, -0.25], "reward": 1.0, "length": 2,
    }  # fmt: skip
    return row | changes


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "step-000001-rank-0.parquet"
    write_rollouts(path, [rollout(), rollout(sibling=1)])
    assert read_rollouts(path).to_pylist() == [rollout(), rollout(sibling=1)]
    assert read_rollouts(path, ["sibling"]).column_names == ["sibling"]


@pytest.mark.parametrize("signal", [*TOKEN_SIGNALS, "tokens", "token_starts", "token_ends"])
def test_a_per_token_list_of_another_length_is_refused(tmp_path: Path, signal: str) -> None:
    path = tmp_path / "step.parquet"
    with pytest.raises(ValueError, match=f"{signal} has 1 values for 2 completion tokens"):
        write_rollouts(path, [rollout(**{signal: ["a"] if signal == "tokens" else [0]})])
    assert not path.exists()


def test_length_is_that_of_the_completion(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="length 3 is not 2"):
        write_rollouts(tmp_path / "step.parquet", [rollout(length=3)])


def test_a_missing_field_is_refused(tmp_path: Path) -> None:
    row = dict.fromkeys(EVALUATION_SCHEMA.names)
    del row["gold"]
    with pytest.raises(ValueError, match="gold"):
        write_evaluations(tmp_path / "e.parquet", [row])


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    with pytest.raises(UserError, match="does not exist"):
        read_evaluations(path)
    write_rollouts(path, [rollout()])
    with pytest.raises(UserError, match="not what is expected here"):
        read_evaluations(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        read_rollouts(path)
    pq.write_table(pa.table({"run": ["x"]}), path)
    with pytest.raises(UserError, match="schema version none"):
        read_rollouts(path)


def test_reading_records_loads_no_torch() -> None:
    program = "import sdpg.records.schemas, sys; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
