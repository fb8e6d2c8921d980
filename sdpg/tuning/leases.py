"""Defines who owns a trial: a lease that its worker renews, and how a dead worker is told from a living one.

Optuna's own heartbeat works only inside ``Study.optimize``, where a worker that dies between two writes leaves a trial
that nobody finds; tests/tuning/test_leases.py says whether the installed Optuna still does. Here a trial without a
lease is found at once (see :mod:`sdpg.tuning.study`). A dead worker of this machine is found in the table of processes,
one of another machine by the time of its last sign of life.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
import os
from pathlib import Path
import platform
import sys
import threading
import time
from typing import Any

import optuna
import psutil

BEATS = 6
"""Signs of life that a worker gives within the time after which it counts as dead."""
START_TOLERANCE = 2.0
"""Seconds by which two readings of a process's start may differ."""


@dataclass(frozen=True)
class Lease:
    """A worker's claim on a trial.

    Attributes:
        worker: the worker's name, as results show it.
        host: the machine, its boot, and the namespace of its processes.
        pid: the process's number.
        started: when the process started, as its number may be given to another one later.
        beat: the time of the last sign of life, in seconds since 1970.
    """

    worker: str
    host: str
    pid: int
    started: float
    beat: float

    def dead(self, grace: float) -> bool:
        """Returns whether the worker is gone: here by its process, elsewhere by ``grace`` seconds of silence."""
        if self.host == this_host():
            return not _runs(self.pid, self.started)
        return time.time() - self.beat > grace

    def to_dict(self) -> dict[str, Any]:
        """Returns the lease as it is stored with the trial."""
        return asdict(self)


@lru_cache(maxsize=1)
def this_host() -> str:
    """Returns a name that differs between machines, between boots of a machine, and between containers."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    parts = [platform.node(), boot.read_text().strip()[:8] if boot.exists() else str(int(psutil.boot_time()))]
    if Path("/proc/self/ns/pid").exists():
        parts.append(os.readlink("/proc/self/ns/pid").strip("pid:[]"))
    return "/".join(parts)


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < START_TOLERANCE and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def own_lease() -> Lease:
    """Returns a fresh lease of this process."""
    pid = os.getpid()
    return Lease(f"{platform.node()}:{pid}", this_host(), pid, psutil.Process(pid).create_time(), time.time())


class Heartbeat:
    """A thread that renews a lease while a trial runs."""

    def __init__(self, storage: optuna.storages.BaseStorage, trial_id: int, grace: float) -> None:
        self._storage, self._trial_id, self._interval = storage, trial_id, grace / BEATS
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.taken = False
        """Whether the trial was given to another worker."""

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            try:
                self._storage.set_trial_user_attr(self._trial_id, "lease", own_lease().to_dict())
            except optuna.exceptions.UpdateFinishedTrialError:
                self.taken = True
                return
            except optuna.exceptions.StorageInternalError as error:
                # A server that is away for a moment is no reason to stop training; a later write stops it.
                sys.stderr.write(f"no sign of life could be left in the storage: {error.__cause__ or error}\n")
