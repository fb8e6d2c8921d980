"""Parts of a GPU check that hold, fail, hang, or end their process; by their numbers."""

import os
import time

from benchmarks.figures import SkippedError
from benchmarks.gpu_check.checks import Answer, DeviceLostError, Run


def check(run: Run) -> None:
    """One part of the number's kind."""
    {1: holds, 2: fails, 3: dies, 4: hangs, 5: raises, 6: loses_the_device}[run.part](run)


def holds(run: Run) -> None:
    run.check("sum", "2", lambda: Answer(str(1 + 1), True, values={"process": os.getpid()}))


def fails(run: Run) -> None:
    run.check("wrong", "2", lambda: Answer("3", False))
    run.check("error", "", lambda: Answer(str(1 // 0)))
    run.check("missed goal", "<= 1", lambda: Answer("2", False, goal=True))
    run.check("skipped", "", _skips)
    run.check("not finite", "", lambda: Answer("nan", values={"numbers": [float("nan"), 1.0]}))


def dies(run: Run) -> None:
    run.check("before", "", lambda: Answer("still here"))
    os._exit(7)


def hangs(run: Run) -> None:
    run.check("before", "", lambda: Answer("still here"))
    time.sleep(600)


def raises(run: Run) -> None:
    raise ImportError("no such function in this version")


def loses_the_device(run: Run) -> None:
    raise DeviceLostError("an illegal memory access")


def _skips() -> Answer:
    raise SkippedError("not here")
