"""One optimiser update from verified rollouts: forward passes by micro-batch, exact losses, gradients.

Axes: B sequences, N response tokens of a micro-batch, C tokens of a chunk of it, D hidden size.
The gradient does not depend on how sequences are grouped into micro-batches: every token's weight is fixed beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from sdpg.errors import Diverged
from sdpg.files import write_text
from sdpg.models.batches import TokenBatch
from sdpg.models.experience import Experience, Signals
from sdpg.models.fused_head import Teacher, TokenValues
from sdpg.models.passes import Policies, Round
from sdpg.objective import losses
from sdpg.objective.methods import (
    Coefficients,
    TokenInputs,
    TokenLosses,
    needs_reference,
    teacher_rows,
    token_losses,
    trained_rows,
)
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams


@dataclass(frozen=True)
class Task:
    """What one optimiser update is computed from.

    Attributes:
        policies: the models.
        experience: the rollouts.
        method: which terms.
        at: their coefficients at this step.
        train: normaliser and micro-batch budget, among others.
        max_tokens: the response limit, for the ``constant`` normaliser.
        dump: where a batch with a NaN or infinite term is written out.
    """

    policies: Policies
    experience: Experience
    method: MethodParams
    at: Coefficients
    train: TrainParams
    max_tokens: int
    dump: Path


def accumulate_gradients(task: Task, rows: Sequence[int], signals: Signals) -> float:
    """Adds ∂L/∂θ of the given rows to the student's gradients and returns L; the rows are dealt to the ranks.

    Rows whose every term is zero get no pass: they count in the normaliser, and leave no signals.

    Args:
        task: models, rollouts, method.
        rows: one mini-batch: whole groups, siblings side by side.
        signals: receives the per-token values of this rank's rows.

    Raises:
        Diverged: if a term is not finite; the message names the term, the file holds the batch.
    """
    experience, method, train = task.experience, task.method, task.train
    lengths = torch.tensor([len(experience.responses[i]) for i in rows])
    row_weights = losses.normaliser_weights(lengths, train.normaliser, train.responses_per_prompt, task.max_tokens)
    weight_of = torch.zeros(len(experience.responses), dtype=torch.float64)
    weight_of[list(rows)] = row_weights
    # RLSD's Δ is taken once per rollout batch: where it is stored, the teacher is not asked again.
    asked = task.at if experience.teacher_logprobs is None else replace(task.at, rlsd_lambda=0.0)
    with_teacher = teacher_rows(method, asked, experience.advantages, experience.gates)
    trained = trained_rows(method, task.at, experience.advantages, experience.gates)
    read = [row for row in rows if trained[row]]
    total = 0.0
    for one in task.policies.rounds(experience, read, experience.student_prompts, train.tokens_per_micro_batch):
        with task.policies.accumulating(one.last):
            total += _micro_batch(task, one, weight_of, with_teacher, signals)
    return task.policies.ranks.total(total)


def _micro_batch(task: Task, one: Round, weight_of: Tensor, with_teacher: Tensor, signals: Signals) -> float:
    """Forward and backward pass of a few sequences; returns their part of L.

    Without rows the same models are passed through in the same order, and the gradient is 0.
    """
    policies, experience, group, batch = task.policies, task.experience, one.rows, one.batch
    places = experience.token_places(group, batch.targets.device)
    taught = {row: tokens for row, tokens in places.items() if with_teacher[row]}
    everyone = [[row for row in rows if with_teacher[row]] for rows in one.everyone]
    teacher = policies.privileged(experience, taught, everyone, task.method, task.train)
    if not group:
        if needs_reference(task.method, task.at):
            with torch.no_grad():
                policies.read(policies.reference, batch)
        loss, _ = policies.read(policies.trained, batch, lambda _, values: 0.0 * values.logprobs)
        loss.backward()
        return 0.0
    terms = _Terms(task, group, batch, weight_of, teacher)
    loss, values = policies.read(policies.trained, batch, terms, teacher)
    row_lengths = [len(experience.responses[i]) for i in group]
    _stop_unless_finite(terms.found, experience, group, row_lengths, task.dump)
    # Replicas and shards take the mean of the ranks' gradients; L is a sum over all rows.
    loss.backward(torch.full_like(loss, policies.ranks.size))
    kept = {name: terms.found[name] for name in ("weight", "loss", "ratio", "clipped")}
    signals.store(group, row_lengths, logprob=values.logprobs, entropy=values.entropy, **kept)
    if terms.ref_logprobs is not None:
        signals.store(group, row_lengths, ref_logprob=terms.ref_logprobs)
    if task.at.beta > 0:
        gated = [i for i in group if experience.gates[i] > 0]
        lengths = [len(experience.responses[i]) for i in gated]
        signals.store(gated, lengths, kl_gated=terms.found["distillation"][terms.gates > 0])
    return loss.item()


class _Terms:
    """The loss of one micro-batch as a function of its tokens' values; keeps every term for records and checks.

    Attributes:
        gates: (N,) of each token's row.
        ref_logprobs: (N,) or None where no term reads them.
        found: name → (N,) values of each term, of the weighted loss, and of what went into them.
    """

    def __init__(
        self, task: Task, group: list[int], batch: TokenBatch, weight_of: Tensor, teacher: Teacher | None
    ) -> None:
        policies, experience = task.policies, task.experience
        self.task, device = task, batch.targets.device

        self.advantages, self.gates, self.weights = (
            values[group].to(device)[batch.owners] for values in (experience.advantages, experience.gates, weight_of)
        )
        self.ref_logprobs = None
        if needs_reference(task.method, task.at):
            with torch.no_grad():
                self.ref_logprobs = policies.read(policies.reference, batch)[1].logprobs
        # On-policy, π_old is the policy of this very pass, and no second pass is needed.
        self.old_logprobs = None
        if experience.old_logprobs is not None:
            self.old_logprobs = torch.cat([experience.old_logprobs[i] for i in group]).to(device)
        self.scored = torch.zeros(len(batch.targets), dtype=torch.bool, device=device)
        if teacher is not None:
            self.scored[teacher.tokens] = True
        self.stored_teacher = None
        if experience.teacher_logprobs is not None:
            stored = [(experience.teacher_logprobs[i], len(experience.responses[i])) for i in group]
            parts = [torch.zeros(length) if part is None else part for part, length in stored]
            self.stored_teacher = torch.cat(parts).to(device)
        self.found: dict[str, Tensor] = {}

    def __call__(self, tokens: Tensor, values: TokenValues) -> Tensor:
        task, dtype = self.task, values.logprobs.dtype
        old = values.logprobs.detach() if self.old_logprobs is None else self.old_logprobs[tokens]
        terms = token_losses(
            task.method,
            task.at,
            task.train,
            TokenInputs(
                logprobs=values.logprobs,
                entropy=values.entropy,
                divergence=values.divergence,
                old_logprobs=old,
                advantages=self.advantages[tokens].to(dtype),
                gates=self.gates[tokens].to(dtype),
                ref_logprobs=None if self.ref_logprobs is None else self.ref_logprobs[tokens],
                gain_logprobs=old,
                gain_teacher_logprobs=self._gain(tokens, old, values) if task.at.rlsd_lambda > 0 else None,
            ),
        )
        weighted = terms.total * self.weights[tokens].to(dtype)
        self._keep(tokens, terms, weighted)
        return weighted

    def _gain(self, tokens: Tensor, old: Tensor, values: TokenValues) -> Tensor:
        """log q(y_t) for RLSD's Δ; rows that the teacher did not score have advantage 0, where sign(A)·Δ is 0."""
        if self.stored_teacher is not None:
            return self.stored_teacher[tokens].to(old.dtype)
        return torch.where(self.scored[tokens], values.teacher_logprobs, old)

    def _keep(self, tokens: Tensor, terms: TokenLosses, weighted: Tensor) -> None:
        for name, part in (vars(terms) | {"loss": weighted}).items():
            part = part.detach()
            self.found.setdefault(name, part.new_zeros(len(self.advantages)))[tokens] = part


def _json_number(value: float) -> float | str:
    """JSON has neither NaN nor infinity: they become text."""
    return value if math.isfinite(value) else repr(value)


def _stop_unless_finite(
    found: dict[str, Tensor], experience: Experience, group: list[int], lengths: list[int], dump: Path
) -> None:
    for name, values in found.items():
        if bool(torch.isfinite(values.float()).all()):
            continue
        parts = values.detach().float().cpu().split(lengths)
        rows = [
            {
                "problem_id": experience.problem_ids[i],
                "student_prompt_ids": experience.student_prompts[i],
                "response_ids": experience.responses[i],
                "advantage": _json_number(float(experience.advantages[i])),
                "gate": float(experience.gates[i]),
                name: [_json_number(value) for value in part.tolist()],
            }
            for i, part in zip(group, parts, strict=True)
        ]
        write_text(dump, json.dumps(rows, indent=1))
        raise Diverged(
            f"the term {name!r} of the loss is not finite. The batch is in {dump}; "
            "a lower train.lr, train.max_grad_norm or methods.*.beta usually helps"
        )
