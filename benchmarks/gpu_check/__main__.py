"""Checks this machine's GPU, part by part: ``sdpg gpu-check --parts 1,3``.

The exit status is 0 where every check held, 1 where one failed, and 2 without a GPU. Rows appear as they come, a table
of all stands at the end, and the JSON file holds every row from the moment it is known.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
import signal
import sys

from rich import box
from rich.console import Console
from rich.table import Table
import torch

from benchmarks.figures import console
from benchmarks.gpu_check.checks import FAILED, MISSED, Row
from benchmarks.gpu_check.runner import Part, Report, run_parts
from pipelines.gpu_check import parser
from sdpg.errors import UserError, entry_point
from sdpg.records.provenance import git_state

MODULES = "benchmarks.gpu_check"
PARTS = (
    Part(1, "matrix products of mixed types", f"{MODULES}.products", 15),
    Part(2, "updates of every method", f"{MODULES}.methods", 70),
    Part(3, "the fused head", f"{MODULES}.heads", 75),
    Part(4, "Qwen3-1.7B's shape", f"{MODULES}.large", 50),
    Part(5, "Qwen3-4B's shape", f"{MODULES}.larger", 60),
    Part(6, "FSDP2 on one process", f"{MODULES}.shards", 20),
    Part(7, "the pipeline, killed and resumed", f"{MODULES}.pipeline", 90),
    Part(8, "record building", f"{MODULES}.records", 20),
    Part(9, "vLLM", f"{MODULES}.engine", 100),
)
"""In the order in which they run; the seconds are estimates for one large card."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs ``python -m benchmarks.gpu_check``, whose options are those of ``sdpg gpu-check``."""
    check_gpu(parser().parse_args(arguments))


def check_gpu(options: argparse.Namespace) -> None:
    """Runs the chosen parts and exits with a status that says whether all held."""
    parts = chosen(options.parts)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "there is no GPU here (torch.cuda.is_available() is False): run this on a machine with an NVIDIA GPU and "
            "a CUDA build of torch, or try the check itself with --device cpu --size toy"
        )
    if options.device == "cpu" and options.size != "toy":
        raise UserError("--device cpu goes with --size toy: the full sizes are a GPU's")
    # Ends like any other exception, so that processes and files are left in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    git = git_state()
    report = Report(
        options.out,
        {"started": datetime.now(UTC).isoformat(timespec="seconds"), "device": options.device, "size": options.size,
         "minutes": options.minutes, "commit": git["commit"], "dirty": git["dirty"], "machine": {}},
        {part.number: {"title": part.title, "state": "waiting", "seconds": None} for part in parts},
    )  # fmt: skip
    run_parts(parts, options.device, options.size == "toy", options.minutes, report, show_row)
    report.finished = True
    report.write()
    show_all(report)
    sys.exit(1 if report.failed else 0)


def chosen(numbers: str) -> list[Part]:
    """The parts that ``--parts`` names, in their own order.

    Raises:
        UserError: if there is no such part.
    """
    if not numbers:
        return list(PARTS)
    wanted = {number.strip() for number in numbers.split(",")}
    if unknown := sorted(wanted - {str(part.number) for part in PARTS}):
        raise UserError(f"--parts has {unknown[0]!r}; there are the parts 1 to {len(PARTS)}, such as --parts 1,3")
    return [part for part in PARTS if str(part.number) in wanted]


def show_row(row: Row) -> None:
    """One line for people, at once."""
    style = {FAILED: "bold red", MISSED: "yellow"}.get(row.state)
    console.print(f"{row.part}  {row.state:8}  {row.check}: {row.found}", style=style, markup=False, highlight=False,
                  soft_wrap=True)  # fmt: skip


def show_all(report: Report) -> None:
    """The table of all rows."""
    machine = report.head["machine"]
    title = f"{machine.get('card', 'no card was reached')}, torch {machine.get('torch')}, CUDA {machine.get('cuda')}"
    table = Table("part", "check", "expected", "found", "", title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for row in report.rows:
        table.add_row(str(row.part), row.check, row.expected, row.found, row.state)
    # As wide as it takes where nobody's window is in the way.
    Console(stderr=True, width=None if console.is_terminal else 180).print(table, markup=False, highlight=False)
    states = Counter(row.state for row in report.rows)
    console.print(
        f"{', '.join(f'{count} {state}' for state, count in states.items())}. JSON: {report.out}", markup=False,
        highlight=False, soft_wrap=True,
    )  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
