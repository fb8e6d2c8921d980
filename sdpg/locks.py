"""Locks on what a process writes, so that a second one refuses to write the same and says who does.

The operating system holds them, for as long as the process lives: a dead owner's lock is free at once. They are POSIX
record locks, which work over nodes where the file system has them, and which no child process inherits.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
import errno
import fcntl
import hashlib
import json
import os
from pathlib import Path
import platform
import re
import shlex
import sys
import time
from typing import Any

import psutil

from sdpg import paths
from sdpg.errors import UserError
from sdpg.files import make_folder

LOCKS = paths.STATE / "locks"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What a file system without locks answers."""
NAMING_SECONDS = 2.0
"""The time that a new owner has to write its name down, before whatever is there is shown."""

_held: set[Path] = set()
"""The locks of this process: the operating system would give it the same one twice."""


class InUse(UserError):
    """Another process writes what this one was asked to write."""


@contextmanager
def exclusive(*places: Path | str, locks: Path = LOCKS) -> Iterator[None]:
    """Holds the locks of several places, relative to the project, while the body runs; nothing waits.

    Args:
        places: the files or folders that the body writes. They need not exist.
        locks: the folder of the files that are locked.

    Raises:
        InUse: if another process holds one of them; it says which process, where and since when.
    """
    with ExitStack() as stack:
        for place in places:
            stack.enter_context(_exclusive(str(place), locks))
        yield


@contextmanager
def _exclusive(place: str, locks: Path) -> Iterator[None]:
    file = lock_file(place, locks)
    if file in _held:
        raise _in_use(place, _owner())
    make_folder(file.parent)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise _in_use(place, _read_owner(descriptor)) from None
            sys.stderr.write(f"{file} cannot be locked ({error.strerror}): see that nothing else writes {place}\n")
        _write(descriptor, json.dumps({"place": place, **_owner()}))
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)
            with suppress(OSError):
                _write(descriptor, "")
    finally:
        # Closing gives the lock back. No other descriptor of this file may be closed before, which would do so too.
        os.close(descriptor)


def holders() -> list[str]:
    """Returns a line for each lock that another process holds now."""
    found = []
    for file in sorted(LOCKS.glob("*.lock")):
        if file in _held:
            continue
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = _read_owner(descriptor)
            found.append(f"{owner.get('place')}: process {owner.get('pid')} on {owner.get('host')} since "
                         f"{owner.get('since')} ({owner.get('command')})")  # fmt: skip
        finally:
            os.close(descriptor)
    return found


def lock_file(place: str, locks: Path = LOCKS) -> Path:
    """Returns the file that is locked for a place; it stays, as removing it could give two processes a lock each."""
    readable = re.sub(r"[^\w.-]+", "-", place, flags=re.ASCII).strip("-.")[-60:]
    return locks / f"{readable}-{hashlib.blake2b(place.encode(), digest_size=4).hexdigest()}.lock"


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _owner() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join(psutil.Process().cmdline()),
    }


def _read_owner(descriptor: int) -> dict[str, Any]:
    """Returns what the owner wrote; a new owner gets a moment to write its name over that of an earlier one."""
    owner: dict[str, Any] = {}
    end = time.monotonic() + NAMING_SECONDS
    while time.monotonic() < end:
        with suppress(ValueError, TypeError, KeyError, OverflowError, RecursionError):
            owner = dict(json.loads(os.pread(descriptor, 65536, 0)))
            if owner["host"] != platform.node() or psutil.pid_exists(int(owner["pid"])):
                break
        time.sleep(0.05)
    return owner


def _in_use(place: str, owner: dict[str, Any]) -> InUse:
    pid, host = owner.get("pid", "of unknown number"), owner.get("host", "an unknown machine")
    return InUse(
        f"{place} is in use: process {pid} on {host} has been writing it since {owner.get('since', 'some time')} "
        f"({owner.get('command', 'its command is unknown')}). Wait for its end, or end it (kill {pid}), then run the "
        "same command again; nothing has changed here"
    )
