"""Runs tasks side by side in forks of this process, which has imported what they need, and tells how far they are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import multiprocessing
from multiprocessing.connection import wait
import os
from pathlib import Path
import signal
import sys
import threading
import time
from typing import Any

from sdpg.errors import RESUME, Interrupted, entry_point
from sdpg.files import make_folder

SAID = 12
"""The lines of a failed task's log that are shown."""


@dataclass(frozen=True)
class Task:
    """A piece of work that a process of its own does.

    Attributes:
        name: its name in messages.
        kind: tasks of one kind take as long as their work is large.
        work: its size, in any unit that its kind has in common.
        after: the names of the tasks that must have ended before.
        done: says whether its results are there already.
        run: does it, in the process of its own.
        log: the file of what it prints.
        seconds: returns how long it took, if it is known from an earlier command.
    """

    name: str
    kind: str
    work: float
    after: tuple[str, ...]
    done: Callable[[], bool]
    run: Callable[[], None]
    log: Path
    seconds: Callable[[], float | None] = field(default=lambda: None)


class Clock:
    """Estimates the time that is left, from the tasks that have ended."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._measured: dict[str, list[tuple[float, float]]] = {}

    def ended(self, task: Task, seconds: float | None) -> None:
        """Notes how long a task took."""
        if seconds is not None:
            self._measured.setdefault(task.kind, []).append((seconds, task.work))

    def left(self, tasks: Sequence[Task], elapsed: float) -> float | None:
        """Returns the seconds that these tasks will take together, of which some have passed; None where a kind of
        task has not ended once."""
        if any(task.kind not in self._measured for task in tasks):
            return None
        rates = {kind: sum(s for s, _ in seen) / sum(w for _, w in seen) for kind, seen in self._measured.items()}
        return max(0.0, sum(task.work * rates[task.kind] for task in tasks) - elapsed) / self.jobs


def run_tasks(tasks: Sequence[Task], jobs: int, say: Callable[[str], None]) -> dict[str, str]:
    """Runs tasks, at most ``jobs`` at a time, in the given order as far as they wait for nothing.

    A task that fails does not stop the others, but for those that come after it. The processes end with this one.

    Args:
        tasks: the tasks; each comes behind those in its ``after``.
        jobs: the number of processes.
        say: told one line for each task that ends.

    Returns:
        The name of each task that failed, or was not begun as one before it had failed, and why.

    Raises:
        Interrupted: when SIGTERM came, once the tasks that ran have ended where they can go on.
    """
    clock, failed, finished = Clock(jobs), dict[str, str](), set[str]()
    waiting, running = list(tasks), dict[Any, tuple[Task, float]]()
    stopped = threading.Event()

    def stop(number: int, _: Any) -> None:
        stopped.set()
        for process in list(running):
            process.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        while running or (waiting and not stopped.is_set()):
            for task in list(waiting):
                if len(running) >= jobs or stopped.is_set():
                    break
                if lost := [name for name in task.after if name in failed]:
                    failed[task.name] = f"not begun, as {lost[0]} failed"
                    waiting.remove(task)
                elif finished.issuperset(task.after):
                    waiting.remove(task)
                    if task.done():
                        finished.add(task.name)
                        clock.ended(task, task.seconds())
                        continue
                    running[_start(task)] = (task, time.monotonic())
            # Nothing runs where all that was begun here was there already.
            wait([process.sentinel for process in running], timeout=None if running else 0)
            for process in [process for process in running if process.exitcode is not None]:
                task, started = running.pop(process)
                took = time.monotonic() - started
                if process.exitcode == 0:
                    finished.add(task.name)
                    clock.ended(task, took)
                    elapsed = sum(time.monotonic() - begun for _, begun in running.values())
                    left = clock.left([*waiting, *(other for other, _ in running.values())], elapsed)
                    say(f"[{len(finished)}/{len(tasks)}] {task.name}: {took:.0f} s; {left_text(left)}")
                elif not (stopped.is_set() and process.exitcode in (RESUME, -signal.SIGTERM)):
                    failed[task.name] = _why(task, process.exitcode)
                    say(f"[{len(finished)}/{len(tasks)}] {task.name} failed: {failed[task.name]}")
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in running:
            process.kill()
    if stopped.is_set():
        raise Interrupted(f"SIGTERM: {len(finished)} of {len(tasks)} tasks are done; run the same command to go on")
    return failed


def left_text(seconds: float | None) -> str:
    """Returns the time that is left, for people."""
    if seconds is None:
        return "time left: not known yet"
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def _start(task: Task) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_become, args=(task, os.getpid()), name=task.name)
    process.start()
    return process


def _become(task: Task, parent: int) -> None:
    """Does a task in a process of its own, whose output goes to the task's log."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    make_folder(task.log.parent)
    file = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2))
    entry_point(task.run)


def _end_with(parent: int) -> None:
    """Ends this process at once when the one that started it is gone: the same command would find it at work."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _why(task: Task, code: int) -> str:
    said = task.log.read_text(encoding="utf-8", errors="replace").splitlines() if task.log.is_file() else []
    lines = [line for line in said[-SAID:] if line.strip()]
    end = f"signal {-code}" if code < 0 else f"exit code {code}"
    return "\n    ".join([f"{end}; the end of {task.log}:", *lines])
