"""Runs the pipeline of dvc.yaml and prints the main table; only what has changed runs again.

The options are written into params.yaml first, and the change is shown. Interrupted at any instant, the same command
goes on. SIGTERM ends the stages under way where they can go on, and this command with exit code 75.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
import os
import signal
import subprocess
import sys
import time

import psutil

from pipelines.command_line import command_parser, whole_number
from pipelines.configure import add_choices, write_choices
from sdpg.errors import Interrupted, entry_point

LOOKS = 0.1
"""Seconds between two looks at the processes."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("repro", __doc__, "--jobs 2 --methods 'grpo sdpg-ufkl' --seeds 3")
    parser.add_argument("--jobs", type=whole_number, default=1, help="training runs side by side; otherwise 1")
    add_choices(parser)
    return parser


def main() -> None:
    """Runs ``sdpg repro``; where a stage fails, the exit code is DVC's."""
    options = parser().parse_args()
    write_choices(options)
    sys.stdout.flush()
    # Importing this takes time, which --help need not wait for.
    from sdpg.params import load_params

    run = load_params().run
    names = [f"{method}-{seed}" for method in run.methods for seed in run.seeds]
    terms: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: terms.append(number))
    try:
        code = reproduce(names, options.jobs, terms)
    finally:
        signal.signal(signal.SIGTERM, before)
    if terms:
        raise Interrupted("SIGTERM: what was under way ended where it can go on; run the same command again")
    if code:
        raise SystemExit(code)
    from pipelines.show import main as show

    show()


def reproduce(names: Sequence[str], jobs: int, terms: Sequence[int]) -> int:
    """Runs ``dvc repro``; with several jobs, each run first in a process of its own, side by side.

    Args:
        names: the runs, as ``<method>-<seed>``.
        jobs: the processes side by side.
        terms: the SIGTERMs that have come, which grow meanwhile.

    Returns:
        The exit code of the first command that failed, or 0.
    """
    if jobs > 1:
        # DVC's lock file is taken only while it is written.
        if code := run_dvc([["repro", "base"]], 1, terms):
            return code
        for stage in ("train", "evaluate"):
            single = [["--wait-for-lock", "repro", "--single-item", f"{stage}@{name}"] for name in names]
            if code := run_dvc(single, jobs, terms):
                return code
    return run_dvc([["repro"]], 1, terms)


def run_dvc(commands: Sequence[Sequence[str]], jobs: int, terms: Sequence[int]) -> int:
    """Runs DVC's commands, at most ``jobs`` at a time; after one that fails, or a SIGTERM, none is begun.

    Returns:
        The exit code of the first that failed, or 0.
    """
    waiting, free, running, code = list(commands), list(range(jobs)), dict[subprocess.Popen[bytes], int](), 0
    told: dict[int, int] = {}
    try:
        while running or (waiting and not code and not terms):
            while waiting and free and not code and not terms:
                # Bars of progress stand below each other.
                place = {"TQDM_POSITION": str(free[0])} if jobs > 1 else {}
                command = [sys.executable, "-m", "dvc", *waiting.pop(0)]
                running[subprocess.Popen(command, env=os.environ | place)] = free.pop(0)
            if terms:
                end_stages(running, told, len(terms))
            time.sleep(LOOKS)
            for process in [process for process in running if process.poll() is not None]:
                free.append(running.pop(process))
                free.sort()
                code = code or process.returncode
    except KeyboardInterrupt:
        # Ctrl+C reaches every process of the terminal; DVC puts its files in order before it ends.
        for process in running:
            process.wait()
        raise
    return code


def end_stages(running: Iterable[subprocess.Popen[bytes]], told: dict[int, int], times: int) -> None:
    """Sends SIGTERM to the stages that DVC's commands run, ``times`` in all; DVC itself waits for them and records.

    Args:
        running: DVC's processes.
        told: how often each stage was told already, by the number of its process.
        times: how often it should have been.
    """
    for dvc in running:
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(dvc.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    parent = process.parent()
                    # A stage tells the processes that it started itself.
                    first = is_stage(process) and not (parent and is_stage(parent))
                    if first and told.get(process.pid, 0) < times:
                        process.send_signal(signal.SIGTERM)
                        told[process.pid] = told.get(process.pid, 0) + 1


def is_stage(process: psutil.Process) -> bool:
    """Says whether a process is ``python -m`` of a stage, or the launcher that one has become."""
    return any(
        option == "-m" and module.startswith(("pipelines.", "sdpg.")) for option, module in pairwise(process.cmdline())
    )


if __name__ == "__main__":
    entry_point(main)
