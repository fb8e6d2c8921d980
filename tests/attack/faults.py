"""Draws faults by chance, each a dictionary that says everything about one attack; and the fixed ones of the tests."""

from collections.abc import Callable
import os
from random import Random
from typing import Any

from tests.attack.world import STAGES, World

Fault = dict[str, Any]
"""``kind`` and ``command``; ``do``, ``match``, ``at``, ``process`` as in injected/sitecustomize.py; ``environment``,
``umask``, ``limit`` in bytes; ``place`` of the project; ``read_only`` folder; ``second`` command beside; ``locked``
database; ``server`` that dies; ``fresh``: in an interpreter of its own; ``keep``: earlier outputs are there."""

WITH_WORKER = ("base", "train", "train-sdpg", "evaluate")
PAIRS = (
    ("train", "train"), ("evaluate", "evaluate"), ("tabulate", "tabulate"), ("train", "train-sdpg"),
    ("train", "doctor"), ("base", "base"), ("prepare", "check"), ("train", "app"), ("repro", "repro"),
    ("repro", "tune"), ("repro", "experiment"),
)  # fmt: skip


def _somewhere(rng: Random, world: World, command: str) -> Fault:
    """Chooses a command's change of a file, and names it so that threads in another order do not matter."""
    changes = world.changes(command)
    path = rng.choice(sorted(set(changes)))
    return {"command": command, "match": path, "at": rng.randint(1, changes.count(path))}


def _signalled(do: str, target: str, commands: tuple[str, ...]) -> Callable[[Random, World], Fault]:
    def draw(rng: Random, world: World) -> Fault:
        after = rng.choice((0.0, round(rng.random() / 4, 3)))
        waits = {"seconds": rng.choice((1, 3))} if do == "stop" else {}
        return _somewhere(rng, world, rng.choice(commands)) | {"do": do, "target": target, "after": after} | waits

    return draw


def _failing(name: str, lasting: bool) -> Callable[[Random, World], Fault]:
    def draw(rng: Random, world: World) -> Fault:
        return _somewhere(rng, world, rng.choice(STAGES)) | {"do": "fail", "errno": name, "lasting": lasting}

    return draw


def _of_database(do: str) -> Callable[[Random, World], Fault]:
    def draw(rng: Random, world: World) -> Fault:
        return _somewhere(rng, world, rng.choice(STAGES)) | {"do": do, "file": "mlflow.db"}

    return draw


def _plain(**choices: tuple[Any, ...]) -> Callable[[Random, World], Fault]:
    """Draws a command and one value for each of a fault's keys."""

    def draw(rng: Random, world: World) -> Fault:
        return {"command": rng.choice(STAGES)} | {key: rng.choice(values) for key, values in choices.items()}

    return draw


def _pair(rng: Random, world: World) -> Fault:
    first, second = rng.choice(PAIRS)
    return {"command": first, "second": second, "delay": round(rng.random() * 3, 2)}


def _clock(rng: Random, world: World) -> Fault:
    seconds = rng.choice((-1, 1)) * rng.choice((90, 86_400, 40_000_000))
    return _somewhere(rng, world, rng.choice(STAGES)) | {"do": "clock", "seconds": seconds}


def _limited(rng: Random, world: World) -> Fault:
    return {"command": rng.choice(STAGES), "limit": max(2048, rng.choice(world.sizes) + rng.choice((-1, -100)))}


KINDS: dict[str, Callable[[Random, World], Fault]] = {
    "kill group": _signalled("kill", "group", STAGES),
    "kill process": _signalled("kill", "self", STAGES),
    "kill leader alone": _signalled("kill", "leader", ("repro",)),
    "kill trainer alone": _signalled("kill", "self", ("repro",)),
    "kill worker": _signalled("kill", "worker", WITH_WORKER),
    "stop and continue": _signalled("stop", "self", STAGES),
    "stop worker": _signalled("stop", "worker", WITH_WORKER),
    "terminate": _signalled("term", "self", STAGES),
    "disk full": _failing("ENOSPC", lasting=True),
    "disk error": _failing("EIO", lasting=False),
    "file size limit": _limited,
    "small disk": _plain(place=("small",), room=tuple(range(0, 3000, 50))),
    "database locked": _plain(locked=(True,)),
    "database vanishes": _of_database("remove"),
    "database garbled": _of_database("garble"),
    "server dies": _plain(server=("refuses", "hangs", "fails", "talks nonsense"), answers=(1, 2, 3, 5, 8)),
    "clock jumps": _clock,
    "environment": _plain(fresh=(True,), environment=(
        {"HF_HUB_OFFLINE": None}, {"PYTHONHASHSEED": "7", "COLUMNS": "20"}, {"OMP_NUM_THREADS": "2"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "xx_YY.UTF-8"}, {"LC_ALL": "POSIX"},
        {"LC_ALL": None, "LANG": None})),
    "time zone": _plain(environment=({"TZ": "Asia/Kathmandu"}, {"TZ": "Pacific/Apia"}, {"TZ": "no/where"})),
    "umask": _plain(umask=(0, 0o077, 0o027)),
    "home": _plain(fresh=(True,), environment=({"HOME": None}, {"HOME": "/nowhere"}, {"HOME": "/dev/null"})),
    "path": _plain(place=("elsewhere/a b  ü 数 'q' %41",)),
    "symlink": _plain(place=("link",)),
    "read-only": _plain(read_only=("runs", "evaluations", "reports", "models", "data", ".state", ".")),
    "two at once": _pair,
}  # fmt: skip
NEEDS_MOUNT = ("small disk", *(["read-only"] if os.geteuid() == 0 else []))
"""Kinds that mount a file system, as root alone may; others cannot write what its mode forbids, and need no mount."""


def drawn(seed: str, number: int, world: World) -> Fault:
    """Returns the fault of a number under a seed: kinds take turns, and everything else is chance."""
    rng, kind = Random(f"{seed}/{number}"), list(KINDS)[number % len(KINDS)]
    return {"kind": kind, **KINDS[kind](rng, world), "keep": rng.random() < 0.25}


_CHECKPOINT = {"match": "checkpoint-000002", "at": 2}
FIXED: tuple[Fault, ...] = (
    {"kind": "kill group", "command": "train", "do": "kill", "target": "group", **_CHECKPOINT},
    {"kind": "kill process", "command": "train-sdpg", "do": "kill", "match": "runs/.sdpg-ufkl-0"},
    {"kind": "kill worker", "command": "train", "do": "kill", "target": "worker", "match": "metrics.csv"},
    {"kind": "stop worker", "command": "evaluate", "do": "stop", "target": "worker", "seconds": 2},
    {"kind": "terminate", "command": "train", "do": "term", "match": "metrics.csv", "at": 3, "keep": True},
    {"kind": "disk full", "command": "train", "do": "fail", "errno": "ENOSPC", "lasting": True, **_CHECKPOINT},
    {"kind": "disk error", "command": "evaluate", "do": "fail", "errno": "EIO", "match": "final.parquet"},
    {"kind": "file size limit", "command": "base", "limit": 20_000},
    {"kind": "database vanishes", "command": "train", "do": "remove", "file": "mlflow.db", "match": "curves.csv"},
    {"kind": "clock jumps", "command": "train", "do": "clock", "seconds": -86_400, "match": "metrics.csv", "at": 2},
    {"kind": "path", "command": "prepare", "place": "elsewhere/a b  ü 数 'q' %41", "umask": 0o077,
     "environment": {"HOME": None, "TZ": "Pacific/Apia"}},
    {"kind": "two at once", "command": "train", "second": "train", "delay": 1.0},
)  # fmt: skip
"""The faults of the ordinary tests."""
