"""Compares pairs of gold answer and answer by math-verify, in processes that are killed at a time limit.

A worker process imports this module, so it must import neither torch nor transformers, and math-verify only lazily.
"""

from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
import logging
from multiprocessing.context import SpawnContext, SpawnProcess
import re
import resource
import signal
import sys
import threading
from types import ModuleType
from typing import Any, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool

from sdpg.rewards.refusals import exact_part, last_side, numbers_before

WORKER_MEMORY_BYTES = 4 << 30
"""Address space of one worker in bytes: an answer like 9^{9^9} must exhaust its worker, not the machine."""
ORPHAN_SECONDS = 10.0
"""Seconds past its time limit after which a worker ends itself, as the process that should kill it is gone."""
PARSED_GOLDS = 1_024
"""Parsed gold answers that a worker keeps: the same problem comes again with every sibling and every step."""

_DEGREE_SIGN = re.compile(r"(?:\{\})?(?:°|º|˚|\\degree(?![a-zA-Z])|\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\}))")

Pair = tuple[str, str]
"""A gold answer and an answer, both normalised."""
Found = TypeVar("Found")


def math_verify_equal(gold: str, answer: str) -> bool:
    """Returns whether math-verify holds ``answer`` to equal ``gold``; runs in a worker process.

    Only LaTeX is parsed: math-verify's other extractor hands its text to a parser that calls ``eval``. Its own time
    limits are off, because they report a time-out as "not equal"; the pool's hard kill is the only limit.
    """
    from math_verify import verify

    # Not symmetric: the gold answer comes first.
    return verify(_parsed_gold(gold), _parsed(answer), timeout_seconds=0)


def every_side_equal(gold: str, answer: str) -> bool:
    """Returns whether an answer equals ``gold``, or its last side where math-verify cannot read the names before it.

    In a chain of equations every side that is plainly a number must equal it too.
    """
    answer = exact_part(gold, answer)
    last = last_side(gold, answer).strip()
    equal = math_verify_equal(gold, answer) or (last not in ("", answer) and math_verify_equal(gold, last))
    return equal and all(math_verify_equal(gold, part) for part in numbers_before(gold, answer))


def _parsed(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    # The LaTeX parser knows none of these signs.
    text = _DEGREE_SIGN.sub(r"^\\circ", text).replace("−", "-")
    config = LatexExtractionConfig(boxed_match_priority=0)
    # The first match is the box. Where that does not parse, a formula somewhere inside is not the answer.
    return parse("\\boxed{" + text + "}", [config], extraction_mode="first_match", parsing_timeout=0)


@lru_cache(PARSED_GOLDS)
def _parsed_gold(text: str) -> list[Any]:
    return _parsed(text)


def _start_worker() -> None:
    # A scheduler sends SIGTERM to every process of a job; an answer must not become a time-out by it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = WORKER_MEMORY_BYTES if hard_limit == resource.RLIM_INFINITY else min(WORKER_MEMORY_BYTES, hard_limit)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Imported here so that no answer's time limit pays for it.
    import math_verify  # noqa: F401

    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.ERROR)  # else each worker warns of the time limits that we switch off


def _limited(verify: Callable[[str, str], Found], timeout: float, gold: str, answer: str) -> Found:
    signal.setitimer(signal.ITIMER_REAL, timeout + ORPHAN_SECONDS)  # SIGALRM has no handler here: the process ends
    try:
        return verify(gold, answer)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


_MAIN_LOCK = threading.Lock()


class _WorkerProcess(SpawnProcess):
    """A spawned process that does not run the parent's main module again.

    Spawning, so that no thread of torch is forked, normally imports ``__main__`` in the child: for a training stage
    that is torch and transformers, seconds and gigabytes of address space for every worker and every restart.
    """

    def start(self) -> None:
        with _MAIN_LOCK:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main

    def terminate(self) -> None:
        """Ends the process at once: SIGTERM is ignored, and a handler would wait for a power of large integers."""
        self.kill()


class _Context(SpawnContext):
    Process = _WorkerProcess


class PairPool(Generic[Found]):
    """Worker processes that verify pairs, each under a time limit; they are started on first use.

    Args:
        verify: is called with gold and answer; must be importable by name, from a module free of torch.
        workers: the number of processes.
        timeout: the seconds after which verifying one pair is killed.
    """

    def __init__(self, verify: Callable[[str, str], Found], workers: int, timeout: float):
        self.failures = 0
        """Verifications that ended in a time-out or a crashed worker, so far."""
        self._verify, self._workers, self._timeout = verify, workers, timeout
        self._pool: ProcessPool | None = None

    def close(self) -> None:
        """Ends the workers; a later :meth:`run` starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def run(self, pairs: Iterable[Pair]) -> dict[Pair, Found | None]:
        """Returns what ``verify`` returns for each pair; ``None`` where that took too long or broke its worker."""
        verdicts: dict[Pair, Found | None] = {}
        for retried in (False, True):
            left = [pair for pair in pairs if pair not in verdicts]
            if not left:
                break
            pool, limit = self._running(), self._timeout
            futures = {pair: pool.schedule(_limited, args=(self._verify, limit, *pair), timeout=limit) for pair in left}
            for pair, future in futures.items():
                try:
                    verdicts[pair] = future.result()
                except (TimeoutError, ProcessExpired, MemoryError, RecursionError):
                    verdicts[pair] = None
                    self.failures += 1
                except BrokenProcessPool:
                    # An idle worker died (say, of the kernel's memory killer): one new pool; twice is a broken install.
                    if retried:
                        raise
        return verdicts

    def _running(self) -> ProcessPool:
        if self._pool is not None and not self._pool.active:
            self.close()
        if self._pool is None:
            self._pool = ProcessPool(self._workers, initializer=_start_worker, context=_Context())
        return self._pool
