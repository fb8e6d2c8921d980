"""Keeps what MLflow is to be told in ordered files, so that no stage ever waits for it.

``.state/tracking/<stage>-<fingerprint>/`` holds a folder for each start of the stage: ``events.jsonl``, one event a
line, and ``files/``, copies of artifacts. Whoever delivers holds a lock, and notes in ``delivered.json`` how far it has
come. A folder goes once all of it is delivered and its process has ended.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
import fcntl
import json
import os
from pathlib import Path
import shutil
import threading
from typing import Any

from sdpg.files import child, make_folder
from sdpg.locks import exclusive
from sdpg.paths import project_root

Event = dict[str, Any]
_own: set[Path] = set()
"""The starts of this process: opening what it has locked itself, and closing that again, would give the lock away."""


def tracking_folder() -> Path:
    """Returns the folder of all queues; that of a queued experiment outlives its temporary copy of the project."""
    return project_root() / ".state" / "tracking"


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Holds the lock of a queue, which whoever delivers its events needs.

    Raises:
        InUse: if another process holds it.
    """
    root = project_root() / ".state"
    with exclusive(place.relative_to(root).as_posix(), locks=root / "locks"):
        yield


class EventQueue:
    """The events of one start of a stage; they are appended by any thread of this process."""

    def __init__(self, key: str) -> None:
        self.folder = child(tracking_folder(), key, "the queue of MLflow's events")
        self.added = threading.Event()
        """Set when an event was added; whoever delivers clears it."""
        self._lock, self._copies = threading.Lock(), 0
        new = tracking_folder() / f".{key}.partial-{os.getpid()}"
        shutil.rmtree(new, ignore_errors=True)
        make_folder(new)
        # As long as this is locked, the process lives, and more events may come.
        self._alive = os.open(new / "alive", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        with suppress(OSError):
            fcntl.lockf(self._alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file = os.open(new / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self.start = self._name(new)

    def _name(self, new: Path) -> Path:
        """Gives the folder of this start its number: it is seen by others once it is whole."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            number = max((int(start.name) for start in starts(self.folder)), default=0) + 1
            start = self.folder / f"{number:06d}"
            _own.add(start)
            # Another process may have taken the number, or removed the empty folder, in between.
            with suppress(FileNotFoundError, FileExistsError, OSError):
                os.rename(new, start)
                return start
            _own.discard(start)

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds an event, which is on disk afterwards."""
        line = json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        with self._lock:
            end = os.fstat(self._file).st_size
            try:
                # A disk that is getting full takes a part of it; the next event must not follow on half a line.
                while line:
                    line = line[os.write(self._file, line) :]
            except OSError:
                os.ftruncate(self._file, end)
                raise
        self.added.set()

    def keep(self, path: Path) -> str:
        """Copies a file as it is now; returns its path within ``files/``."""
        place, target = self._place(path.name)
        shutil.copyfile(path, target)
        return place

    def write(self, name: str, content: bytes) -> str:
        """Writes a file of its own; returns its path within ``files/``."""
        place, target = self._place(name)
        target.write_bytes(content)
        return place

    def _place(self, name: str) -> tuple[str, Path]:
        with self._lock:
            self._copies += 1
            place = f"{self._copies:04d}/{name}"
        target = self.start / "files" / place
        target.parent.mkdir(parents=True)
        return place, target

    def close(self) -> None:
        """Says that no more events come from this start."""
        os.close(self._file)
        os.close(self._alive)
        _own.discard(self.start)


def starts(folder: Path) -> list[Path]:
    """Returns the folders of a queue's starts, the earliest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdecimal() and path.is_dir())


def queues() -> list[Path]:
    """Returns the folders of all queues, the one that waits longest first."""
    found = []
    for path in tracking_folder().glob("[!.]*"):
        # A queue goes once it is delivered, perhaps just now.
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink() and starts(path):
                found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def events(start: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Yields the events behind an offset, each with the offset behind it; a line that a kill cut short is none."""
    file = start / "events.jsonl"
    if not file.exists():
        return
    with file.open("rb") as stream:
        stream.seek(offset)
        while (line := stream.readline()).endswith(b"\n"):
            yield json.loads(line.decode("utf-8", "surrogatepass")), stream.tell()


def has_ended(start: Path) -> bool:
    """Says whether the process that made a start has ended, or closed it."""
    if start in _own:
        return False
    try:
        descriptor = os.open(start / "alive", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
