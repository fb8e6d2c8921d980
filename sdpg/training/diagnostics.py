"""Scores a sample of a step's rollouts under teacher and reference, whether their gate is open or not.

Training runs no teacher pass where the gate is closed. So that every kind of rollout can be inspected, a pass without
gradient scores ``record_rows`` sampled rollouts under teacher and reference; it happens before the update, draws from a
random source of its own, and cannot change training.
"""

from collections.abc import Sequence
import random

import torch

from sdpg.models.columns import TokenColumn, cut_columns, gather_columns, join_columns
from sdpg.models.experience import Rollouts
from sdpg.models.passes import Policies
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams


def sample_rows(count: int, wanted: int, seed: int) -> list[int]:
    """Draws the rollouts of a step that get teacher, reference and KL per token, and returns their rows."""
    return sorted(random.Random(seed).sample(range(count), min(wanted, count)))


@torch.no_grad()
def diagnose(
    policies: Policies, rollouts: Rollouts, rows: Sequence[int], method: MethodParams, train: TrainParams
) -> dict[str, TokenColumn]:
    """Scores rows under student, reference and teacher; returns the columns on the first rank, and none on the others.

    The columns are ``logprob``, ``entropy``, ``ref_logprob``, ``teacher_logprob`` and ``kl_to_teacher``. A method
    without a teacher of its own is scored by the current weights with the privileged prompt. Rollouts without a hint
    have no ``teacher_logprob`` and no ``kl_to_teacher``.
    """
    hinted = {row for row in rows if rollouts.teacher_prompts[row]}
    # The records always hold D_KL(p‖q), whatever the method distils.
    method = method.model_copy(update={"distillation": "kl_student_teacher"})
    parts = []
    for one in policies.rounds(rollouts, rows, rollouts.student_prompts, train.tokens_per_micro_batch):
        places = rollouts.token_places(one.rows, one.batch.targets.device)
        shown = {row: tokens for row, tokens in places.items() if row in hinted}
        everyone = [[row for row in each if row in hinted] for each in one.everyone]
        teacher = policies.privileged(rollouts, shown, everyone, method, train)
        _, student = policies.read(policies.student, one.batch, teacher=teacher)
        _, reference = policies.read(policies.reference, one.batch)
        if one.rows:
            scored = {
                "logprob": student.logprobs, "entropy": student.entropy, "ref_logprob": reference.logprobs,
                "teacher_logprob": student.teacher_logprobs, "kl_to_teacher": student.divergence,
            }  # fmt: skip
            columns = cut_columns(one.rows, [len(rollouts.responses[row]) for row in one.rows], scored)
            parts.append(columns | {name: columns[name].only(hinted) for name in ("teacher_logprob", "kl_to_teacher")})
    return gather_columns(join_columns(parts), policies.ranks)
