"""Hears SIGTERM, by which a scheduler says that it takes the machine away, so that work ends where it can go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import signal
import sys
import threading
import time
from typing import Any

from sdpg.errors import Interrupted

SAME_REQUEST = 10.0
"""Seconds in which further SIGTERMs are the same request: a scheduler may signal a launcher, which passes the signal
on, and each of its processes too."""
TERMINATED = 128 + signal.SIGTERM


@contextmanager
def heard_termination() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGTERM has come, for work that ends at a point of its own choice.

    A second SIGTERM, more than ``SAME_REQUEST`` seconds later, ends the process at once. A thread hears it, so that it
    does also while the process waits for another one.
    """
    asked = threading.Event()
    source, sink = os.pipe()
    os.set_blocking(sink, False)

    def listen() -> None:
        first = 0.0
        while number := os.read(source, 1):
            if number[0] != signal.SIGTERM:
                continue
            if not asked.is_set():
                asked.set()
                first = time.monotonic()
                if os.environ.get("RANK", "0") == "0":
                    said = "SIGTERM: ending after the present step, with a checkpoint; a second one ends this at once"
                    print(said, file=sys.stderr, flush=True)
            elif time.monotonic() - first > SAME_REQUEST:
                os._exit(TERMINATED)
        os.close(source)

    # Without a handler there is nothing to wake up; the thread sets the event.
    handler, descriptor = signal.signal(signal.SIGTERM, lambda *_: None), signal.set_wakeup_fd(sink)
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield asked.is_set
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, handler)
        os.close(sink)


@contextmanager
def ended_by_termination(what: str) -> Iterator[None]:
    """Ends the work inside at once when SIGTERM comes, for work that is not kept in parts: it is done anew.

    Raises:
        Interrupted: when SIGTERM comes, with ``what`` was being done.
    """

    def end(number: int, frame: Any) -> None:
        # What follows is the same request, and cleaning up must not be cut short by it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Interrupted(f"SIGTERM: {what} is not finished, and starts anew when the same command is run again")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
