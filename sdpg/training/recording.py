"""Writes records beside the training that goes on, in the order in which they were handed over; none is lost."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

WAITING = 2
"""How many files may be in the making or waiting; whoever hands over one more waits for the first of them."""


class BackgroundWriter:
    """One thread that builds and writes files; a file that fails is raised where the next one is handed over.

    Leaving its context waits for all files, also where an error, Ctrl-C or a signal's exception ends the context.
    NumPy and pyarrow, which do nearly all of the work, leave Python to the training; see docs/speed.md.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self.waiting = waiting
        self.files: deque[tuple[Path, Future[None]]] = deque()
        self.thread = ThreadPoolExecutor(1, "records")

    def put(self, path: Path, write: Callable[[], None]) -> None:
        """Hands over a file; waits while too many wait, and raises what went wrong with one of them."""
        while self.files and (len(self.files) >= self.waiting or self.files[0][1].done()):
            self._finish_first()
        self.files.append((path, self.thread.submit(write)))

    def flush(self) -> None:
        """Returns once all files are on disk, and raises what went wrong with the first that is not."""
        while self.files:
            self._finish_first()

    def _finish_first(self) -> None:
        path, written = self.files.popleft()
        try:
            written.result()
        except Exception as error:
            error.add_note(f"This happened while {path} was written.")
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.thread.shutdown()
        if error is None:
            self.flush()
            return
        for path, written in self.files:
            if failure := written.exception():
                error.add_note(f"Besides, {path} was not written: {failure}")
