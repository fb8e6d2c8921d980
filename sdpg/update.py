"""One optimiser update from verified rollouts: forward passes by micro-batch, exact losses, gradients.

Axes: P prompts, G responses per prompt, B = P·G sequences, N response tokens, V vocabulary.
The gradient does not depend on how sequences are grouped into micro-batches: every token's weight is fixed beforehand.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdpg import losses
from sdpg.batches import TokenBatch, micro_batches, token_batch
from sdpg.errors import UserError
from sdpg.files import write_text
from sdpg.methods import Coefficients, TokenInputs, needs_reference, teacher_rows, token_losses
from sdpg.models import response_logits
from sdpg.params import MethodParams, TrainParams


@dataclass
class Experience:
    """The rollouts of one step, ready to learn from; siblings of a prompt stand side by side.

    Attributes:
        problem_ids: (B) names, for error messages.
        student_prompts: (B) token ids.
        teacher_prompts: (B) token ids.
        responses: (B) token ids, EOS included.
        rollout_logprobs: (B) the sampler's log-prob of each response token.
        advantages: (B,) float64.
        gates: (B,) float64.
        old_logprobs: (B) log π_old of each response token where it is not simply the current policy's.
        teacher_logprobs: (B) log q of each response token at the start of the step, where several updates need it.
    """

    problem_ids: list[str]
    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]]
    responses: list[list[int]]
    rollout_logprobs: list[list[float]]
    advantages: Tensor
    gates: Tensor
    old_logprobs: list[Tensor] | None = None
    teacher_logprobs: list[Tensor | None] | None = None

    def batch(self, rows: Sequence[int], prompts: list[list[int]], pad_id: int, device: Any) -> TokenBatch:
        """The chosen rows under student or teacher prompts."""
        return token_batch([prompts[i] for i in rows], [self.responses[i] for i in rows], pad_id, device)

    def micro_batches(self, rows: Sequence[int], budget: int, with_teacher: bool) -> list[list[int]]:
        """Groups rows by length; where the teacher reads them too, by its longer prompts."""
        prompts = self.teacher_prompts if with_teacher else self.student_prompts
        lengths = [len(prompts[i]) + len(self.responses[i]) for i in rows]
        return [[rows[i] for i in group] for group in micro_batches(lengths, budget)]


@dataclass
class Policies:
    """The models that a step reads, and how they are read.

    Attributes:
        student: the policy being trained.
        reference: π_ref, the frozen initial weights; None where neither losses nor records read it.
        pad_id: padding token.
        temperature: of the sampling distribution, by which student and reference logits are divided.
        dtype: of the forward passes; softmax, KL and sums are float32 whatever it is.
    """

    student: Any
    reference: Any
    pad_id: int
    temperature: float
    dtype: torch.dtype = torch.float32

    def log_probs(self, model: Any, batch: TokenBatch, temperature: float | None = None) -> Tensor:
        """(N, V) float32 log-probs of the response positions."""
        device = batch.input_ids.device.type
        with torch.autocast(device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits = response_logits(model, batch, self.temperature if temperature is None else temperature)
        return logits.log_softmax(-1)

    def teacher(self, method: MethodParams) -> Any:
        """The model that plays the privileged teacher."""
        return self.student if method.teacher == "current" else self.reference

    def teacher_temperature(self, train: TrainParams) -> float:
        """D12: the teacher's logits are divided by the sampling temperature, or by 1."""
        return self.temperature if train.teacher_temperature == "same" else 1.0

    @torch.no_grad()
    def sampled_logprobs(
        self,
        model: Any,
        experience: Experience,
        rows: Sequence[int],
        prompts: list[list[int]],
        budget: int,
        temperature: float | None = None,
    ) -> dict[int, Tensor]:
        """Log-probs of the sampled response tokens, row → (T,), without gradient."""
        found: dict[int, Tensor] = {}
        lengths = [len(prompts[i]) + len(experience.responses[i]) for i in rows]
        for group in micro_batches(lengths, budget):
            members = [rows[i] for i in group]
            batch = experience.batch(members, prompts, self.pad_id, model.device)
            values = losses.token_logprobs(self.log_probs(model, batch, temperature), batch.targets)
            parts = values.split([len(experience.responses[i]) for i in members])
            found.update(zip(members, parts, strict=True))
        return found


@dataclass
class Signals:
    """Per-token values of each row, filled by the passes that compute them: row → list of the response's length."""

    logprob: dict[int, list[float]] = field(default_factory=dict)
    entropy: dict[int, list[float]] = field(default_factory=dict)
    weight: dict[int, list[float]] = field(default_factory=dict)
    loss: dict[int, list[float]] = field(default_factory=dict)
    ratio: dict[int, list[float]] = field(default_factory=dict)
    clipped: dict[int, list[float]] = field(default_factory=dict)
    kl_gated: dict[int, list[float]] = field(default_factory=dict)
    ref_logprob: dict[int, list[float]] = field(default_factory=dict)

    def store(self, rows: Sequence[int], lengths: Sequence[int], **values: Tensor) -> None:
        """Cuts joined (N,) values into rows."""
        for name, tensor in values.items():
            parts = tensor.detach().float().cpu().split(list(lengths))
            getattr(self, name).update({row: part.tolist() for row, part in zip(rows, parts, strict=True)})

    def mean(self, name: str) -> float | None:
        """Mean over all stored tokens in row order, or None where nothing was stored."""
        stored = getattr(self, name)
        values = [value for row in sorted(stored) for value in stored[row]]
        return math.fsum(values) / len(values) if values else None


def accumulate_gradients(
    policies: Policies,
    experience: Experience,
    rows: Sequence[int],
    method: MethodParams,
    at: Coefficients,
    train: TrainParams,
    max_tokens: int,
    signals: Signals,
    dump: Path,
) -> float:
    """Adds ∂L/∂θ of the given rows to the student's gradients and returns L.

    Args:
        policies: the models.
        experience: the rollouts.
        rows: one mini-batch: whole groups, siblings side by side.
        method: which terms.
        at: their coefficients at this step.
        train: normaliser and micro-batch budget, among others.
        max_tokens: the response limit, for the ``constant`` normaliser.
        signals: receives the per-token values.
        dump: where a batch with a NaN or infinite term is written out.

    Raises:
        UserError: if a term is not finite; the message names the term, the file holds the batch.
    """
    lengths = torch.tensor([len(experience.responses[i]) for i in rows])
    row_weights = losses.normaliser_weights(lengths, train.normaliser, train.responses_per_prompt, max_tokens)
    weight_of = dict(zip(rows, row_weights.tolist(), strict=True))
    # RLSD's Δ is taken once per rollout batch: where it is stored, the teacher is not asked again.
    asked = at if experience.teacher_logprobs is None else replace(at, rlsd_lambda=0.0)
    with_teacher = teacher_rows(method, asked, experience.advantages, experience.gates)
    total = 0.0
    for group in experience.micro_batches(rows, train.tokens_per_micro_batch, bool(with_teacher[list(rows)].any())):
        batch, inputs = _token_inputs(policies, experience, group, method, at, train, with_teacher)
        terms = token_losses(method, at, train, inputs)
        row_lengths = [len(experience.responses[i]) for i in group]
        _stop_unless_finite(terms, experience, group, row_lengths, dump)
        weights = torch.tensor([weight_of[i] for i in group], dtype=terms.total.dtype, device=batch.rows.device)[
            batch.rows
        ]
        loss = (terms.total * weights).sum()
        # Without an outcome term, a micro-batch whose gates are all closed has no graph.
        if loss.requires_grad:
            loss.backward()
        total += loss.item()
        with torch.no_grad():
            signals.store(
                group, row_lengths, logprob=inputs.logprobs, entropy=losses.entropy(inputs.log_probs),
                weight=terms.weight, loss=terms.total * weights, ratio=terms.ratio, clipped=terms.clipped,
            )  # fmt: skip
            if inputs.ref_logprobs is not None:
                signals.store(group, row_lengths, ref_logprob=inputs.ref_logprobs)
            if at.beta > 0:
                gated = [i for i in group if experience.gates[i] > 0]
                open_tokens = inputs.gates > 0
                gated_lengths = [len(experience.responses[i]) for i in gated]
                signals.store(gated, gated_lengths, kl_gated=terms.distillation[open_tokens])
    return total


def _token_inputs(
    policies: Policies,
    experience: Experience,
    group: list[int],
    method: MethodParams,
    at: Coefficients,
    train: TrainParams,
    with_teacher: Tensor,
) -> tuple[TokenBatch, TokenInputs]:
    """Runs the passes that the loss of one micro-batch needs, and none other."""
    device = policies.student.device
    batch = experience.batch(group, experience.student_prompts, policies.pad_id, device)
    log_probs = policies.log_probs(policies.student, batch)
    logprobs = losses.token_logprobs(log_probs, batch.targets)

    # On-policy, π_old is the policy of this very pass, and no second pass is needed.
    old_logprobs = logprobs.detach()
    if experience.old_logprobs is not None:
        old_logprobs = torch.cat([experience.old_logprobs[i] for i in group]).to(device)

    ref_logprobs = None
    if needs_reference(method, at):
        with torch.no_grad():
            ref_log_probs = policies.log_probs(policies.reference, batch)
            ref_logprobs = losses.token_logprobs(ref_log_probs, batch.targets)

    teacher_log_probs = gain = None
    asked = [position for position, row in enumerate(group) if with_teacher[row]]
    teacher_tokens = torch.isin(batch.rows, torch.tensor(asked, device=device)).nonzero().squeeze(1)
    if asked:
        teacher_batch = experience.batch(
            [group[position] for position in asked], experience.teacher_prompts, policies.pad_id, device
        )
        with torch.no_grad():
            temperature = policies.teacher_temperature(train)
            teacher_log_probs = policies.log_probs(policies.teacher(method), teacher_batch, temperature)
    if at.rlsd_lambda > 0:
        # Rows that the teacher did not score have advantage 0, which no weight changes: Δ = 0 there.
        gain = old_logprobs.clone()
        if experience.teacher_logprobs is not None:
            stored = [experience.teacher_logprobs[i] for i in group]
            parts = old_logprobs.split([len(experience.responses[i]) for i in group])
            gain = torch.cat([p if s is None else s.to(device) for s, p in zip(stored, parts, strict=True)])
        elif teacher_log_probs is not None:
            gain[teacher_tokens] = losses.token_logprobs(teacher_log_probs, batch.targets[teacher_tokens])

    def per_token(values: Tensor) -> Tensor:
        return values[group].to(device, log_probs.dtype)[batch.rows]

    return batch, TokenInputs(
        log_probs=log_probs,
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=per_token(experience.advantages),
        gates=per_token(experience.gates),
        ref_logprobs=ref_logprobs,
        teacher_tokens=teacher_tokens,
        teacher_log_probs=teacher_log_probs,
        gain_logprobs=old_logprobs,
        gain_teacher_logprobs=gain,
    )


def _json_number(value: float) -> float | str:
    """JSON has neither NaN nor infinity: they become text."""
    return value if math.isfinite(value) else repr(value)


def _stop_unless_finite(terms: Any, experience: Experience, group: list[int], lengths: list[int], dump: Path) -> None:
    for term in fields(terms):
        values = getattr(terms, term.name)
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
                term.name: [_json_number(value) for value in part.tolist()],
            }
            for i, part in zip(group, parts, strict=True)
        ]
        write_text(dump, json.dumps(rows, indent=1))
        raise UserError(
            f"the term {term.name!r} of the loss is not finite. The batch is in {dump}; "
            "a lower train.lr, train.max_grad_norm or methods.*.beta usually helps"
        )
