"""Tests the benchmark of start-up: whose time it counts, and that every command shows its help without its imports."""

import ast
import os
from pathlib import Path
import subprocess
import sys

import pytest

from benchmarks import startup
from sdpg.errors import UserError

SPENDS = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
HEAVY = {"torch", "transformers", "mlflow", "matplotlib", "pandas", "scipy"}


def test_it_counts_the_processors_time_and_not_waiting() -> None:
    assert 0.2 <= startup.processor_seconds(["-c", SPENDS], 1) < 0.6
    assert startup.processor_seconds(["-c", "import time; time.sleep(0.7)"], 1) < 0.5
    with pytest.raises(UserError, match="exit code 3"):
        startup.processor_seconds(["-c", "raise SystemExit(3)"], 1)


def test_all_commands_are_measured() -> None:
    names = startup.entry_points()
    assert {"check", "prepare", "base", "train", "evaluate", "tabulate", "verify"} <= set(names)
    assert "no_options" not in names and len(names) > 25


@pytest.mark.parametrize("name", ["check", "prepare", "tabulate", "show", "train"])
def test_help_is_shown_before_what_takes_seconds_is_imported(name: str, tmp_path: Path) -> None:
    program = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('pipelines.{name}', run_name='__main__', alter_sys=True)\n"
        f"except SystemExit as end: print({HEAVY!r} & set(sys.modules), end.code)"
    )
    environment = os.environ | {"PYTHONPATH": str(startup.PROJECT)}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert said.stdout.startswith(f"usage: python -m pipelines.{name}"), said
    assert said.stdout.endswith("\nset() 0\n"), said
    assert not list(tmp_path.iterdir()), "nothing is done"


def test_a_command_without_options_refuses_any(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "pipelines.prepare", "--all"], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(startup.PROJECT)},
    )  # fmt: skip
    assert said.returncode == 2 and "unrecognized arguments: --all" in said.stderr


@pytest.mark.parametrize("target", startup.STAGES, ids=lambda target: target.name)
def test_what_is_measured_is_what_the_stage_imports(target: startup.Target) -> None:
    program = startup.STAGES[target]
    imported = {alias.name for node in ast.walk(ast.parse(program)) for alias in getattr(node, "names", [])}
    source = (startup.PROJECT / f"pipelines/{target.name.removeprefix('startup_')}.py").read_text(encoding="utf-8")
    used = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.startswith("sdpg.")} <= used
