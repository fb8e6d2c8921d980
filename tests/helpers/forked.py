"""Runs the project's commands in forks of this process, which need not import torch once more."""

from collections.abc import Callable
import importlib
import multiprocessing
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

from sdpg.errors import entry_point
from tests.helpers.clones import ENVIRONMENT


def start(folder: Path, work: Callable[[], Any], out: Path, errors: Path | None = None) -> Any:
    """Starts a function in a fork whose working folder is ``folder``; its output is appended to files."""
    process = multiprocessing.get_context("fork").Process(target=_become, args=(folder, work, out, errors or out))
    process.start()
    return process


def run_forked(folder: Path, module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs ``python -m module arguments`` in a project; its output is captured, and shown where it fails."""
    command = importlib.import_module(module)

    def work() -> None:
        sys.argv = [module, *arguments]
        entry_point(command.main)

    out, errors = folder / ".state/forked.out", folder / ".state/forked.err"
    out.parent.mkdir(exist_ok=True)
    for path in (out, errors):
        path.unlink(missing_ok=True)
    process = start(folder, work, out, errors)
    process.join()
    said = [path.read_text(encoding="utf-8") for path in (out, errors)]
    if check and process.exitcode:
        raise AssertionError(f"{module} {' '.join(arguments)}\n{said[0][-3000:]}\n{said[1][-3000:]}")
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, *said)


def _become(folder: Path, work: Callable[[], Any], out: Path, errors: Path) -> None:
    os.chdir(folder)
    os.environ.update(ENVIRONMENT)
    for number, path in ((1, out), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, encoding="utf-8", closefd=False) for number in (1, 2))
    work()
