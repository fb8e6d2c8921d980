"""Defines the outcome terms L_out, which learn from the verifier's reward; each name has an entry in :data:`OUTCOMES`.

A new outcome is a function here, its entry, and its name in :class:`sdpg.params.MethodParams`. This module imports only
torch, :mod:`sdpg.objective.losses` and :mod:`sdpg.objective.responses`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdpg.objective import losses
from sdpg.objective.responses import Responses


@dataclass(frozen=True)
class OutcomeInputs:
    """The inputs of an outcome term, per response token.

    Attributes:
        logprobs: (N,) student log-prob of the sampled token, with gradient.
        ratio: (N,) ρ = π_θ(y_t)/π_old(y_t), with gradient.
        advantages: (N,) the token's advantage, RLSD's factor included.
        responses: the response of each token, and the token's place in it.
        clip_low: ε_l of the clip range.
        clip_high: ε_h of the clip range.
        dual_clip: c, the bound for negative advantages; None is no bound.
    """

    logprobs: Tensor
    ratio: Tensor
    advantages: Tensor
    responses: Responses
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None


@dataclass(frozen=True)
class OutcomeTerm:
    """L_out per token, and the tokens at which its clip acted.

    Attributes:
        loss: (N,) the loss per token.
        clipped: (N,) bool, whether the token's ratio was outside the clip range on the side where clipping acts.
    """

    loss: Tensor
    clipped: Tensor


@dataclass(frozen=True)
class Outcome:
    """An entry of :data:`OUTCOMES`.

    Attributes:
        term: a function from the inputs to the term.
        clips: whether the term reads the clip range.
        whole_responses: whether a token's loss depends on other tokens of its response. The head then hands over all
            values of a micro-batch at once, for which it forms the logits a second time where they do not fit into one
            chunk; no other pass through the model is made.
    """

    term: Callable[[OutcomeInputs], OutcomeTerm]
    clips: bool = False
    whole_responses: bool = False


def none(inputs: OutcomeInputs) -> OutcomeTerm:
    """Returns zeros, for a method that learns from its teacher alone."""
    return OutcomeTerm(torch.zeros_like(inputs.logprobs), torch.zeros_like(inputs.logprobs, dtype=torch.bool))


def reinforce(inputs: OutcomeInputs) -> OutcomeTerm:
    """Returns -A · log π_θ(y_t), section 3.2: on-policy, without ratio and without clip."""
    loss = losses.reinforce(inputs.logprobs, inputs.advantages)
    return OutcomeTerm(loss, torch.zeros_like(loss, dtype=torch.bool))


def ppo_clip(inputs: OutcomeInputs) -> OutcomeTerm:
    """Returns PPO's clipped surrogate ℓ_clip of A.3, which GRPO and the public code use."""
    surrogate = losses.clipped_surrogate(
        inputs.ratio, inputs.advantages, inputs.clip_low, inputs.clip_high, inputs.dual_clip
    )
    return OutcomeTerm(surrogate, (surrogate != -inputs.advantages * inputs.ratio).detach())


def clipped_weight(inputs: OutcomeInputs) -> OutcomeTerm:
    """Returns the paper's off-policy term of A.3, sg[ℓ_clip] · log π_θ(y_t)."""
    surrogate = ppo_clip(inputs)
    return OutcomeTerm(losses.clipped_weight(inputs.logprobs, surrogate.loss), surrogate.clipped)


def gspo(inputs: OutcomeInputs) -> OutcomeTerm:
    """Returns GSPO's clipped surrogate of each response's own ratio, arXiv 2507.18071.

    s = exp(1/T · Σ log ρ), and a token's ratio is sg[s]·π_θ/sg[π_θ] (GSPO-token), which has the response's value and
    gradient.
    """
    responses = inputs.responses
    log_ratio = inputs.ratio.detach().log()
    sequence = responses.spread(responses.mean(log_ratio)).exp()
    return ppo_clip(replace(inputs, ratio=sequence * (inputs.logprobs - inputs.logprobs.detach()).exp()))


def cispo(inputs: OutcomeInputs) -> OutcomeTerm:
    """Returns CISPO, arXiv 2506.13585: -sg[clip(ρ, 1-ε_l, 1+ε_h)]·A·log π_θ(y_t); every token keeps a gradient."""
    ratio = inputs.ratio.detach()
    bounded = ratio.clamp(1 - inputs.clip_low, 1 + inputs.clip_high)
    return OutcomeTerm(-bounded * inputs.advantages * inputs.logprobs, bounded != ratio)


OUTCOMES: dict[str, Outcome] = {
    "none": Outcome(none),
    "reinforce": Outcome(reinforce),
    "ppo_clip": Outcome(ppo_clip, clips=True),
    "clipped_weight": Outcome(clipped_weight, clips=True),
    "gspo": Outcome(gspo, clips=True, whole_responses=True),
    "cispo": Outcome(cispo, clips=True),
}
"""Name in params.yaml → outcome term."""
