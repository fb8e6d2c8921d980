"""Tests that the tiny profile computes the same bits on every x86-64 processor with AVX2."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest

from sdpg.files import write_json
from sdpg.records.cpu_kernels import AVX2, fix_cpu_kernels

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("digests.json")
"""Digests and the machines that they were seen on; REGENERATE_DIGESTS=1 writes those of this machine."""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A copy of the environment without these settings: what is set here must not reach other tests."""
    copy = {name: value for name, value in os.environ.items() if name not in AVX2}
    monkeypatch.setattr(os, "environ", copy)
    return copy


def test_base_samples_and_updates_have_the_same_bits_as_elsewhere(environment: dict[str, str]) -> None:
    fix_cpu_kernels("avx2")
    if not set(AVX2) <= set(environment):
        pytest.skip("not an x86-64 processor with AVX2: bits differ, and test_golden.py compares with a tolerance")
    command = [sys.executable, "-m", "tests.helpers.digests"]
    printed = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    if os.environ.get("REGENERATE_DIGESTS"):
        write_json(FILE, {"digests": found["digests"], "seen_on": [found["machine"]]})
    golden = json.loads(FILE.read_text(encoding="utf-8"))
    # In the order of the work: the first that differs names the operation.
    differing = [name for name, value in found["digests"].items() if golden["digests"].get(name) != value]
    assert not differing, (differing, found["machine"], golden["seen_on"])
    assert found["digests"].keys() == golden["digests"].keys()


def test_settings_that_are_there_already_stay(environment: dict[str, str]) -> None:
    environment["MKL_CBWR"] = "COMPATIBLE"
    fix_cpu_kernels("native")
    assert "ATEN_CPU_CAPABILITY" not in environment
    fix_cpu_kernels("avx2")
    assert environment["MKL_CBWR"] == "COMPATIBLE"


@pytest.mark.parametrize(
    "stage", ["base", "train", "evaluate", "benchmarks", "solutions", "tune", "tune_all", "effects", "study"]
)
def test_entry_points_choose_kernels_before_torch_is_imported(stage: str) -> None:
    check = f"import sys, pipelines.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0
    text = (ROOT / "pipelines" / f"{stage}.py").read_text(encoding="utf-8")
    assert text.count("= load_params(") == text.count("fix_cpu_kernels(params.train.cpu_kernels)\n") == 1
