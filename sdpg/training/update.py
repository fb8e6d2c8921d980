"""One optimiser update from verified rollouts: forward passes by micro-batch, exact losses, gradients.

Axes: B sequences, N response tokens of a micro-batch, C tokens of a chunk of it, D hidden size.
The gradient does not depend on how sequences are grouped into micro-batches: every token's weight is fixed beforehand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
import json
import math
from pathlib import Path

import torch
from torch import Tensor

from sdpg.errors import Diverged
from sdpg.files import write_text
from sdpg.models.columns import TokenColumn, cut_columns, join_columns
from sdpg.models.experience import Experience
from sdpg.models.fused_head import Teacher, TokenValues
from sdpg.models.passes import Policies, Round
from sdpg.objective import losses
from sdpg.objective.coefficients import Coefficients, is_trained, reads_contrast, reads_reference, reads_teacher
from sdpg.objective.methods import TokenInputs, TokenLosses, reads_whole_responses, token_losses
from sdpg.objective.responses import Responses
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams

RECORDED = ("weight", "loss", "ratio", "clipped")
"""What of the terms is kept per token, beside the student's and the reference's log-probs and the entropy."""


@dataclass(frozen=True)
class Task:
    """What one optimiser update is computed from.

    Attributes:
        policies: the models.
        experience: the rollouts with their credit.
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

    def taught_rows(self) -> list[bool]:
        """Says of each rollout whether its loss reads the teacher; no teacher pass is made for the others.

        Nor is one for a rollout without a hint.
        """
        return self._hinted(reads_teacher(self.method, self.at, *each) for each in self._credit())

    def contrasted_rows(self) -> list[bool]:
        """Says of each rollout whether its loss reads the teacher under a wrong hint, beside that under its own."""
        return self._hinted(reads_contrast(self.method, self.at, *each) for each in self._credit())

    def trained_rows(self) -> list[bool]:
        """Says of each rollout whether it has a term that is not zero; no student pass is made for the others."""
        return [is_trained(self.method, self.at, *each) for each in self._credit()]

    def _hinted(self, reads: Iterable[bool]) -> list[bool]:
        return [bool(prompt) and read for prompt, read in zip(self.experience.teacher_prompts, reads, strict=True)]

    def _credit(self) -> list[tuple[float, float]]:
        return list(zip(self.experience.advantages.tolist(), self.experience.gates.tolist(), strict=True))


@dataclass(frozen=True)
class Accumulated:
    """What the passes of some rollouts leave behind, beside the gradients.

    Attributes:
        loss: L over all ranks.
        columns: per-token values of this rank's rollouts: ``logprob``, ``entropy``, ``ref_logprob`` where a term reads
            it, ``kl_gated`` (the distillation term where the gate is open), and those of :data:`RECORDED`.
    """

    loss: float
    columns: dict[str, TokenColumn]


def accumulate_gradients(task: Task, rows: Sequence[int]) -> Accumulated:
    """Adds ∂L/∂θ of the given rows to the student's gradients; the rows are dealt to the ranks.

    Rows whose every term is zero get no pass: they count in the normaliser, and leave no values per token.

    Args:
        task: models, rollouts, method.
        rows: one mini-batch: whole groups, siblings side by side.

    Raises:
        Diverged: if a term is not finite; the message names the term, the file holds the batch.
    """
    experience, train = task.experience, task.train
    lengths = torch.tensor([len(experience.responses[i]) for i in rows])
    row_weights = losses.normaliser_weights(lengths, train.normaliser, train.responses_per_prompt, task.max_tokens)
    weight_of = torch.zeros(len(experience.responses), dtype=torch.float64)
    weight_of[list(rows)] = row_weights
    # RLSD's Δ is taken once per rollout batch: where it is stored, the teacher is not asked again.
    asked = task if experience.teacher_logprobs is None else replace(task, at=replace(task.at, rlsd_lambda=0.0))
    taught, trained = asked.taught_rows(), task.trained_rows()
    read = [row for row in rows if trained[row]]
    parts = []
    for one in task.policies.rounds(experience, read, experience.student_prompts, train.tokens_per_micro_batch):
        with task.policies.accumulating(one.last):
            parts.append(_micro_batch(task, one, weight_of, taught))
    loss = sum(part.loss for part in parts)
    return Accumulated(task.policies.ranks.total(loss), join_columns(part.columns for part in parts))


def _micro_batch(task: Task, one: Round, weight_of: Tensor, with_teacher: Sequence[bool]) -> Accumulated:
    """Makes forward and backward pass of a few sequences; returns their part of L and their values per token.

    Without rows the same models are passed through in the same order, and the gradient is 0.
    """
    policies, experience, group, batch = task.policies, task.experience, one.rows, one.batch
    places = experience.token_places(group, batch.targets.device)
    taught = {row: tokens for row, tokens in places.items() if with_teacher[row]}
    everyone = [[row for row in rows if with_teacher[row]] for rows in one.everyone]
    teacher = policies.privileged(experience, taught, everyone, task.method, task.train)
    ref_logprobs = None
    if reads_reference(task.method, task.at):
        with torch.no_grad():
            ref_logprobs = policies.read(policies.reference, batch)[1].logprobs
    if not group:
        loss, _ = policies.read(policies.trained, batch, lambda _, values: 0.0 * values.logprobs)
        loss.backward()
        return Accumulated(0.0, {})
    terms = _Terms(task, group, batch.targets.device, weight_of, teacher, ref_logprobs)
    loss, values = policies.read(
        policies.trained, batch, terms, teacher, whole_responses=reads_whole_responses(task.method)
    )
    computed, lengths = terms.joined(), [len(experience.responses[i]) for i in group]
    _stop_unless_finite(computed, experience, group, lengths, task.dump)
    # Replicas and shards take the mean of the ranks' gradients; L is a sum over all rows.
    loss.backward(torch.full_like(loss, policies.ranks.size))
    kept = {"logprob": values.logprobs, "entropy": values.entropy} | {name: computed[name] for name in RECORDED}
    if ref_logprobs is not None:
        kept["ref_logprob"] = ref_logprobs
    if task.at.beta > 0:
        kept["kl_gated"] = computed["distillation"]
    columns = cut_columns(group, lengths, kept)
    if task.at.beta > 0:
        columns["kl_gated"] = columns["kl_gated"].only([i for i in group if experience.gates[i] > 0])
    return Accumulated(loss.item(), columns)


class _Terms:
    """The loss of one micro-batch as a function of its tokens' values; keeps every term for records and checks.

    Attributes:
        gates: (N,) of each token's row.
    """

    def __init__(
        self, task: Task, group: list[int], device: torch.device, weight_of: Tensor, teacher: Teacher | None,
        ref_logprobs: Tensor | None,
    ) -> None:  # fmt: skip
        experience = task.experience
        self.task, self.ref_logprobs = task, ref_logprobs
        lengths = [len(experience.responses[i]) for i in group]
        # Made on the CPU, as a GPU would have to tell how many tokens there are.
        responses = Responses.of(torch.tensor(lengths))
        self.responses = responses.to(device)
        self.advantages, self.gates, self.weights = (
            responses.spread(values[group]).to(device, non_blocking=True)
            for values in (experience.advantages, experience.gates, weight_of)
        )
        # On-policy, π_old is the policy of this very pass, and no second pass is needed.
        self.old_logprobs = None
        if experience.old_logprobs is not None:
            self.old_logprobs = torch.cat([experience.old_logprobs[i] for i in group]).to(device, non_blocking=True)
        self.sampler_logprobs = None
        if task.train.sampler_correction is not None:
            sampled = [torch.tensor(experience.rollout_logprobs[i]) for i in group]
            self.sampler_logprobs = torch.cat(sampled).to(device, non_blocking=True)
        self.stored_teacher = _stored(experience.teacher_logprobs, group, lengths, device)
        self.contrast = _stored(experience.contrast_logprobs, group, lengths, device)
        self.closing = None
        if experience.ended is not None:
            ended = torch.tensor([experience.ended[i] for i in group])
            closing = responses.spread(ended) & (responses.positions == responses.spread(responses.lengths) - 1)
            self.closing = closing.to(device, non_blocking=True)
        self.parts: list[tuple[Tensor, dict[str, Tensor]]] = []

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
                teacher_logprobs=values.teacher_logprobs,
                teacher_entropy=values.teacher_entropy,
                responses=self.responses.take(tokens),
                sampler_logprobs=None if self.sampler_logprobs is None else self.sampler_logprobs[tokens],
                certainty=task.experience.certainty,
                closing=None if self.closing is None else self.closing[tokens],
                contrast_logprobs=None if self.contrast is None else self.contrast[tokens].to(dtype),
            ),
        )
        weighted = terms.total * self.weights[tokens].to(dtype)
        self._keep(tokens, terms, weighted)
        return weighted

    def joined(self) -> dict[str, Tensor]:
        """Returns each term, the weighted loss and what went into them, (N,) each, in the order of the tokens."""
        # Without a token the terms were never asked for, and rows have one token at the least.
        order = torch.cat([tokens for tokens, _ in self.parts])
        names = self.parts[0][1]
        return {name: torch.cat([values[name] for _, values in self.parts])[order.argsort()] for name in names}

    def _gain(self, tokens: Tensor, old: Tensor, values: TokenValues) -> Tensor:
        """Returns log q(y_t) for the evidence, NaN for tokens that the teacher did not score."""
        if self.stored_teacher is not None:
            return self.stored_teacher[tokens].to(old.dtype)
        return values.teacher_logprobs

    def _keep(self, tokens: Tensor, terms: TokenLosses, weighted: Tensor) -> None:
        values = {name: part for name, part in vars(terms).items() if name != "own"} | {"loss": weighted}
        values |= {f"terms.{name}": part for name, part in terms.own.items()}
        self.parts.append((tokens, {name: part.detach() for name, part in values.items()}))


def _stored(
    values: list[Tensor | None] | None, group: list[int], lengths: list[int], device: torch.device
) -> Tensor | None:
    """Joins what was scored at the start of the step, (N,), with NaN for rows that were not; None for nothing."""
    if values is None:
        return None
    parts = zip((values[i] for i in group), lengths, strict=True)
    return torch.cat([torch.full((n,), math.nan, device=device) if v is None else v.to(device) for v, n in parts])


def _json_number(value: float) -> float | str:
    """Returns a number that JSON can hold: NaN and infinity, which it has not, become text."""
    return value if math.isfinite(value) else repr(value)


def _stop_unless_finite(
    terms: dict[str, Tensor], experience: Experience, group: list[int], lengths: list[int], dump: Path
) -> None:
    """Looks for a term that is not finite; one wait for the device finds that there is none.

    Raises:
        Diverged: that names the term and the file with the batch.
    """
    floats = {name: values for name, values in terms.items() if values.is_floating_point()}
    if bool(torch.isfinite(torch.stack([values.float() for values in floats.values()])).all()):
        return
    name, values = next((name, each) for name, each in floats.items() if not bool(torch.isfinite(each.float()).all()))
    parts = values.float().cpu().split(lengths)
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
