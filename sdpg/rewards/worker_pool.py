"""Runs a function on pairs of texts in worker processes that hostile input can only kill.

A worker process imports this module, so it must import neither torch nor transformers.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import connection, util
from multiprocessing.context import SpawnContext, SpawnProcess
import pickle
import resource
import signal
import sys
import threading
import time
from types import ModuleType
from typing import Any, Generic, TypeVar

WORKER_MEMORY_BYTES = 4 << 30
"""Address space of one worker in bytes: an answer like 9^{9^9} must exhaust its worker, not the machine."""
PATIENCE_SECONDS = 120.0
"""Seconds by the clock, beside ten time limits, after which a worker that gave no sign is replaced whatever it does."""
STOPPED_SECONDS = 1.0
"""Seconds for which a worker may be stopped by a signal before it is replaced."""
STARTS = 3
"""Workers in a row that may end before they are ready; then the installation is broken."""
_TICK = 0.1

Pair = tuple[str, str]
"""A gold answer and an answer."""
Found = TypeVar("Found")


class NoWorker(RuntimeError):
    """No worker gets ready: each ends while it starts."""


@dataclass(frozen=True)
class _Task:
    """What a worker is told when it starts."""

    verify: Callable[[str, str], Any]
    warm: Callable[[], None] | None
    timeout: float
    memory: int

    @property
    def patience(self) -> float:
        return PATIENCE_SECONDS + 10 * self.timeout


def _serve(pipe: connection.Connection, task: _Task) -> None:
    """Runs in a worker: says that it is ready, then answers each pair until the pipe closes."""
    # An interrupt is the parent's to handle. A scheduler sends SIGTERM to every process of a job: the answer at hand
    # must not become a time-out by it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    memory = task.memory if hard == resource.RLIM_INFINITY else min(task.memory, hard)
    resource.setrlimit(resource.RLIMIT_AS, (memory, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if task.warm:
        task.warm()
    said: tuple[str, Any] = ("ready", None)
    while True:
        try:
            pipe.send(said)
            pair = pipe.recv()
        except (EOFError, OSError):
            return  # the parent is gone
        # Neither signal has a handler here, so the kernel ends the process, also within one long call of C code. The
        # first counts this process's own time, so that a busy machine punishes no answer; the second is for a worker
        # whose parent is gone.
        signal.setitimer(signal.ITIMER_PROF, task.timeout)
        signal.setitimer(signal.ITIMER_REAL, 2 * task.patience)
        try:
            said = ("found", task.verify(*pair))
        except RecursionError:
            said = ("exhausted", None)
        except MemoryError:
            said = ("out of memory", None)
        # Whatever it is, the parent raises it.
        except Exception as error:
            said = ("raised", _sendable(error))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _sendable(error: Exception) -> Exception:
    """Returns the error, or its words where the pipe, which pickles what it sends, would not bring it over whole."""
    try:
        pickle.loads(pickle.dumps(error))
    # Making an exception again from its arguments may raise anything; its words are not lost.
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


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
        """Ends the process at once: SIGTERM, which multiprocessing sends as the parent ends, is ignored."""
        self.kill()


class _Context(SpawnContext):
    Process = _WorkerProcess


class _Worker:
    """One worker process as the parent sees it; it is busy until it is ready, and while it has a pair."""

    def __init__(self, task: _Task):
        context = _Context()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, task), daemon=True)
        self.process.start()
        theirs.close()
        self.ready, self.fresh, self.pair = False, True, None
        self.begin()

    def begin(self, pair: Pair | None = None) -> None:
        """Notes that the worker begins with a pair, or to start."""
        self.pair: Pair | None = pair
        self.begun = self.seen = time.monotonic()
        self.waited = self.stopped = 0.0

    def watch(self) -> None:
        """Adds up for how long the worker has waited by its own will, and for how long it has been stopped."""
        now = time.monotonic()
        # No more than two ticks: where this process itself slept, what the worker did meanwhile is not known.
        passed, self.seen = min(now - self.seen, 2 * _TICK), now
        state = _state(self.process.pid)
        self.waited += passed if state == "S" else 0.0
        self.stopped = self.stopped + passed if state in ("T", "t") else 0.0

    def kill(self) -> int | None:
        """Ends the process, stopped or not, and returns the exit code that it had by then."""
        self.pipe.close()
        self.process.kill()
        self.process.join(PATIENCE_SECONDS)
        return self.process.exitcode


def _state(pid: int | None) -> str | None:
    """Returns what the kernel says that a process does: R runs, S waits, T is stopped; ``None`` if unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return None


class PairPool(Generic[Found]):
    """Worker processes that verify pairs, each under a time limit; they are started on first use.

    The limit counts the worker's own processor time, and the time for which it waits by its own will; a worker that is
    starved or stopped is not the answer's fault. A worker that dies, runs out of memory or gives no sign is replaced,
    and its pair is tried once more in a fresh one.

    Args:
        verify: is called with gold and answer; must be importable by name, from a module free of torch.
        workers: the number of processes.
        timeout: the seconds after which verifying one pair is killed.
        warm: is called in each worker before its first pair, without a time limit.
        memory: a worker's address space in bytes.
    """

    def __init__(
        self,
        verify: Callable[[str, str], Found],
        workers: int,
        timeout: float,
        warm: Callable[[], None] | None = None,
        memory: int = WORKER_MEMORY_BYTES,
    ):
        self.failures = 0
        """Pairs without a verdict, so far: they used up the time or broke two workers."""
        self._task, self._size = _Task(verify, warm, timeout, memory), workers
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        # At the end of this process the workers are asked to end, and waited for: one that is stopped never would.
        util.Finalize(self, _kill_all, args=(self._workers,), exitpriority=10)

    def close(self) -> None:
        """Ends the workers; a later :meth:`run` starts new ones."""
        _kill_all(self._workers)

    def run(self, pairs: Iterable[Pair]) -> dict[Pair, Found | None]:
        """Returns what ``verify`` returns for each pair; ``None`` where that took too long or broke its worker.

        Raises:
            NoWorker: if no worker starts.
            Exception: whatever ``verify`` raises, but for exhausted memory and recursion.
        """
        distinct = list(dict.fromkeys(pairs))
        work = _Work[Found](deque(distinct))
        try:
            while missing := work.missing():
                self._start(missing, bool(work.again))
                for worker in list(self._workers):
                    self._hand_over(worker, work)
                for pipe in connection.wait([worker.pipe for worker in self._workers], _TICK):
                    [worker] = [one for one in self._workers if one.pipe is pipe]
                    self._hear(worker, work)
                for worker in list(self._workers):
                    self._watch(worker, work)
        except BaseException:
            self.close()  # a worker that is still at work would answer the next call
            raise
        self.failures += sum(verdict is None for verdict in work.verdicts.values())
        return {pair: work.verdicts[pair] for pair in distinct}

    def _start(self, missing: int, again: bool) -> None:
        idle = [worker for worker in self._workers if worker.pair is None]
        if again and not any(worker.fresh for worker in idle):
            missing = len(self._workers) + 1
            if missing > self._size and idle:
                self._replace(idle[0])
        while len(self._workers) < min(self._size, missing):
            self._workers.append(_Worker(self._task))

    def _hand_over(self, worker: _Worker, work: "_Work[Found]") -> None:
        if worker.ready and worker.pair is None and (pair := work.next(worker.fresh)):
            worker.begin(pair)
            try:
                worker.pipe.send(pair)
            except OSError:  # it died while it was idle
                work.todo.appendleft(pair)
                work.begun.discard(pair)
                self._replace(worker)

    def _hear(self, worker: _Worker, work: "_Work[Found]") -> None:
        try:
            said, found = worker.pipe.recv()
        except (EOFError, OSError):
            self._died(worker, work)
            return
        if said == "ready":
            worker.ready, self._failed_starts = True, 0
        elif said == "raised":
            raise found
        elif said == "out of memory":
            # What earlier answers left behind may have filled it.
            self._replace(worker)
            work.failed(worker.pair, final=worker.fresh)
        elif worker.pair is not None:
            work.end(worker.pair, found if said == "found" else None)
            worker.fresh = False
        worker.pair = None

    def _died(self, worker: _Worker, work: "_Work[Found]") -> None:
        code = self._replace(worker)
        if worker.ready:
            work.failed(worker.pair, final=code == -signal.SIGPROF)
            return
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            raise NoWorker(
                f"{STARTS} verifier workers in a row ended while they were starting, the last with exit code {code}: "
                "see what they wrote above, and whether what the verifier needs can be imported and memory is left"
            )

    def _watch(self, worker: _Worker, work: "_Work[Found]") -> None:
        if worker.ready and worker.pair is None:
            return
        worker.watch()
        waited = worker.ready and worker.waited > self._task.timeout
        silent = time.monotonic() - worker.begun > self._task.patience
        if waited or silent or worker.stopped > STOPPED_SECONDS:
            if waited:
                self._replace(worker)
                work.failed(worker.pair, final=True)
            else:
                self._died(worker, work)

    def _replace(self, worker: _Worker) -> int | None:
        self._workers.remove(worker)
        return worker.kill()


class _Work(Generic[Found]):
    """The pairs of one call: which wait, which are tried once more, and the verdicts."""

    def __init__(self, todo: deque[Pair]):
        self.todo = todo
        self.again: deque[Pair] = deque()
        self.begun: set[Pair] = set()
        self.failures: set[Pair] = set()
        self.verdicts: dict[Pair, Found | None] = {}

    def missing(self) -> int:
        """Returns how many pairs have no verdict yet."""
        return len(self.todo) + len(self.again) + len(self.begun)

    def next(self, fresh: bool) -> Pair | None:
        """Returns the next pair for a worker; one that failed before goes to a fresh worker only."""
        if not (queue := self.again if fresh and self.again else self.todo):
            return None
        pair = queue.popleft()
        self.begun.add(pair)
        return pair

    def end(self, pair: Pair, found: Found | None) -> None:
        """Notes a verdict."""
        self.begun.discard(pair)
        self.verdicts[pair] = found

    def failed(self, pair: Pair | None, final: bool) -> None:
        """Notes that a worker failed at a pair, if it had one: the second time, or a final time, is the verdict."""
        if pair is None:
            return
        if final or pair in self.failures:
            self.end(pair, None)
        else:
            self.begun.discard(pair)
            self.failures.add(pair)
            self.again.append(pair)


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()
