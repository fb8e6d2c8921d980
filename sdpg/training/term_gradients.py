"""Measures how large each term's own gradient is, and whether outcome and distillation pull the same way."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sdpg.models.loading import trainable
from sdpg.models.ranks import whole
from sdpg.objective.coefficients import reads_reference
from sdpg.training.update import Task, accumulate_gradients

COLUMNS = (
    "grad_norm_outcome", "grad_norm_distillation", "grad_norm_reference", "grad_norm_entropy",
    "grad_cosine_outcome_distillation",
)  # fmt: skip


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
    measured: dict[str, float | None] = dict.fromkeys(COLUMNS)
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
