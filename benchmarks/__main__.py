"""``python -m benchmarks [part of a name …]``: tables on stderr, one JSON line per figure on stdout.

Without names all of them; the lines are also in reports/bench.jsonl. A goal that is missed is no error; results that
differ between ours and a rival are.
"""

import argparse
from collections.abc import Callable, Sequence
import json
import os
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks import (
    against_trl,
    app_pages,
    app_runs,
    gpu,
    head,
    scoring,
    sequences,
    startup,
    step_overhead,
    studies,
    training,
)
from benchmarks.figures import Figure, SkippedError, Target, console, summary
from sdpg import paths
from sdpg.errors import entry_point
from sdpg.files import read_json_lines, write_json_lines
from sdpg.models.loading import set_threads
from sdpg.params import load_params
from sdpg.records.provenance import git_state

BENCHMARKS: dict[Target, Callable[[], Figure]] = {
    head.TIME_VS_PLAIN: head.time_vs_plain,
    head.TIME_VS_TRL: head.time_vs_trl,
    head.MEMORY_VS_PLAIN: head.memory_vs_plain,
    training.STEP: training.step_vs_grpo,
    training.UPDATE: training.update_vs_limit,
    against_trl.STEP: against_trl.step_vs_trl,
    gpu.TIME_VS_TRL: gpu.time_vs_trl,
    gpu.TIME_VS_LIGER: gpu.time_vs_liger,
    gpu.MEMORY_VS_PLAIN: gpu.memory_vs_plain,
    gpu.MATMUL_SHARE: gpu.matmul_share,
    sequences.UPDATE: sequences.update_by_length,
    step_overhead.OVERHEAD: step_overhead.overhead,
    step_overhead.WAITING: step_overhead.waited,
    scoring.RATE: scoring.ordinary_rate,
    scoring.DUPLICATES_VS_ONE_BY_ONE: scoring.duplicates_vs_one_by_one,
    studies.TWO_WORKERS: studies.two_workers_vs_one,
    startup.TRAIN: startup.train,
    startup.TABULATE: startup.tabulate,
    startup.CHECK: startup.check,
    startup.HELP: startup.help_texts,
    app_pages.PAGES: app_pages.page_seconds,
    app_pages.STRIP: app_pages.strip_seconds,
    app_pages.MEMORY: app_pages.memory,
    app_runs.AGAIN: app_runs.again,
    app_runs.FIRST: app_runs.first,
    app_runs.MEMORY: app_runs.memory,
}

LINES = paths.REPORTS / "bench.jsonl"


def measure(target: Target, benchmark: Callable[[], Figure]) -> Figure:
    """Returns the figure, also if the benchmark says that it cannot be run here."""
    console.rule(target.name, align="left")
    try:
        return benchmark()
    except SkippedError as reason:
        console.print(f"skipped: {reason}", markup=False, highlight=False)
        return target.skipped(str(reason))


def machine() -> dict[str, Any]:
    """Returns what every figure depends on; ``load`` counts processes that wanted a core in the minute before."""
    git = git_state()
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": git["commit"],
        "dirty": git["dirty"],
        "load": round(os.getloadavg()[0], 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the named benchmarks, or all, and returns the exit code."""
    names = [target.name for target in BENCHMARKS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"or a part of it, of {', '.join(names)}; default: all"
    )
    wanted = parser.parse_args(arguments).names
    for part in wanted:
        if not any(part in name for name in names):
            parser.error(f"no benchmark's name contains {part!r}; there are: {', '.join(names)}")
    transformers_logging.disable_progress_bar()
    figures: list[Figure] = []
    # The figures that are not measured now stay as they were.
    lines = {line["name"]: line for line in read_json_lines(LINES)} if LINES.is_file() else {}
    set_threads(load_params().train.threads)
    for target, benchmark in BENCHMARKS.items():
        if not wanted or any(part in target.name for part in wanted):
            before = machine()
            figures.append(measure(target, benchmark))
            lines[target.name] = figures[-1].line() | before
            print(json.dumps(lines[target.name], ensure_ascii=False), flush=True)
            # The file is written after each figure, so that a later failure loses nothing.
            write_json_lines(LINES, list(lines.values()))
    summary(figures)
    console.print(f"JSON lines: {LINES}")


if __name__ == "__main__":
    entry_point(main)
