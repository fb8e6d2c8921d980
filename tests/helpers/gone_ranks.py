"""Pairs of gloo ranks, one of which ends in one way or another; `tests/models/test_distributed_gone.py` starts it.

Every rank is a fork of this process, which has imported everything and has no threads yet.
"""

from collections.abc import Callable
import os
from pathlib import Path
import signal
import socket
import sys
import time

import torch

from sdpg.errors import UserError, readable_errors
from sdpg.models import distribution
from sdpg.models.distribution import BEAT, SHORT_SILENCE, joined
from sdpg.models.ranks import Ranks
from sdpg.params.train import DistributedParams


def killed(ranks: Ranks) -> None:
    """The other waits for an exchange on the CPU, which gloo notices."""
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.wait()


def killed_unnoticed(ranks: Ranks) -> None:
    """The other waits for what nothing ends, as in a collective of its GPU."""
    distribution.SILENCE = SHORT_SILENCE
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1000)


def failed(ranks: Ranks) -> None:
    """Its own error is the reason, not that it is gone."""
    distribution.GRACE = 0.0
    if ranks.rank == 1:
        raise UserError("train.lr is too high here")
    time.sleep(1000)


def done(ranks: Ranks) -> None:
    """A rank that has ended well is missed by nobody, however long the other goes on."""
    distribution.SILENCE = BEAT
    if ranks.first:
        time.sleep(4 * BEAT)


def at_fault(ranks: Ranks) -> None:
    """An error of one's own stays what it is."""
    if ranks.first:
        raise RuntimeError("a bug on rank 0")
    time.sleep(1000)


CASES: dict[str, Callable[[Ranks], None]] = {
    case.__name__: case for case in (killed, killed_unnoticed, failed, done, at_fault)
}


def one_rank(rank: int, name: str, port: int, log: Path) -> int:
    """Runs one rank of a case; returns its exit code."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), ACCELERATE_USE_FSDP="false",
    )  # fmt: skip
    sys.stderr = log.open("w")
    try:
        with readable_errors(), joined(DistributedParams(processes=2, strategy="ddp"), "cpu") as ranks:
            CASES[name](ranks)
    except SystemExit as end:
        return int(end.code or 0)
    except Exception as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    finally:
        sys.stderr.flush()
    return 0


def main(folder: Path) -> None:
    """Runs all cases side by side, as most of their time is waiting; prints the exit codes of each."""
    torch.set_num_threads(1)
    started: dict[str, list[int]] = {}
    for name in CASES:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        started[name] = []
        for rank in (0, 1):
            if process := os.fork():
                started[name].append(process)
                continue
            code = 70
            try:
                code = one_rank(rank, name, port, folder / f"{name}-{rank}")
            finally:
                os._exit(code)
    for name, processes in started.items():
        print(name, *(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
