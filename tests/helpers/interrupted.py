"""Trains a tiny run whole, and once more with SIGTERM at ten random moments; `tests/training/test_interruption.py`
starts it.

Every attempt is a fork of this process, which has imported and prepared everything, and has no threads yet.
"""

import os
from pathlib import Path
import random
import signal
import sys
import time
from typing import Any

import torch

from sdpg.errors import readable_errors
from sdpg.interruption import heard_termination
from sdpg.models.loading import scratch_model
from sdpg.models.passes import Policies
from sdpg.params import Params
from sdpg.problems.prepare import Prepared, prepare
from sdpg.problems.tokenizer import pad_and_eos
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.training.saved_files import newest_checkpoint
from sdpg.training.trainer import Trainer
from tests.training.test_trainer import small

TIMES = 10
STEPS = 3 * TIMES + 2


class Alternating:
    """Every second response is right, so that there is something to learn."""

    name, version = "test", "0"

    def score(self, texts: Any, golds: Any, truncated: Any) -> list[Verdict]:
        kinds = (Status.WRONG, Status.CORRECT)
        return [Verdict(kinds[at % 2], golds[at], 1.0 if at % 2 else -1.0) for at in range(len(texts))]


def trainer(params: Params, prepared: Prepared, state: Path) -> Trainer:
    """A run whose checkpoints are rare, evaluations not."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(scratch_model(params.base.model, prepared.tokenizer))  # type: ignore[arg-type]
    student, reference = models
    sets = {"validation": prepared.validation.rows}
    return Trainer(
        params=params, name="sdpg-ufkl", method=params.methods["sdpg-ufkl"], seed=0, state=state,
        policies=Policies(student, reference.requires_grad_(False), pad_and_eos(prepared.tokenizer)[0], 1.0),
        tokenizer=prepared.tokenizer, engine=EmbeddedEngine(student, prepared.tokenizer, 64), verifier=Alternating(),
        problems=prepared.train.rows, sets=sets, base_accuracies=dict.fromkeys(sets, 0.0),
    )  # fmt: skip


def start(run: Trainer) -> tuple[int, int]:
    """Forks a process that trains; returns its id, and where a byte is read when it is ready and after each step."""
    source, sink = os.pipe()
    if process := os.fork():
        os.close(sink)
        return process, source
    code = 1
    try:
        with readable_errors(), heard_termination() as interrupted:
            run.interrupted = interrupted
            run.on_step = lambda step, metrics: os.write(sink, b"s") > 1
            os.write(sink, b"r")
            run.train()
            code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def main(folder: Path) -> None:
    """Prints one line per attempt: exit code, and the steps that are kept."""
    torch.set_num_threads(1)
    params = small(steps=STEPS, checkpoint_every=7, eval_every=3, record_every=4, gradients_every=5)
    prepared = prepare(params)
    runs = {name: trainer(params, prepared, folder / name) for name in ("whole", "interrupted")}
    process, source = start(runs["whole"])
    begun = time.monotonic()
    while os.read(source, 1):
        pass
    step = (time.monotonic() - begun) / STEPS
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    rng = random.Random(int(sys.argv[2]))
    for attempt in range(TIMES + 1):
        process, source = start(runs["interrupted"])
        if attempt < TIMES:
            for _ in range(1 + rng.randrange(3)):
                os.read(source, 1)
            time.sleep(rng.random() * step)
            os.kill(process, signal.SIGTERM)
        while os.read(source, 1):
            pass
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        kept = newest_checkpoint(folder / "interrupted")
        print("attempt", code, kept.name if kept else "nothing", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
