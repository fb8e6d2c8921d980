"""Measures the processor seconds that commands take before they do anything: imports of stages, and ``--help`` of all.

Each program runs several times in an interpreter of its own, and the least counts, as other work can only add.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import subprocess
import sys

from benchmarks.figures import Figure, Target, show
from sdpg.errors import UserError

PROJECT = Path(__file__).parents[1]
REPEATS = 3

TRAIN = Target("startup_train", "importing torch and transformers' Qwen3 classes, in processor seconds", "<= 1.3")
TABULATE = Target("startup_tabulate", "one processor second, of the stage's imports", "<= 2")
CHECK = Target("startup_check", "one processor second, of the stage's imports where its inputs are as before", "<= 2")
HELP = Target("startup_help", "one processor second, of the slowest command's --help", "<= 0.3")

QWEN3 = "import torch; from transformers import Qwen3Config, Qwen3ForCausalLM"
STAGES = {
    TRAIN: "import pipelines.train, sdpg.models.launching, sdpg.training.run",
    TABULATE: "import pipelines.tabulate, sdpg.records.tracking, sdpg.results.report",
    CHECK: "import pipelines.check, sdpg.models.weight_files, sdpg.planning.fits, sdpg.problems.context, "
    "sdpg.problems.inputs, sdpg.records.mlflow_store, sdpg.records.run_inputs, sdpg.rewards.own",
}
"""What a stage imports before its work begins, as its entry point does once it has read its options."""


def processor_seconds(arguments: Sequence[str], repeats: int = REPEATS) -> float:
    """Returns the least user and system time of ``python arguments``, with that of processes it waited for.

    Raises:
        UserError: if the program fails.
    """
    found = []
    for _ in range(repeats):
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise UserError(f"python {' '.join(arguments)} ended with exit code {process.returncode}: run it by hand")
        found.append(usage.ru_utime + usage.ru_stime)
    return min(found)


def entry_points() -> list[str]:
    """Returns the modules of ``pipelines/`` that are commands."""
    files = sorted((PROJECT / "pipelines").glob("*.py"))
    return [file.stem for file in files if '__name__ == "__main__"' in file.read_text(encoding="utf-8")]


def train() -> Figure:
    """Returns the figure whose ratio is what training imports over what any program with a Qwen3 imports."""
    least = processor_seconds(["-c", QWEN3])
    ours = processor_seconds(["-c", STAGES[TRAIN]])
    show("Processor seconds of imports", ["program", "seconds"],
         [("torch and Qwen3", f"{least:.2f}"), ("train", f"{ours:.2f}")])  # fmt: skip
    return TRAIN.measured(ours / least, ours=ours, theirs=least, repeats=REPEATS)


def tabulate() -> Figure:
    """Returns the figure of stage tabulate's imports."""
    return TABULATE.measured(processor_seconds(["-c", STAGES[TABULATE]]), repeats=REPEATS)


def check() -> Figure:
    """Returns the figure of stage check's imports, without those that only changed inputs need."""
    return CHECK.measured(processor_seconds(["-c", STAGES[CHECK]]), repeats=REPEATS)


def help_texts() -> Figure:
    """Returns the figure of the slowest ``--help``; the table has all."""
    found = {name: processor_seconds(["-m", f"pipelines.{name}", "--help"]) for name in entry_points()}
    rows = sorted(found.items(), key=lambda row: -row[1])
    show("Processor seconds of --help", ["command", "seconds"], [(name, f"{value:.2f}") for name, value in rows])
    return HELP.measured(rows[0][1], slowest=rows[0][0], seconds=found, repeats=REPEATS)
