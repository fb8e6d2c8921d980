"""Tests the Triton kernels of the head, in Triton's interpreter and by compiling them; both in other processes."""

import importlib.util
import json
import os
from pathlib import Path
import subprocess
import sys

import pytest
import torch

from sdpg.models.triton_rows import launch
from sdpg.objective.divergences import StudentTeacherKL

PROJECT = Path(__file__).parents[2]


needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed; the [dev] extra brings it on Linux"
)


@needs_triton
def test_the_kernels_under_tritons_interpreter() -> None:
    # Triton decides when it is imported whether it interprets.
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment.pop(launch.SWITCH, None)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/models/triton_interpreted.py"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@needs_triton
def test_the_kernels_compile_for_a_gpu(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", "tests.helpers.triton_compiled"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = json.loads(done.stdout)
    names = [kernel["name"] for kernel in kernels]
    # Readers: without a teacher, and with each divergence or none. Gradients: each divergence or none, in both types.
    # Where the tokens lie in memory compiles nothing anew.
    assert (names.count("read_row"), names.count("differentiate_row")) == (5, 8)
    assert all(kernel["wide_loads"] for kernel in kernels)
    assert not any(kernel["registers_spilt"] for kernel in kernels)
    assert sum(kernel["rounds_to_nearest"] for kernel in kernels) == 4


def test_cpus_use_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not launch.usable(torch.device("cpu"), torch.float32, StudentTeacherKL())
