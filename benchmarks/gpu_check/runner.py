"""Runs the parts one after another in a process beside this one, and writes down each row when it comes.

A part that hangs is stopped, a process that dies is replaced: either costs one failed row, and the rest goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
import os
from pathlib import Path
import threading
import time
from typing import Any

import psutil
import torch

from benchmarks.gpu_check.checks import FAILED, SKIPPED, DeviceLostError, Row, Run, last_line
from sdpg.files import write_json

GRACE = 10.0
"""Seconds beyond the limit in which a part may end by itself."""
PATIENCE = 3.0
"""A part may take so many times its estimate."""


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        number: as ``--parts`` names it.
        title: for people.
        module: whose function ``check(run)`` makes the part; imported in the part's own process.
        seconds: it takes about so long on a GPU.
    """

    number: int
    title: str
    module: str
    seconds: float


@dataclass
class Report:
    """What is known so far, and the file in which it lies."""

    out: Path
    head: dict[str, Any]
    parts: dict[int, dict[str, Any]]
    rows: list[Row] = field(default_factory=list)
    finished: bool = False

    def add(self, row: Row) -> None:
        """Keeps a row."""
        self.rows.append(row)
        self.write()

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        body = {"finished": self.finished, "failed": self.failed, "parts": self.parts}
        write_json(self.out, self.head | body | {"rows": [_finite(row.line()) for row in self.rows]})

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(row.state == FAILED for row in self.rows)


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity: they become text."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def run_parts(
    parts: Sequence[Part], device: str, toy: bool, minutes: float, report: Report, show: Callable[[Row], None]
) -> None:
    """Runs parts in their order until all are done or the time is up.

    Args:
        parts: which.
        device: ``cuda`` or ``cpu``.
        toy: sizes for a CPU.
        minutes: for all of them together.
        report: receives rows and states, and is written after each.
        show: is told of each row.
    """
    deadline = time.monotonic() + 60 * minutes
    left = list(parts)

    def add(row: Row) -> None:
        report.add(row)
        show(row)

    while left:
        if late := _too_late(left[0], toy, deadline):
            _close(report, left.pop(0), SKIPPED)
            add(late)
            continue
        receiver, sender = get_context("spawn").Pipe(duplex=False)
        process = get_context("spawn").Process(target=_work, args=(sender, left, device, toy, deadline))
        process.start()
        sender.close()
        try:
            left = _follow(process, receiver, left, toy, deadline, report, add)
        finally:
            _kill(process)
            receiver.close()


def _follow(
    process: Any,
    receiver: Connection,
    parts: list[Part],
    toy: bool,
    deadline: float,
    report: Report,
    add: Callable[[Row], None],
) -> list[Part]:
    """Listens to a process until it ends or has to be ended; returns the parts that are left."""
    left, started = list(parts), time.monotonic()
    limit = deadline + GRACE
    while True:
        try:
            if not receiver.poll(max(0.0, limit - time.monotonic())):
                found = f"it was stopped after {time.monotonic() - started:.0f} s: it did not end by itself"
                break
            kind, value = receiver.recv()
        except (EOFError, ConnectionError):
            process.join(GRACE)
            if len(left) < len(parts) and report.parts[left[0].number]["state"] == "waiting":
                # It ended between two parts: the GPU was lost.
                return left
            found = f"its process ended with status {process.exitcode}"
            break
        if kind == "machine":
            report.head["machine"] |= value
        elif kind == "start":
            started = time.monotonic()
            limit = deadline + GRACE
            if not toy:
                limit = min(limit, started + max(60.0, PATIENCE * left[0].seconds))
            report.parts[value]["state"] = "running"
        elif kind == "row":
            add(value)
        elif kind == "end":
            part = left.pop(0)
            report.parts[part.number]["seconds"] = round(time.monotonic() - started, 1)
            _close(report, part, value)
            if not left:
                return left
    part = left.pop(0)
    report.parts[part.number]["seconds"] = round(time.monotonic() - started, 1)
    _close(report, part, FAILED)
    add(Row(part.number, "the part as a whole", "it ends by itself", found, FAILED))
    return left


def _close(report: Report, part: Part, state: str) -> None:
    report.parts[part.number]["state"] = state
    report.write()


def _too_late(part: Part, toy: bool, deadline: float) -> Row | None:
    left = max(0.0, deadline - time.monotonic())
    if left > (0.0 if toy else part.seconds):
        return None
    reason = f"it takes about {part.seconds:.0f} s, and {left:.0f} s of --minutes are left"
    return Row(part.number, "the part as a whole", "", reason, SKIPPED)


def _kill(process: Any) -> None:
    """Ends a process and what it started."""
    if process.is_alive():
        try:
            family = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            family = []
        process.kill()
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
    process.join()


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, also where that was killed."""
    if (parent := parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(sender: Connection, parts: list[Part], device: str, toy: bool, deadline: float) -> None:
    """The process in which parts run."""
    from benchmarks.gpu_check.machine import describe

    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender.send(("machine", describe(device)))
    for part in parts:
        if late := _too_late(part, toy, deadline):
            sender.send(("start", part.number))
            sender.send(("row", late))
            sender.send(("end", SKIPPED))
            continue
        sender.send(("start", part.number))
        run = Run(part.number, torch.device(device), toy, deadline, lambda row: sender.send(("row", row)))
        try:
            import_module(part.module).check(run)
        except DeviceLostError:
            sender.send(("end", "the GPU was lost"))
            return
        except Exception as error:
            run.report(Row(part.number, "the part as a whole", "no error", last_line(error), FAILED))
        sender.send(("end", "done"))
