import importlib.util
import os
from pathlib import Path
import subprocess
import sys

import pytest
import torch

from sdpg.models import triton_rows
from sdpg.objective.divergences import StudentTeacherKL

PROJECT = Path(__file__).parents[2]


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; the [dev] extra brings it on Linux"
)
def test_the_kernels_under_tritons_interpreter() -> None:
    # Triton decides when it is imported whether it interprets.
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop(triton_rows.SWITCH, None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/triton_interpreted.py"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_cpus_use_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not triton_rows.usable(torch.device("cpu"), torch.float32, StudentTeacherKL())
