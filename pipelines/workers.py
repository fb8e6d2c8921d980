"""Runs several processes of the same command on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import Any

from sdpg.errors import UserError


def bring_base_up_to_date() -> None:
    """Runs ``dvc repro base``: tokenizer, data and base as params.yaml describes them."""
    command = ["dvc", "--wait-for-lock", "repro", "base"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if subprocess.run(command, check=False, env=environment).returncode:
        raise UserError("the base could not be brought up to date; see the message above (dvc repro base)")


@contextmanager
def further_workers(command: list[str], count: int) -> Iterator[None]:
    """Starts workers beside this process, which is one itself, and waits for their end.

    A worker that dies is reported, and its work is left to the others. It is best entered before torch is imported:
    the seconds that this takes are then the same for all.
    """
    workers: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _: Any) -> None:
        for worker in workers:
            worker.send_signal(number)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, forward)
    try:
        for place in range(1, count + 1):
            environment = {**os.environ, "TQDM_POSITION": str(place)}
            workers.append(subprocess.Popen([sys.executable, "-m", *command], env=environment))
        yield
    except Exception as error:
        if workers:
            print(f"this worker ended early, what it had is left to the others: {error}", file=sys.stderr, flush=True)
        raise
    finally:
        try:
            for worker in workers:
                if code := worker.wait():
                    print(f"a worker ended with code {code}; what it had is left to the others", file=sys.stderr)
        finally:
            signal.signal(signal.SIGTERM, before)
