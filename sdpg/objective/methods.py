"""Puts a method together: turns ``methods.<name>`` into the loss of each token, Eq. 3.1 of arXiv 2606.04036."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sdpg.errors import UserError
from sdpg.objective import losses
from sdpg.objective.coefficients import Coefficients, distils, gate_of, weights_tokens
from sdpg.objective.gates import TOKEN_GATES, Gate, TokenGate
from sdpg.objective.outcomes import OUTCOMES, OutcomeInputs
from sdpg.objective.responses import Responses
from sdpg.objective.token_credit import CREDITS, Evidence, credited
from sdpg.params import Imported, MethodParams
from sdpg.params.imported import load_part
from sdpg.params.method import SAMPLED, OwnTerm
from sdpg.params.train import TrainParams


@dataclass(frozen=True)
class TokenInputs:
    """The inputs of the loss, per response token.

    Attributes:
        logprobs: (N,) student log-prob of the sampled token, with gradient.
        entropy: (N,) entropy of the student's distribution, with gradient.
        divergence: (N,) divergence to the teacher's distribution, with gradient; 0 where the teacher scored nothing.
        old_logprobs: (N,) log-probs under π_old.
        advantages: (N,) the row's advantage.
        gates: (N,) the row's gate m_i.
        ref_logprobs: (N,) log-probs under π_ref, or None where no term reads them.
        gain_logprobs: (N,) student log-probs from which RLSD's Δ is taken: those at the start of the step.
        gain_teacher_logprobs: (N,) teacher log-probs of the sampled tokens at the start of the step, or None.
        teacher_logprobs: (N,) teacher log-probs of the sampled tokens, NaN where the teacher scored nothing.
        teacher_entropy: (N,) entropy of the teacher's distribution, NaN where the teacher scored nothing or nothing
            reads it.
        sampler_logprobs: (N,) the sampler's log-probs of its tokens; None where nothing corrects for it.
        closing: (N,) bool, the token that ends its response; None where none is marked.
        certainty: the mean of exp(−κ·H(q)) over the distilled tokens of the step, for the gate ``certainty`` alone.
        responses: the response of each token, and the token's place in it. Sums over a response are those of all its
            tokens only for a method that :func:`reads_whole_responses`.
        contrast_logprobs: (N,) teacher log-probs of the sampled tokens under a wrong hint, at the start of the step,
            NaN where the rollout has none or the teacher is not read; None where the method has no ``contrast_hint``.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    gates: Tensor
    ref_logprobs: Tensor | None
    gain_logprobs: Tensor
    gain_teacher_logprobs: Tensor | None
    teacher_logprobs: Tensor
    teacher_entropy: Tensor
    responses: Responses
    contrast_logprobs: Tensor | None = None
    sampler_logprobs: Tensor | None = None
    closing: Tensor | None = None
    certainty: float = 1.0


@dataclass(frozen=True)
class TokenLosses:
    """Per-token terms, (N,) each, before coefficients.

    Attributes:
        outcome: L_out.
        distillation: m_i · divergence to the teacher, times the gate of the token where the method has one.
        reference: L_K.
        own: a user's own terms by name, each times its coefficient.
        total: L_out + β L_OPD + α L_K - η H + own terms.
        ratio: ρ, detached.
        weight: the factor of the teacher's evidence on the advantage, detached; 1 for methods without.
        clipped: bool, whether the token's ratio was outside the clip range on the side where clipping acts.
    """

    outcome: Tensor
    distillation: Tensor
    reference: Tensor
    own: dict[str, Tensor]
    total: Tensor
    ratio: Tensor
    weight: Tensor
    clipped: Tensor


def reads_whole_responses(method: MethodParams) -> bool:
    """Says whether a token's loss depends on other tokens of its response."""
    parts = [OUTCOMES[method.outcome], *method.terms.values(), *_gates(method)]
    if weights_tokens(method):
        parts.append(CREDITS[method.token_weighting])
    return any(part.whole_responses for part in parts)


def reads_teacher_entropy(method: MethodParams) -> bool:
    """Says whether the loss reads the entropy of the teacher's distribution."""
    own = any(term.reads_teacher for term in method.terms.values())
    return own or any(gate.reads_teacher_entropy for gate in _gates(method))


def _gates(method: MethodParams) -> list[Gate | TokenGate]:
    """Returns the gates of the distillation term: that of rollouts, and those of tokens."""
    return [gate_of(method), *(TOKEN_GATES[name] for name in method.token_gate)] if distils(method) else []


def token_losses(method: MethodParams, at: Coefficients, train: TrainParams, inputs: TokenInputs) -> TokenLosses:
    """Returns Eq. 3.1, L = L_out + β(k)·L⁺_OPD + α·L_K, per token, with the options of A.3 and of the baselines."""
    zeros = torch.zeros_like(inputs.logprobs)
    ratio = losses.importance_ratio(inputs.logprobs, inputs.old_logprobs, train.log_ratio_clamp)
    weight, advantages = torch.ones_like(zeros), inputs.advantages
    if inputs.gain_teacher_logprobs is not None and weights_tokens(method):
        evidence = Evidence(
            advantages, inputs.gain_logprobs, inputs.gain_teacher_logprobs, inputs.contrast_logprobs, inputs.responses,
            at.rlsd_lambda,
        )  # fmt: skip
        advantages, weight = credited(method.token_weighting, evidence, method)
    if method.outcome_rows == "undistilled":
        advantages = advantages * (inputs.gates == 0)
    outcome = OUTCOMES[method.outcome].term(
        OutcomeInputs(
            inputs.logprobs, ratio, advantages, inputs.responses, method.clip_low, method.clip_high, method.dual_clip
        )
    )

    of_outcome = outcome.loss
    if inputs.sampler_logprobs is not None and train.sampler_correction is not None:
        apart = losses.importance_ratio(inputs.old_logprobs, inputs.sampler_logprobs)
        of_outcome = of_outcome * apart.detach().clamp(max=train.sampler_correction)

    distillation = zeros
    if at.beta > 0 and distils(method):
        divergence = _sampled(method.distillation, inputs) if method.distillation in SAMPLED else inputs.divergence
        bounded = divergence if method.kl_clamp is None else divergence.clamp(max=method.kl_clamp)
        distillation = bounded * inputs.gates
        for factors in _token_factors(method, inputs):
            # What a gate makes of tokens that no teacher scored does not count, be it NaN.
            distillation = distillation * factors.detach().where(inputs.gates > 0, 0.0)

    reference = zeros
    if inputs.ref_logprobs is not None and method.reference != "none":
        reference = losses.reference_term(inputs.logprobs, inputs.ref_logprobs, method.reference)

    # A.3: off-policy, the other terms are weighted by sg[ρ] as well.
    off_policy = ratio.detach() if train.ratio_on_all_terms and train.updates_per_batch > 1 else 1.0
    others = at.beta * distillation + at.alpha * reference
    if at.entropy_bonus > 0:
        others = others - at.entropy_bonus * inputs.entropy
    own = {name: term.coefficient * _own_values(name, term, inputs) for name, term in method.terms.items()}
    for values in own.values():
        others = others + values
    total = of_outcome + off_policy * others
    return TokenLosses(of_outcome, distillation, reference, own, total, ratio.detach(), weight, outcome.clipped)


def _token_factors(method: MethodParams, inputs: TokenInputs) -> Iterator[Tensor]:
    """Yields the factors of the distillation term for each token, beside the gates of their rollouts."""
    if (own := gate_of(method).token) is not None:
        yield own(inputs)
    for name in method.token_gate:
        yield TOKEN_GATES[name].weight(inputs, method)
    if method.exclude_eos and inputs.closing is not None:
        yield (~inputs.closing).to(inputs.logprobs.dtype)


def _sampled(kind: str, inputs: TokenInputs) -> Tensor:
    """Returns the distillation term of the sampled tokens, with gradient; 0 where the teacher scored nothing."""
    gain = inputs.teacher_logprobs - inputs.logprobs
    gain = torch.where(inputs.teacher_logprobs.isnan(), 0.0, gain)
    match kind:
        case "sampled_k2":
            return 0.5 * gain.square()
        case "sampled_k3":  # its gradient is that of D_KL(q‖p) in expectation
            return torch.expm1(gain) - gain
    return gain


def _own_values(name: str, term: OwnTerm, inputs: TokenInputs) -> Tensor:
    """Calls a user's own term and refuses what is not one value per token."""
    field = f"terms.{name}"
    values = _own_function(field, term.path)(inputs, **term.options)
    if not isinstance(values, Tensor) or values.shape != inputs.logprobs.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(
            f"{field}.path is {term.path!r}, which returns {shape} for {len(inputs.logprobs)} tokens: let it return "
            "a tensor of one value per token"
        )
    return values


@lru_cache(maxsize=64)
def _own_function(field: str, path: str) -> Callable[..., Any]:
    return load_part(Imported(kind="import", path=path), field)
