"""Defines how a teacher's evidence changes the advantage of each token; each name has an entry in :data:`CREDITS`.

The evidence is detached: the gradient flows through the ratio of the outcome term alone. A new rule is a function here,
its entry, and its name in :class:`sdpg.params.MethodParams`. Of the project this
module imports only its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdpg.objective import losses
from sdpg.objective.coefficients import EVIDENCE
from sdpg.objective.responses import Responses


@dataclass(frozen=True)
class Evidence:
    """What a rule reads, per response token and without gradient.

    Attributes:
        advantages: (N,) the row's advantage A.
        student: (N,) log p(y_t) at the start of the step.
        teacher: (N,) log q(y_t) under the hint; NaN where the teacher scored nothing.
        contrast: (N,) log q⁻(y_t) under the contrasting hint; NaN where there is none, None where no method reads it.
        responses: the response of each token; sums are whole only for a rule with ``whole_responses``.
        strength: λ(k), the strength of the evidence at this step.
    """

    advantages: Tensor
    student: Tensor
    teacher: Tensor
    contrast: Tensor | None
    responses: Responses
    strength: float

    @property
    def against(self) -> Tensor:
        """Returns log q⁻(y_t), NaN where there is none."""
        return torch.full_like(self.teacher, torch.nan) if self.contrast is None else self.contrast


@dataclass(frozen=True)
class TokenCredit:
    """An entry of :data:`CREDITS`.

    Attributes:
        value: a function from the evidence and the method to the factor on each token's advantage, (N,), or to the
            advantage itself.
        formula: for people.
        factor: whether ``value`` is a factor.
        contrast: whether it reads the log-probs under the contrasting hint.
        adds: whether a rollout of advantage 0 gets some; factors leave 0 at 0.
        whole_responses: whether a token's advantage depends on other tokens of its response.
    """

    value: Callable[[Evidence, Any], Tensor]
    formula: str
    factor: bool = False
    contrast: bool = False
    adds: bool = False
    whole_responses: bool = False


def rlsd(evidence: Evidence, method: Any) -> Tensor:
    """Returns RLSD's factor (1-λ) + λ·clip(exp(sign(A)·Δ)), arXiv 2604.03128; see :func:`losses.rlsd_weights`.

    A token that the teacher did not score keeps its advantage.
    """
    teacher = torch.where(evidence.teacher.isnan(), evidence.student, evidence.teacher)
    return losses.rlsd_weights(evidence.advantages, evidence.student, teacher, evidence.strength, method.rlsd_clip)


def cepo(evidence: Evidence, method: Any) -> Tensor:
    """Returns RLSD's factor with Δ = log q⁺ - log q⁻, arXiv 2605.19436; without a wrong hint it is RLSD's own."""
    against = torch.where(evidence.against.isnan(), evidence.student, evidence.against)
    teacher = torch.where(evidence.teacher.isnan(), against, evidence.teacher)
    return losses.rlsd_weights(evidence.advantages, against, teacher, evidence.strength, method.rlsd_clip)


def rlcsd(evidence: Evidence, method: Any) -> Tensor:
    """Returns the two paths of RLCSD, arXiv 2606.11709 (Eq. 7-15), as one advantage for each token.

    With e = log q⁺ - log q⁻, r = λ·tanh(e/τ) and M = {|r| > δ}: outside M it is A, inside M it is A + r with A's sign
    kept. The loss is the mean over the response's tokens outside M plus η times the mean over those in M, so that a
    token counts T/|its side| times as much as in the mean over all T. Rollouts without both hints are left out.
    """
    advantages, responses = evidence.advantages, evidence.responses
    evidenced = evidence.teacher - evidence.against
    bonus = evidence.strength * torch.tanh(evidenced / method.evidence_tau)
    known = ~bonus.isnan()
    inside = known & (bonus.abs() > method.evidence_threshold)
    shifted = keep_sign(advantages, torch.where(known, bonus, 0.0))
    sides = responses.spread(responses.sum(inside.to(advantages.dtype)))
    total = responses.spread(responses.lengths.to(advantages.dtype))
    size = torch.where(inside, sides, total - sides)
    share = torch.where(inside, method.evidence_share, 1.0) * total / size
    return torch.where(known, torch.where(inside, shifted, advantages) * share, 0.0)


def sipo(evidence: Evidence, method: Any) -> Tensor:
    """Returns A + λ·clip(e, ±ε) with e = log q⁺ - log q⁻ and A's sign kept, arXiv 2609.36742; at A = 0 it is the
    addend alone."""
    evidenced = evidence.teacher - evidence.against
    bonus = evidence.strength * evidenced.clamp(-method.rlsd_clip, method.rlsd_clip)
    bonus = torch.where(bonus.isnan(), 0.0, bonus)
    return torch.where(evidence.advantages == 0, bonus, keep_sign(evidence.advantages, bonus))


def antisd(evidence: Evidence, method: Any) -> Tensor:
    """Returns A - λ·φ(Δ) with φ(u) = ½(softplus(u) - log 2), arXiv 2605.11609 (Eq. 6): ascent on the divergence.

    A token that the teacher did not score keeps its advantage: φ(0) = 0.
    """
    gain = torch.where(evidence.teacher.isnan(), 0.0, evidence.teacher - evidence.student)
    zero = torch.zeros_like(gain)
    return evidence.advantages - evidence.strength * (torch.logaddexp(gain, zero) - torch.logaddexp(zero, zero)) / 2


def sampled_opsd(evidence: Evidence, method: Any) -> Tensor:
    """Returns λ·clip(Δ, 0, 20) where A > 0, and 0 elsewhere: the sampled-token OPSD of SDPG's public code (D11)."""
    gain = torch.where(evidence.teacher.isnan(), 0.0, evidence.teacher - evidence.student)
    return evidence.strength * gain.clamp(0, 20) * (evidence.advantages > 0)


def keep_sign(advantages: Tensor, bonus: Tensor) -> Tensor:
    """Returns A + bonus where that has A's sign, and 0 where it has not; a zero advantage stays zero."""
    return torch.where((advantages + bonus) * advantages > 0, advantages + bonus, 0.0)


def credited(name: str, evidence: Evidence, method: Any) -> tuple[Tensor, Tensor]:
    """Returns each token's advantage by a rule of :data:`CREDITS`, and its quotient by the row's advantage, 1 at 0."""
    rule = CREDITS[name]
    value = rule.value(evidence, method)
    if rule.factor:
        return evidence.advantages * value, value
    quotient = value / torch.where(evidence.advantages == 0, 1.0, evidence.advantages)
    return value, torch.where(evidence.advantages == 0, 1.0, quotient)


CREDITS: dict[str, TokenCredit] = {
    "rlsd": TokenCredit(rlsd, EVIDENCE["rlsd"], factor=True),
    "cepo": TokenCredit(cepo, EVIDENCE["cepo"], factor=True, contrast=True),
    "rlcsd": TokenCredit(rlcsd, EVIDENCE["rlcsd"], contrast=True, whole_responses=True),
    "sipo": TokenCredit(sipo, EVIDENCE["sipo"], contrast=True, adds=True),
    "antisd": TokenCredit(antisd, EVIDENCE["antisd"], adds=True),
    "sampled_opsd": TokenCredit(sampled_opsd, EVIDENCE["sampled_opsd"]),
}
"""Name in params.yaml → rule."""
