"""Row-wise work on blocks of logits, in place: what :mod:`sdpg.models.fused_head` does between its matrix products.

Axes: R rows of a block, of which the first S were scored by the teacher, V vocabulary. One row is one token.
"""

from dataclasses import dataclass
import math

import torch
from torch import Tensor

from sdpg.objective.losses import Divergence


@dataclass(frozen=True)
class RowValues:
    """Per-token values of a block or chunk of rows, filled in place, (R,) each; zero where nothing was computed.

    Attributes:
        logprobs: log p(y).
        entropy: -Σ p log p.
        divergence: to the teacher.
        teacher_logprobs: log q(y); NaN for rows that the teacher did not score.
        from_p: a of ∂divergence/∂z = a·p + b·x, where x is what :func:`divergence_rows` leaves behind.
        from_x: b.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor
    teacher_logprobs: Tensor
    from_p: Tensor
    from_x: Tensor

    @staticmethod
    def zeros(count: int, like: Tensor) -> "RowValues":
        """For ``count`` rows."""
        values = like.new_zeros(6, count)
        values[3] = torch.nan
        return RowValues(*values)

    def __getitem__(self, rows: slice) -> "RowValues":
        parts = (self.logprobs, self.entropy, self.divergence, self.teacher_logprobs, self.from_p, self.from_x)
        return RowValues(*(part[rows] for part in parts))


def log_softmax_rows(logits: Tensor, exponentials: Tensor, temperature: float) -> Tensor:
    """logits (R, V) become log-probs; ``exponentials`` (R, V) receives e^(log p) times the (R, 1) sums returned."""
    if temperature != 1.0:
        logits.div_(temperature)
    logits.sub_(logits.amax(1, keepdim=True))
    torch.exp(logits, out=exponentials)
    sums = exponentials.sum(1, keepdim=True)
    logits.sub_(sums.log())
    return sums


def student_rows(
    logits: Tensor, ids: Tensor, probabilities: Tensor, scratch: Tensor, temperature: float, values: RowValues
) -> None:
    """logits (R, V) become log p, ``probabilities`` p; fills logprobs and entropy. ``ids`` is (R, 1)."""
    probabilities.div_(log_softmax_rows(logits, probabilities, temperature))
    values.logprobs.copy_(logits.gather(1, ids).squeeze(1))
    torch.mul(probabilities, logits, out=scratch)
    torch.sum(scratch, 1, out=values.entropy)
    values.entropy.neg_()


def divergence_rows(
    log_p: Tensor,
    p: Tensor,
    teacher_logits: Tensor,
    ids: Tensor,
    scratch: Tensor,
    temperature: float,
    kind: Divergence | None,
    jsd_beta: float,
    values: RowValues,
) -> None:
    """teacher_logits (S, V) become x; fills divergence, its two factors, and teacher_logprobs. All tensors (S, …).

    ==================  ==============  ====================================  =================================
    kind                x               divergence                            gradient with respect to z
    ==================  ==============  ====================================  =================================
    kl_student_teacher  p log(p/q)      Σ x                                   x - Σx · p
    kl_teacher_student  q               Σ q log(q/p)                          p - x
    jsd                 p log(p/m)      β Σ q log(q/m) + (1-β) Σ x            (1-β) (x - Σx · p)
    ==================  ==============  ====================================  =================================
    """
    log_q = teacher_logits
    sums = log_softmax_rows(log_q, scratch, temperature)
    values.teacher_logprobs.copy_(log_q.gather(1, ids).squeeze(1))
    match kind:
        case None:
            return
        case "kl_student_teacher":
            torch.sub(log_p, log_q, out=log_q).mul_(p)
            torch.sum(log_q, 1, out=values.divergence)
            torch.neg(values.divergence, out=values.from_p)
            values.from_x.fill_(1.0)
        case "kl_teacher_student":
            q = scratch.div_(sums)
            log_q.sub_(log_p).mul_(q)
            torch.sum(log_q, 1, out=values.divergence)
            log_q.copy_(q)
            values.from_p.fill_(1.0)
            values.from_x.fill_(-1.0)
        case "jsd":
            q = scratch.div_(sums)
            log_m = torch.logaddexp(log_q + math.log(jsd_beta), log_p + math.log1p(-jsd_beta))
            to_teacher = log_q.sub_(log_m).mul_(q).sum(1)
            torch.sub(log_p, log_m, out=log_q).mul_(p)
            to_student = log_q.sum(1)
            values.divergence.copy_(jsd_beta * to_teacher + (1 - jsd_beta) * to_student)
            values.from_p.copy_(to_student * (jsd_beta - 1))
            values.from_x.fill_(1 - jsd_beta)


def gradient_rows(
    p: Tensor,
    x: Tensor,
    ids: Tensor,
    scratch: Tensor,
    values: RowValues,
    logprob_gradient: Tensor | None,
    entropy_gradient: Tensor | None,
    divergence_gradient: Tensor | None,
) -> None:
    """p (R, V) becomes ∂L/∂z from ∂L/∂logprobs, ∂L/∂entropy and ∂L/∂divergence, (R,) each or None; x is (S, V).

    ∂logprob/∂z = e_y - p; ∂entropy/∂z = -p log p - H·p; ∂divergence/∂z as in :func:`divergence_rows`.
    """
    of_p = torch.zeros_like(values.logprobs) if logprob_gradient is None else -logprob_gradient
    if entropy_gradient is not None:
        torch.special.entr(p, out=scratch).mul_(entropy_gradient.unsqueeze(1))
        of_p = of_p - entropy_gradient * values.entropy
    if divergence_gradient is not None:
        of_p = of_p + divergence_gradient * values.from_p
    p.mul_(of_p.unsqueeze(1))
    if entropy_gradient is not None:
        p.add_(scratch)
    if divergence_gradient is not None and len(x):
        scored = slice(0, len(x))
        p[scored].addcmul_(x, (divergence_gradient * values.from_x)[scored].unsqueeze(1))
    if logprob_gradient is not None:
        p.scatter_add_(1, ids, logprob_gradient.unsqueeze(1))
