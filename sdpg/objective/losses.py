"""Computes the terms of the loss, per token, as pure tensor functions.

Axes: B sequences, N response tokens of all sequences joined. Every function returns one value per token; the caller
weights them (see :func:`normaliser_weights`) and sums. Equation numbers are those of arXiv 2606.04036. Divergences over
the vocabulary have a module of their own, :mod:`sdpg.objective.divergences`.

Names: ``logprobs`` are log π_θ(y_t) with gradient, ``old_logprobs`` log π_old(y_t), ``ref_logprobs`` log π_ref(y_t),
``teacher_logprobs`` log q_t(y_t); all (N,). A tensor called ``advantages`` holds each token's advantage, (N,).
"""

from typing import Literal, get_args

import torch
from torch import Tensor

ReferenceKind = Literal["ufkl", "urkl", "fkl", "rkl", "k1", "k3"]
Normaliser = Literal["group", "batch", "sequence", "constant"]


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, clamp: float | None = None) -> Tensor:
    """Returns ρ = π_θ(y_t)/π_old(y_t); ``clamp`` bounds |log ρ| (D1)."""
    log_ratio = logprobs - old_logprobs
    return (log_ratio if clamp is None else log_ratio.clamp(-clamp, clamp)).exp()


def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Returns L_out on-policy, section 3.2: -A · log π_θ(y_t)."""
    return -advantages * logprobs


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> Tensor:
    """Returns ℓ_clip of A.3: max(-Aρ, -A·clip(ρ, 1-ε_l, 1+ε_h)), for A < 0 at most -A·c. PPO's clipped loss.

    With ε_l = ε_h and no dual clip this is GRPO's -min(ρA, clip(ρ, 1-ε, 1+ε)A).
    """
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


def clipped_weight(logprobs: Tensor, surrogate: Tensor) -> Tensor:
    """Returns the paper's off-policy outcome term, A.3: sg[ℓ_clip] · log π_θ(y_t); a clipped token keeps a gradient."""
    return surrogate.detach() * logprobs


def reference_term(logprobs: Tensor, ref_logprobs: Tensor, kind: ReferenceKind) -> Tensor:
    """Returns L_K on sampled tokens, table of section 3.2, with w = π_θ(y_t)/π_ref(y_t).

    ``ufkl`` 1/w + log w, ``urkl`` ½(log w)², ``fkl`` 1/w, ``rkl`` ½(log w + 1)². Their gradients are those of the
    divergences; their values are not divergences. ``k1`` log w and ``k3`` 1/w - 1 + log w are estimators of
    D_KL(π_θ‖π_ref).

    Raises:
        ValueError: if ``kind`` is none of these.
    """
    log_w = logprobs - ref_logprobs
    match kind:
        case "ufkl":
            return (-log_w).exp() + log_w
        case "urkl":
            return 0.5 * log_w.square()
        case "fkl":
            return (-log_w).exp()
        case "rkl":
            return 0.5 * (log_w + 1).square()
        case "k1":
            return log_w
        case "k3":
            # expm1 keeps the digits where the two policies nearly agree, so that k3 is never negative.
            return torch.expm1(-log_w) + log_w
    raise ValueError(f"kind is {kind!r}; allowed: {', '.join(get_args(ReferenceKind))}")


def rlsd_weights(advantages: Tensor, old_logprobs: Tensor, teacher_logprobs: Tensor, lam: float, clip: float) -> Tensor:
    """Returns RLSD's factor on each advantage (arXiv 2604.03128): (1-λ) + λ·clip(exp(sign(A)·Δ), 1-ε_w, 1+ε_w).

    Δ = log q(y_t) - log p(y_t) at the start of the step, detached. λ = 0 gives 1, which is GRPO.
    """
    gain = (teacher_logprobs - old_logprobs).detach()
    evidence = (advantages.sign() * gain).exp().clamp(1 - clip, 1 + clip)
    return (1 - lam) + lam * evidence


def normaliser_weights(lengths: Tensor, kind: Normaliser, group_size: int, max_tokens: int) -> Tensor:
    """Returns the weights by which response tokens' losses are multiplied before the sum; micro-batches do not matter.

    ``group`` (the paper): token mean over each prompt's G responses, then mean over prompts. ``batch``: token mean over
    all responses. ``sequence``: token mean of each response, then mean over responses. ``constant``: divided by
    responses × ``max_tokens`` (Dr. GRPO). Tokens of gated-out responses count like any other.

    Args:
        lengths: (B,) response tokens per sequence, EOS included; the G siblings of a prompt stand side by side.
        kind: the normaliser.
        group_size: G.
        max_tokens: the response limit, for ``constant``.

    Returns:
        (B,) float64, the weight of each token of the sequence.

    Raises:
        ValueError: if ``kind`` is none of these.
    """
    lengths = lengths.double()
    match kind:
        case "group":
            totals = lengths.view(-1, group_size).sum(1)
            return (1 / (totals * len(totals))).repeat_interleave(group_size)
        case "batch":
            return torch.full_like(lengths, 1 / lengths.sum().item())
        case "sequence":
            return 1 / (lengths * len(lengths))
        case "constant":
            return torch.full_like(lengths, 1 / (len(lengths) * max_tokens))
    raise ValueError(f"kind is {kind!r}; allowed: {', '.join(get_args(Normaliser))}")
