"""A method = which terms, which teacher, which schedule: ``methods.<name>`` turned into per-token losses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdpg.objective import losses, schedules
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams


@dataclass(frozen=True)
class Coefficients:
    """What multiplies each term at one step: α, β(k), λ(k), and η of the entropy bonus."""

    alpha: float
    beta: float
    rlsd_lambda: float
    entropy_bonus: float = 0.0


def coefficients(method: MethodParams, step: int, total: int) -> Coefficients:
    """The schedules at step k of ``total``; a term that the method lacks has coefficient 0."""
    beta = rlsd_lambda = 0.0
    if method.distillation != "none":
        warmup, decay = (schedules.window(fraction, total) for fraction in (method.beta_warmup, method.beta_decay))
        beta = schedules.beta(step, total, method.beta, warmup, decay, method.beta_shape)
    if method.token_weighting == "rlsd":
        warmup, decay = (schedules.window(fraction, total) for fraction in (method.rlsd_warmup, method.rlsd_decay))
        rlsd_lambda = schedules.rlsd_lambda(step, method.rlsd_lambda, decay, warmup, method.rlsd_shape)
    alpha = method.alpha if method.reference != "none" else 0.0
    return Coefficients(alpha, beta, rlsd_lambda, method.entropy_bonus)


def needs_reference(method: MethodParams, at: Coefficients) -> bool:
    """Whether the loss reads log π_ref."""
    return method.reference != "none" and method.reference_in == "loss" and at.alpha > 0


def teacher_rows(method: MethodParams, at: Coefficients, advantages: Tensor, gates: Tensor) -> Tensor:
    """(B,) bool: the rows for which the loss reads the teacher; no teacher pass is made for the others."""
    needed = torch.zeros_like(advantages, dtype=torch.bool)
    if at.beta > 0:
        needed |= gates > 0
    if at.rlsd_lambda > 0:
        # A zero advantage stays zero under any weight.
        needed |= advantages != 0
    return needed


def trained_rows(method: MethodParams, at: Coefficients, advantages: Tensor, gates: Tensor) -> Tensor:
    """(B,) bool: the rows with a term that is not zero; no student pass is made for the others."""
    if needs_reference(method, at) or at.entropy_bonus > 0:
        return torch.ones_like(advantages, dtype=torch.bool)
    needed = torch.zeros_like(advantages, dtype=torch.bool)
    if method.outcome != "none":
        # Written so that a NaN counts as something to look at.
        needed |= ~(advantages == 0)
    if at.beta > 0:
        needed |= gates > 0
    return needed


@dataclass(frozen=True)
class TokenInputs:
    """What the loss reads, per response token.

    Attributes:
        logprobs: (N,) student log-prob of the sampled token, with gradient.
        entropy: (N,) of the student's distribution, with gradient.
        divergence: (N,) to the teacher's distribution, with gradient; 0 where the teacher scored nothing.
        old_logprobs: (N,) of π_old.
        advantages: (N,) the row's advantage.
        gates: (N,) the row's gate m_i.
        ref_logprobs: (N,) of π_ref, or None where no term reads it.
        gain_logprobs: (N,) student log-probs from which RLSD's Δ is taken: those at the start of the step.
        gain_teacher_logprobs: (N,) teacher log-probs of the sampled tokens at the start of the step, or None.
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


@dataclass(frozen=True)
class TokenLosses:
    """Per-token terms, (N,) each, before coefficients.

    Attributes:
        outcome: L_out.
        distillation: m_i · divergence to the teacher.
        reference: L_K.
        total: L_out + β L_OPD + α L_K - η H.
        ratio: ρ, detached.
        weight: RLSD's factor on the advantage, detached; 1 for other methods.
        clipped: bool, the token's ratio was outside the clip range on the side where clipping acts.
    """

    outcome: Tensor
    distillation: Tensor
    reference: Tensor
    total: Tensor
    ratio: Tensor
    weight: Tensor
    clipped: Tensor


def token_losses(method: MethodParams, at: Coefficients, train: TrainParams, inputs: TokenInputs) -> TokenLosses:
    """Eq. 3.1, L = L_out + β(k)·L⁺_OPD + α·L_K, per token, with the options of A.3 and of the baselines."""
    zeros = torch.zeros_like(inputs.logprobs)
    ratio = losses.importance_ratio(inputs.logprobs, inputs.old_logprobs, train.log_ratio_clamp)
    weight = torch.ones_like(zeros)
    if inputs.gain_teacher_logprobs is not None:
        weight = losses.rlsd_weights(
            inputs.advantages, inputs.gain_logprobs, inputs.gain_teacher_logprobs, at.rlsd_lambda, method.rlsd_clip
        )
    advantages = inputs.advantages * weight

    outcome, clipped = zeros, torch.zeros_like(zeros, dtype=torch.bool)
    if method.outcome == "reinforce":
        outcome = losses.reinforce(inputs.logprobs, advantages)
    elif method.outcome != "none":
        surrogate = losses.clipped_surrogate(ratio, advantages, method.clip_low, method.clip_high, method.dual_clip)
        clipped = (surrogate != -advantages * ratio).detach()
        outcome = surrogate if method.outcome == "ppo_clip" else losses.clipped_weight(inputs.logprobs, surrogate)

    distillation = zeros
    if at.beta > 0 and method.distillation != "none":
        bounded = inputs.divergence if method.kl_clamp is None else inputs.divergence.clamp(max=method.kl_clamp)
        distillation = bounded * inputs.gates

    reference = zeros
    if inputs.ref_logprobs is not None and method.reference != "none":
        reference = losses.reference_term(inputs.logprobs, inputs.ref_logprobs, method.reference)

    # A.3: off-policy, the other terms are weighted by sg[ρ] as well.
    off_policy = ratio.detach() if train.ratio_on_all_terms and train.updates_per_batch > 1 else 1.0
    others = at.beta * distillation + at.alpha * reference
    if at.entropy_bonus > 0:
        others = others - at.entropy_bonus * inputs.entropy
    total = outcome + off_policy * others
    return TokenLosses(outcome, distillation, reference, total, ratio.detach(), weight, clipped)
