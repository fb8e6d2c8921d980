"""Writes digests.csv: what each step sampled and the weights that it left, so that two runs are compared step by step.

Equal digests mean equal bits. Of a tensor with more than ``MOST`` numbers, evenly spaced ones count: an update changes
nearly all of them, and a large model is not copied from its GPU at every step.
"""

from array import array
from collections.abc import Iterable
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from sdpg.models.distribution import is_sharded
from sdpg.models.experience import Rollouts
from sdpg.records.tables import DIGESTS
from sdpg.training.checkpoints import CsvLog

MOST = 1 << 16
"""The numbers of a tensor that are read at a step."""


def append_digests(state: Path, step: int, rollouts: Rollouts, policy: Any) -> None:
    """Adds a step's line to digests.csv.

    Args:
        state: the folder of the run in progress.
        step: the step, from 1.
        rollouts: the responses that the step sampled.
        policy: the student after the step's updates. The weights of one that is sharded have no digest, as no process
            holds them.
    """
    weights = None if is_sharded(policy) else weights_digest(policy.parameters())
    log = CsvLog(state / DIGESTS, ["step", "rollouts", "weights"])
    log.append({"step": step, "rollouts": rollouts_digest(rollouts), "weights": weights})


def rollouts_digest(rollouts: Rollouts) -> str:
    """Returns 16 hex digits of prompts, response tokens and the sampler's log-probabilities."""
    digest = hashlib.blake2b(json.dumps(rollouts.problem_ids).encode(), digest_size=8)
    for rows, kind in ((rollouts.student_prompts, "q"), (rollouts.responses, "q"), (rollouts.rollout_logprobs, "d")):
        for row in rows:
            digest.update(len(row).to_bytes(8, "little") + array(kind, row).tobytes())
    return digest.hexdigest()


def weights_digest(parameters: Iterable[torch.Tensor]) -> str:
    """Returns 16 hex digits of parameters in their order, in the precision in which they are kept."""
    digest = hashlib.blake2b(digest_size=8)
    for parameter in parameters:
        flat = parameter.detach().flatten()
        some = flat[:: -(-len(flat) // MOST) or 1].contiguous().cpu()
        digest.update(some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
