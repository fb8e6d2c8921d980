"""Computes divergences between the student's and the teacher's next-token distributions, exact over the vocabulary.

A divergence is one class here and its name in :class:`sdpg.params.MethodParams`. It needs no more than its formula,
:meth:`Divergence.entries`: gradients follow by autograd, a block of rows at a time. A class may also have a row kernel
that does the same in place with fewer passes over memory; for every entry of :data:`DIVERGENCES`, the tests compare
both with each other and with the numbers worked out by hand in :attr:`Divergence.worked`.

Axes: S rows (one row is one token), V vocabulary. p is the student's distribution, q the teacher's. This module imports
only torch.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

LN2 = math.log(2)
WORKED_P, WORKED_Q = (0.5, 0.25, 0.25), (0.25, 0.25, 0.5)
"""The two distributions of every worked example."""


@dataclass(frozen=True)
class Rows:
    """A block of rows that a row kernel reads and may overwrite.

    Attributes:
        log_p: (S, V) the student's log-probs, which must not be changed.
        p: (S, V) the student's probabilities, which must not be changed.
        log_q: (S, V) the teacher's log-probs; the kernel writes x of :class:`Slopes` here.
        exponentials: (S, V) q times ``sums``, which the kernel may use as scratch memory.
        sums: (S, 1) the divisor of ``exponentials``.
    """

    log_p: Tensor
    p: Tensor
    log_q: Tensor
    exponentials: Tensor
    sums: Tensor

    def take_q(self) -> Tensor:
        """Returns the teacher's probabilities (S, V), written over ``exponentials``; it may be called only once."""
        return self.exponentials.div_(self.sums)


@dataclass(frozen=True)
class Slopes:
    """The divergence of each row, and its gradient with respect to the student's logits z: a·p + b·x.

    Attributes:
        divergence: (S,) the divergence, in nats.
        of_p: (S,) the slope a.
        of_x: the slope b, one number for all rows; the kernel has written x to :attr:`Rows.log_q`.
    """

    divergence: Tensor
    of_p: Tensor
    of_x: float


def weighted_sums(terms: Tensor, weights: Tensor) -> Tensor:
    """Returns the sums (S,) of terms (S, V) that are multiplied by weights already; one of weight 0 adds nothing.

    Where a logit is -inf a term is 0·∞ or 0·(∞ - ∞), and becomes 0 in place: x·log x goes to 0 with x.
    """
    # Without asking first whether a sum is finite, for which the host would wait for a GPU.
    return terms.masked_fill_(weights == 0, 0.0).sum(1)


def _terms(log_p: Tensor, differences: Tensor) -> Tensor:
    """Returns p·differences, to which a word of probability 0 adds nothing; may be differentiated."""
    p = log_p.exp()
    return p * torch.where(p > 0, differences, 0.0)


def _mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Returns log(β q + (1-β) p)."""
    return torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))


def _log_mixture(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Returns the mixture's logarithm with a finite gradient, which it has not where both are -inf."""
    least = torch.finfo(log_p.dtype).min / 4
    return _mixture(log_p.clamp(min=least), log_q.clamp(min=least), beta)


@dataclass(frozen=True)
class Divergence(ABC):
    """The base class; a subclass's fields are its options, and have the names of fields of a method."""

    worked: ClassVar[dict[tuple[float, ...], float]] = {}
    """Values of the options, in the order of the fields → D at WORKED_P and WORKED_Q, worked out by hand."""

    @abstractmethod
    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Returns what each word adds to the divergence, (S, V) and (S, V) → (S, V).

        The gradient flows through ``log_p`` alone.
        """

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Returns the divergence of each row, (S, V) and (S, V) → (S,)."""
        return self.entries(log_p, log_q).sum(-1)

    def rows(self, rows: Rows) -> Slopes:
        """Returns value and slopes by autograd through :meth:`value`: with g = ∂D/∂log p, ∂D/∂z = g - p·Σg."""
        leaf = rows.log_p.detach().requires_grad_()
        with torch.enable_grad():
            divergence = self.value(leaf, rows.log_q.clone())
            (slope,) = torch.autograd.grad(divergence.sum(), leaf)
        rows.log_q.copy_(slope)
        return Slopes(divergence.detach(), -slope.sum(1), 1.0)


@dataclass(frozen=True)
class StudentTeacherKL(Divergence):
    """D_KL(p‖q) = Σ p log(p/q), sections 3.2 and 3.5 of arXiv 2606.04036; the paper calls it reverse, its code forward.

    x = p log(p/q), and the gradient is x - D·p.
    """

    worked: ClassVar = {(): LN2 / 4}

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return _terms(log_p, log_p - log_q)

    def rows(self, rows: Rows) -> Slopes:
        x = torch.sub(rows.log_p, rows.log_q, out=rows.log_q).mul_(rows.p)
        divergence = weighted_sums(x, rows.p)
        return Slopes(divergence, -divergence, 1.0)


@dataclass(frozen=True)
class TeacherStudentKL(Divergence):
    """D_KL(q‖p) = Σ q log(q/p). x = q, and the gradient is p - x."""

    worked: ClassVar = {(): LN2 / 4}

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return _terms(log_q, log_q - log_p)

    def rows(self, rows: Rows) -> Slopes:
        q = rows.take_q()
        divergence = weighted_sums(rows.log_q.sub_(rows.log_p).mul_(q), q)
        rows.log_q.copy_(q)
        return Slopes(divergence, torch.ones_like(divergence), -1.0)


@dataclass(frozen=True)
class GeneralisedJSD(Divergence):
    """β D_KL(q‖m) + (1-β) D_KL(p‖m) with m = β q + (1-β) p, generalised Jensen-Shannon (arXiv 2601.18734).

    x = p log(p/m), and the gradient is (1-β)(x - Σx·p): the terms by which p changes m cancel.
    """

    jsd_beta: float = 0.5
    """β, strictly between 0 and 1."""
    worked: ClassVar = {(0.5,): math.log(4 / 3) / 2 + math.log(2 / 3) / 4}

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        log_m = _log_mixture(log_p, log_q, self.jsd_beta)
        return self.jsd_beta * _terms(log_q, log_q - log_m) + (1 - self.jsd_beta) * _terms(log_p, log_p - log_m)

    def rows(self, rows: Rows) -> Slopes:
        q, log_m = rows.take_q(), _mixture(rows.log_p, rows.log_q, self.jsd_beta)
        to_teacher = weighted_sums(rows.log_q.sub_(log_m).mul_(q), q)
        to_student = weighted_sums(torch.sub(rows.log_p, log_m, out=rows.log_q).mul_(rows.p), rows.p)
        divergence = self.jsd_beta * to_teacher + (1 - self.jsd_beta) * to_student
        return Slopes(divergence, to_student * (self.jsd_beta - 1), 1 - self.jsd_beta)


@dataclass(frozen=True)
class SkewedKL(Divergence):
    """D_KL(p‖m) with m = s q + (1-s) p, the skewed KL of DistiLLM (arXiv 2402.03898); s = 1 is D_KL(p‖q).

    It stays finite where the teacher rules a word out, and its gradient is smaller there.
    """

    skew: float = 0.9
    """s, the teacher's share of the mixture, above 0 and below 1."""
    worked: ClassVar = {(0.5,): math.log(4 / 3) / 2 + math.log(2 / 3) / 4}

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        # log(m/p) from the ratio q/p, which keeps the digits where the two nearly agree; its exponential stays finite.
        ratio = (log_q - log_p.clamp(min=torch.finfo(log_p.dtype).min / 4)).clamp(max=80)
        return _terms(log_p, -torch.log1p(self.skew * torch.expm1(ratio)))


@dataclass(frozen=True)
class TopK(Divergence):
    """A divergence over k words and one bucket that holds all others, as SDPO (arXiv 2601.20802) distils.

    It is never larger than the divergence over all words, which it equals for k = V.
    """

    whole: Divergence
    k: int
    of: Literal["student", "teacher"]
    """Whose k most probable words are kept."""

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        if self.k >= log_p.shape[-1]:
            return self.whole.entries(log_p, log_q)
        words = (log_p if self.of == "student" else log_q).detach().topk(self.k, dim=-1).indices
        return self.whole.entries(_with_tail(log_p.gather(-1, words)), _with_tail(log_q.gather(-1, words)))


def _with_tail(kept: Tensor) -> Tensor:
    """Returns log-probs (S, k) with a further column, the logarithm of what is left of 1."""
    # At least what the type can tell from 1, so that rounding gives neither a logarithm of 0 nor an infinite gradient.
    tail = torch.log((-torch.expm1(kept.logsumexp(-1, keepdim=True))).clamp(min=torch.finfo(kept.dtype).eps / 8))
    return torch.cat([kept, tail], -1)


@dataclass(frozen=True)
class Clipped(Divergence):
    """A divergence of which no word may add more than a bound, OPSD's clip (arXiv 2601.18734).

    Words that reach the bound get no gradient, so that few words with large terms do not rule a token.
    """

    whole: Divergence
    bound: float

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return self.whole.entries(log_p, log_q).clamp(max=self.bound)


DIVERGENCES: dict[str, type[Divergence]] = {
    "kl_student_teacher": StudentTeacherKL,
    "kl_teacher_student": TeacherStudentKL,
    "jsd": GeneralisedJSD,
    "skewed_kl": SkewedKL,
}
"""Name in params.yaml → class."""


def divergence_of(method: Any) -> Divergence | None:
    """Returns the divergence of a method, whose fields hold the options; None if it needs no distribution."""
    if method.distillation not in DIVERGENCES:
        return None
    kind = DIVERGENCES[method.distillation]
    found = kind(**{option.name: getattr(method, option.name) for option in fields(kind)})
    if method.top_k is not None:
        found = TopK(found, method.top_k, method.top_k_of)
    return found if method.entry_clip is None else Clipped(found, method.entry_clip)
