"""``python -m benchmarks.worker ours|trl STEPS``: a process that makes one training step per line of its input.

It answers with one JSON object per line: first that it is ready, then the seconds of each step's parts. Between two
steps it waits, so that two trainers can take turns on one machine. Both start every step from the base model.
"""

import json
import os
import sys
from typing import Any

from transformers.utils import logging as transformers_logging

from benchmarks import training
from benchmarks.trl_training import Turns, run_trl
from sdpg.models.loading import set_threads
from sdpg.params import Params

METHOD = "grpo"
MAX_TOKENS = 60


def the_params() -> Params:
    """Returns the parameters of both sides."""
    return training.bench_params(max_tokens=MAX_TOKENS)


def run_ours(params: Params, steps: int, turns: Turns) -> None:
    """Runs the pipeline's trainer."""
    with training.trainer(params, METHOD) as trainer:
        turns.answer({"ready": True})
        for seed in range(1, steps + 1):
            turns.wait()
            turns.answer(training.timed_step(trainer, 1, seed))


def main() -> None:
    """Runs one side; standard output is reserved for answers, and everything else goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    transformers_logging.disable_progress_bar()
    set_threads(1)
    side, steps = sys.argv[1], int(sys.argv[2])
    turns = Turns(wait=lambda: None if sys.stdin.readline() else sys.exit(1), answer=answer)
    if side == "ours":
        run_ours(the_params(), steps, turns)
    else:
        run_trl(the_params(), METHOD, steps, turns)


if __name__ == "__main__":
    main()
