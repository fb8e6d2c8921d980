"""Measures what a step's update does not need: sampled rollouts whatever their gate, and each term's own gradient.

Training runs no teacher pass where the gate is closed. So that every kind of rollout can be inspected, a pass without
gradient scores ``record_rows`` sampled rollouts under teacher and reference. How large each term's gradient is, and
whether outcome and distillation pull the same way, takes passes of its own too. Both happen before the update and
cannot change training: the rollouts are drawn by a random source of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
import random

import torch
from torch import Tensor

from sdpg.models.columns import TokenColumn, cut_columns, gather_columns, join_columns
from sdpg.models.experience import Rollouts
from sdpg.models.fused_head import Teacher
from sdpg.models.loading import hidden_and_head, trainable
from sdpg.models.passes import Policies, Round
from sdpg.models.ranks import whole
from sdpg.objective.coefficients import reads_reference
from sdpg.objective.divergences import divergence_of
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams
from sdpg.training.update import Task, accumulate_gradients

TERM_GRADIENTS = (
    "grad_norm_outcome", "grad_norm_distillation", "grad_norm_reference", "grad_norm_entropy",
    "grad_cosine_outcome_distillation",
)  # fmt: skip


def sample_rows(count: int, wanted: int, seed: int) -> list[int]:
    """Draws the rollouts of a step that get teacher, reference and KL per token, and returns their rows."""
    return sorted(random.Random(seed).sample(range(count), min(wanted, count)))


def most_probable(
    hidden: Tensor, head: Callable[[Tensor], Tensor], count: int, temperature: float, memory_bytes: int
) -> tuple[Tensor, Tensor]:
    """Returns ids and log-probs (N, k) of the most probable next tokens, the most probable first.

    Args:
        hidden: (N, D) hidden states.
        head: the output embedding, which turns (n, D) into logits (n, V).
        count: k; the vocabulary's size where that is smaller.
        temperature: the logits are divided by this.
        memory_bytes: for the logits of a chunk of tokens.
    """
    vocabulary = head(hidden[:1]).shape[-1]
    count, size = min(count, vocabulary), max(1, memory_bytes // (8 * vocabulary))
    ids, logprobs = [], []
    for part in hidden.split(size):
        logits = head(part)
        values, places = (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).topk(count)
        total = torch.logsumexp(logits.to(values.dtype) / temperature, -1, keepdim=True)
        ids.append(places)
        logprobs.append(values - total)
    return torch.cat(ids), torch.cat(logprobs)


def top_columns(
    policies: Policies, one: Round, teacher: Teacher | None, count: int, lengths: Sequence[int]
) -> dict[str, TokenColumn]:
    """Returns a column per rank of the most probable tokens: ``student_top_0`` (ids), ``student_top_logprob_0``, and
    so on to ``count`` − 1, and the teacher's, which are 0 where it read nothing. All ranks call this."""
    with policies.autocast():
        hidden, head = hidden_and_head(policies.student, one.batch)
        if not one.rows:
            return {}
        by_name = {"student_top": most_probable(hidden, head, count, policies.temperature, policies.head_bytes)}
        if teacher is not None:
            own = most_probable(teacher.hidden, teacher.head or head, count, teacher.temperature, policies.head_bytes)
            # The teacher read the tokens in another order, and those without a hint not at all.
            ids, logprobs = (torch.zeros_like(each) for each in by_name["student_top"])
            ids[teacher.tokens], logprobs[teacher.tokens] = own
            by_name["teacher_top"] = ids, logprobs
    values = {
        f"{name}{kind}_{place}": column[:, place]
        for name, pair in by_name.items()
        for kind, column in zip(("", "_logprob"), pair, strict=True)
        for place in range(column.shape[1])
    }
    return cut_columns(one.rows, lengths, values)


def top_k_errors(policies: Policies, one: Round, teacher: Teacher | None, method: MethodParams) -> Tensor:
    """Returns by how much the divergence over ``top_k`` words and a bucket is off that over all words, (N,), at most 0.

    Neither has the clip per word. All ranks call this.
    """
    kept, whole = (
        policies.read(policies.student, one.batch, teacher=teacher and replace(teacher, divergence=divergence_of(each)))
        for each in (method.model_copy(update={"entry_clip": None, **more}) for more in ({}, {"top_k": None}))
    )
    return kept[1].divergence - whole[1].divergence


@torch.no_grad()
def diagnose(
    policies: Policies,
    rollouts: Rollouts,
    rows: Sequence[int],
    method: MethodParams,
    train: TrainParams,
    top_k: int = 0,
) -> dict[str, TokenColumn]:
    """Scores rows under student, reference and teacher; returns the columns on the first rank, and none on the others.

    The columns are ``logprob``, ``entropy``, ``ref_logprob``, ``teacher_logprob`` and ``kl_to_teacher``; with ``top_k``
    also those of :func:`top_columns`; and ``top_k_error``, by :func:`top_k_errors`, for a method that distils over its
    k most probable words. A method without a teacher of its own is scored by the current weights with the
    privileged prompt. Rollouts without a hint have nothing of the teacher.
    """
    hinted = {row for row in rows if rollouts.teacher_prompts[row]}
    # The records always hold D_KL(p‖q), exact over all words, whatever the method distils.
    exact = {"distillation": "kl_student_teacher", "top_k": None, "entry_clip": None}
    own, method = method, method.model_copy(update=exact)
    parts = []
    for one in policies.rounds(rollouts, rows, rollouts.student_prompts, train.tokens_per_micro_batch):
        places = rollouts.token_places(one.rows, one.batch.targets.device)
        shown = {row: tokens for row, tokens in places.items() if row in hinted}
        everyone = [[row for row in each if row in hinted] for each in one.everyone]
        teacher = policies.privileged(rollouts, shown, everyone, method, train)
        _, student = policies.read(policies.student, one.batch, teacher=teacher)
        _, reference = policies.read(policies.reference, one.batch)
        errors = {}
        if own.top_k is not None:
            errors = {"top_k_error": top_k_errors(policies, one, teacher, own)}
        if one.rows:
            scored = {
                "logprob": student.logprobs, "entropy": student.entropy, "ref_logprob": reference.logprobs,
                "teacher_logprob": student.teacher_logprobs, "kl_to_teacher": student.divergence, **errors,
            }  # fmt: skip
            columns = cut_columns(one.rows, [len(rollouts.responses[row]) for row in one.rows], scored)
            of_teacher = ("teacher_logprob", "kl_to_teacher", *errors)
            parts.append(columns | {name: columns[name].only(hinted) for name in of_teacher})
        if top_k:
            found = top_columns(policies, one, teacher, top_k, [len(rollouts.responses[row]) for row in one.rows])
            parts.append({
                name: column if name.startswith("student") else column.only(hinted) for name, column in found.items()
            })  # fmt: skip
    return gather_columns(join_columns(parts), policies.ranks)


def single_terms(task: Task) -> dict[str, Task]:
    """Returns the task with one of its terms at a time, coefficients unchanged; terms that are zero are left out."""
    method, at = task.method, task.at
    nothing = replace(at, alpha=0.0, beta=0.0, entropy_bonus=0.0)
    silent = method.model_copy(update={"outcome": "none", "terms": {}})
    tasks = {}
    if method.outcome != "none":
        tasks["outcome"] = replace(task, method=method.model_copy(update={"terms": {}}), at=nothing)
    if at.beta > 0:
        tasks["distillation"] = replace(task, method=silent, at=replace(nothing, beta=at.beta))
    if reads_reference(method, at):
        tasks["reference"] = replace(task, method=silent, at=replace(nothing, alpha=at.alpha))
    if at.entropy_bonus > 0:
        tasks["entropy"] = replace(task, method=silent, at=replace(nothing, entropy_bonus=at.entropy_bonus))
    return tasks


def term_gradients(task: Task, rows: Sequence[int]) -> dict[str, float | None]:
    """Returns each term's gradient norm over ``rows``, before clipping, and the cosine of outcome and distillation.

    The student has no gradients afterwards. A term that is zero has None; so has the cosine where either gradient is
    zero.
    """
    student = task.policies.student
    kept: dict[str, list[Tensor]] = {}
    measured: dict[str, float | None] = dict.fromkeys(TERM_GRADIENTS)
    for name, single in single_terms(task).items():
        student.zero_grad(set_to_none=True)
        accumulate_gradients(single, rows)
        gradient = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for parameter in trainable(student)
        ]
        measured[f"grad_norm_{name}"] = _dot(gradient, gradient) ** 0.5
        if name in ("outcome", "distillation"):
            kept[name] = gradient
    student.zero_grad(set_to_none=True)
    if len(kept) == 2:
        norms = [measured["grad_norm_outcome"], measured["grad_norm_distillation"]]
        product = (norms[0] or 0.0) * (norms[1] or 0.0)
        if product > 0:
            measured["grad_cosine_outcome_distillation"] = _dot(kept["outcome"], kept["distillation"]) / product
    return measured


def _dot(left: list[Tensor], right: list[Tensor]) -> float:
    return sum(whole((a * b).sum(dtype=torch.float64)).item() for a, b in zip(left, right, strict=True))
