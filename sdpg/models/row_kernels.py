"""Row-wise work on blocks of logits, in place: what :mod:`sdpg.models.fused_head` does between its matrix products.

Axes: R rows of a block, of which the first S were scored by the teacher, V vocabulary. One row is one token.
"""

from dataclasses import dataclass, fields
import math

import torch
from torch import Tensor

from sdpg.objective.divergences import Divergence, Rows, weighted_sums


@dataclass(frozen=True)
class RowValues:
    """Per-token values of a block or chunk of rows, filled in place, (R,) each; zero where nothing was computed.

    Attributes:
        logprobs: log p(y).
        entropy: -Σ p log p.
        divergence: to the teacher.
        teacher_logprobs: log q(y); NaN for rows that the teacher did not score.
        teacher_entropy: -Σ q log q; NaN for rows that the teacher did not score, and where nobody asked for it.
        of_p: a of ∂divergence/∂z = a·p + b·x, where x is what :func:`teacher_rows` leaves behind.
        of_x: b.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor
    teacher_logprobs: Tensor
    teacher_entropy: Tensor
    of_p: Tensor
    of_x: Tensor

    @staticmethod
    def empty(count: int, like: Tensor) -> "RowValues":
        """Returns the values of ``count`` rows of which nothing is known yet, in the type and place of ``like``."""
        unscored = {"teacher_logprobs", "teacher_entropy"}
        return RowValues(
            **{each.name: like.new_full((count,), math.nan if each.name in unscored else 0.0) for each in FIELDS}
        )

    def __getitem__(self, rows: slice) -> "RowValues":
        return RowValues(**{each.name: getattr(self, each.name)[rows] for each in FIELDS})


FIELDS = fields(RowValues)


def log_softmax_rows(logits: Tensor, exponentials: Tensor, temperature: float) -> Tensor:
    """Turns logits (R, V) into log-probs; ``exponentials`` (R, V) receives e^(log p) times the (R, 1) sums returned."""
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
    """Turns logits (R, V) into log p, fills ``probabilities`` with p, and logprobs and entropy. ``ids`` is (R, 1)."""
    probabilities.div_(log_softmax_rows(logits, probabilities, temperature))
    values.logprobs.copy_(logits.gather(1, ids).squeeze(1))
    torch.mul(probabilities, logits, out=scratch)
    values.entropy.copy_(weighted_sums(scratch, probabilities).neg_())


def teacher_rows(
    log_p: Tensor,
    p: Tensor,
    teacher_logits: Tensor,
    ids: Tensor,
    scratch: Tensor,
    temperature: float,
    divergence: Divergence | None,
    with_entropy: bool,
    values: RowValues,
) -> None:
    """Turns teacher_logits (S, V) into x of the divergence; fills the teacher's values of S rows. All are (S, …).

    ``divergence`` None leaves log q in place of x; ``with_entropy`` fills the entropy of q, for which q is formed once
    more.
    """
    log_q = teacher_logits
    sums = log_softmax_rows(log_q, scratch, temperature)
    values.teacher_logprobs.copy_(log_q.gather(1, ids).squeeze(1))
    if with_entropy:
        values.teacher_entropy.copy_(torch.special.entr(scratch / sums).sum(1))
    if divergence is None:
        return
    slopes = divergence.rows(Rows(log_p, p, log_q, scratch, sums))
    values.divergence.copy_(slopes.divergence)
    values.of_p.copy_(slopes.of_p)
    values.of_x.fill_(slopes.of_x)


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
    """Turns p (R, V) into ∂L/∂z by ∂L/∂logprobs, ∂L/∂entropy and ∂L/∂divergence, (R,) each or None; x is (S, V).

    ∂logprob/∂z = e_y - p; ∂entropy/∂z = -p log p - H·p; ∂divergence/∂z as in
    :class:`sdpg.objective.divergences.Slopes`.
    """
    of_p = torch.zeros_like(values.logprobs) if logprob_gradient is None else -logprob_gradient
    if entropy_gradient is not None:
        torch.special.entr(p, out=scratch).mul_(entropy_gradient.unsqueeze(1))
        of_p = of_p - entropy_gradient * values.entropy
    if divergence_gradient is not None:
        of_p = of_p + divergence_gradient * values.of_p
    p.mul_(of_p.unsqueeze(1))
    if entropy_gradient is not None:
        p.add_(scratch)
    if divergence_gradient is not None and len(x):
        scored = slice(0, len(x))
        p[scored].addcmul_(x, (divergence_gradient * values.of_x)[scored].unsqueeze(1))
    if logprob_gradient is not None:
        p.scatter_add_(1, ids, logprob_gradient.unsqueeze(1))
