"""Tests vLLM in each of two processes that hold shards of the model."""

import os
from pathlib import Path
import re
import subprocess
import sys

import pytest

from tests.helpers.vllm_tiny import needs_vllm

pytestmark = needs_vllm
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("head", ["tied", "untied"])
def test_sharded_weights_reach_every_ranks_engine(head: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "helpers" / "vllm_rank.py"), head], capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    # Both write to one pipe, and may do so between the other's line and its end.
    assert sorted(re.findall(r"rank \d of \d is right", done.stdout)) == [
        "rank 0 of 2 is right",
        "rank 1 of 2 is right",
    ]
