"""Measures a whole training step of GRPO, ours against TRL's GRPOTrainer: two processes that take turns."""

from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from tqdm import tqdm

from benchmarks import rivals, training
from benchmarks.figures import Figure, Target
from benchmarks.timing import median_ratio, ratio_range
from benchmarks.worker import the_params
from sdpg.errors import UserError

WARM_UP, REPEATS = 2, 8

STEP = Target("grpo_step_vs_trl", "TRL's GRPOTrainer with transformers' generation", "<= 0.6")


def step_vs_trl() -> Figure:
    """Measures rollouts, rewards and update, 128 rollouts a step, one thread each."""
    rivals.require("trl")
    params = the_params()
    parts: dict[str, list[dict[str, float]]] = {"ours": [], "trl": []}
    steps = WARM_UP + REPEATS
    with (
        worker("ours", steps) as ours,
        worker("trl", steps) as theirs,
        tqdm(total=2 + 2 * steps, desc="steps, ours and TRL's", unit="step", leave=False) as bar,
    ):
        for process in (ours, theirs):
            process.answer()
            bar.update()
        for step in range(steps):
            for process in (ours, theirs):
                taken = process.step()
                if step >= WARM_UP:
                    parts[process.side].append(taken)
                bar.update()
    training.show_parts(f"Seconds of a GRPO step ({training.describe(params)})", parts)
    seconds = {side: training.totals(rows) for side, rows in parts.items()}
    with_files = [whole + row["record"] for whole, row in zip(seconds["ours"], parts["ours"], strict=True)]
    return STEP.measured(
        median_ratio(seconds["ours"], seconds["trl"]),
        seconds={side: statistics.median(taken) for side, taken in seconds.items()},
        parts={side: training.part_medians(rows) for side, rows in parts.items()},
        range=ratio_range(seconds["ours"], seconds["trl"]),
        ratio_with_files=median_ratio(with_files, seconds["trl"]),
        repeats=REPEATS,
        sizes=training.sizes(params),
    )


class Worker:
    """A process that runs :mod:`benchmarks.worker`."""

    def __init__(self, side: str, process: "subprocess.Popen[str]", errors: Any) -> None:
        self.side, self.process, self.errors = side, process, errors

    def answer(self) -> dict[str, Any]:
        """Returns the worker's next answer.

        Raises:
            UserError: if the process ended instead; the message holds the end of its output.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise UserError(f"the process of {self.side} ended early:\n{self.errors.read()[-3000:]}")
        return json.loads(line)

    def step(self) -> dict[str, float]:
        """Makes one training step; returns the seconds of its parts."""
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        return self.answer()


@contextmanager
def worker(side: str, steps: int) -> Iterator[Worker]:
    """Yields a worker with one thread and no GPU, as TRL is also told to use none."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", side, str(steps)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
        try:
            yield Worker(side, process, errors)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
