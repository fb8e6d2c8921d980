"""What :func:`sdpg.models.fused_head.fused_head` computes, written once more from the formulas over full logits.

Values and losses are differentiated by autograd. :func:`sizes` says what a rounding error of a result is measured
against.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, fields, replace
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from sdpg.models.fused_head import Teacher, TokenLoss, TokenValues, fused_head
from sdpg.objective.divergences import (
    DIVERGENCES,
    Divergence,
    GeneralisedJSD,
    SkewedKL,
    StudentTeacherKL,
    TeacherStudentKL,
)


@dataclass(frozen=True)
class Inputs:
    """The arguments of the fused head but for the loss and the memory."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    ids: Tensor
    temperature: float = 1.0
    teacher: Teacher | None = None

    def to(self, dtype: torch.dtype) -> "Inputs":
        """Copies of that type; hidden, weight and bias are leaves that want a gradient."""
        teacher = self.teacher
        if teacher is not None:
            head = None if teacher.head is None else deepcopy(teacher.head).to(dtype)
            teacher = replace(teacher, hidden=teacher.hidden.to(dtype), head=head)
        leaves = [None if leaf is None else leaf.detach().to(dtype, copy=True) for leaf in self.leaves]
        hidden, weight, bias = [None if leaf is None else leaf.requires_grad_() for leaf in leaves]
        assert hidden is not None and weight is not None
        return Inputs(hidden, weight, bias, self.ids, self.temperature, teacher)

    @property
    def leaves(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.hidden, self.weight, self.bias


KERNELS = [name for name, kind in DIVERGENCES.items() if "rows" in vars(kind)]
"""The divergences with a row kernel of their own, and a form in Triton."""
Results = dict[str, Tensor]
"""The loss, the four values, and the gradients of hidden, weight and bias, by name."""


def logits_of(inputs: Inputs) -> tuple[Tensor, Tensor | None]:
    """Those of the student (N, V) and of the teacher (M, V), divided by their temperatures."""
    student = linear(*inputs.leaves) / inputs.temperature
    teacher = inputs.teacher
    if teacher is None:
        return student, None
    logits = (
        linear(teacher.hidden, inputs.weight, inputs.bias) if teacher.head is None else teacher.head(teacher.hidden)
    )
    return student, logits.detach() / teacher.temperature


def direct_values(student: Tensor, scored: Tensor | None, ids: Tensor, teacher: Teacher | None) -> TokenValues:
    """From logits (N, V), and (M, V) where the teacher scored, both divided by their temperatures."""
    log_p = student.log_softmax(1)
    logprobs = log_p[torch.arange(len(ids)), ids]
    entropy = -(log_p.exp() * log_p).sum(1)
    divergence = torch.zeros_like(logprobs)
    teacher_logprobs, teacher_entropy = (torch.full_like(logprobs, math.nan).detach() for _ in range(2))
    if teacher is not None and scored is not None:
        log_q = scored.log_softmax(1)
        teacher_logprobs[teacher.tokens] = log_q[torch.arange(len(scored)), ids[teacher.tokens]]
        if teacher.with_entropy:
            teacher_entropy[teacher.tokens] = -(log_q.exp() * log_q).sum(1)
        found = direct_divergence(log_p[teacher.tokens], log_q, teacher.divergence)
        divergence = divergence.index_put((teacher.tokens,), found)
    return TokenValues(logprobs, entropy, divergence, teacher_logprobs, teacher_entropy)


def direct_divergence(log_p: Tensor, log_q: Tensor, kind: Divergence | None) -> Tensor:
    """(M, V) of student and teacher → (M,)."""
    p, q = log_p.exp(), log_q.exp()
    if kind is None:
        return 0 * log_p.sum(1)
    if isinstance(kind, StudentTeacherKL):
        return (p * (log_p - log_q)).sum(1)
    if isinstance(kind, TeacherStudentKL):
        return (q * (log_q - log_p)).sum(1)
    if isinstance(kind, SkewedKL):
        return (p * (log_p - (kind.skew * q + (1 - kind.skew) * p).log())).sum(1)
    assert isinstance(kind, GeneralisedJSD)
    beta = kind.jsd_beta
    log_m = torch.logaddexp(math.log(beta) + log_q, math.log(1 - beta) + log_p)
    return beta * (q * (log_q - log_m)).sum(1) + (1 - beta) * (p * (log_p - log_m)).sum(1)


def direct(inputs: Inputs, token_loss: TokenLoss) -> tuple[Tensor, TokenValues]:
    """Loss and values, in the type of the inputs throughout."""
    values = direct_values(*logits_of(inputs), inputs.ids, inputs.teacher)
    return token_loss(torch.arange(len(inputs.ids)), values).sum(), values


def fused(inputs: Inputs, token_loss: TokenLoss | None, memory_bytes: int = 1 << 20) -> tuple[Tensor, TokenValues]:
    """The same by the function under test."""
    return fused_head(
        *inputs.leaves, inputs.ids, token_loss,
        memory_bytes=memory_bytes, temperature=inputs.temperature, teacher=inputs.teacher,
    )  # fmt: skip


def results(inputs: Inputs, run: Callable[[Inputs], tuple[Tensor, TokenValues]]) -> Results:
    """Those of ``run``, with the gradients of its loss; a missing gradient is zero, as is a missing log q."""
    loss, values = run(inputs)
    if loss.requires_grad:
        loss.backward()
    found = {"loss": loss.detach()} | {name: value.detach() for name, value in vars(values).items()}
    for name in ("teacher_logprobs", "teacher_entropy"):
        found[name] = found[name].nan_to_num(0)
    for name, leaf in zip(("hidden", "weight", "bias"), inputs.leaves, strict=True):
        if leaf is not None:
            found[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return found


def sizes(inputs: Inputs, token_loss: TokenLoss, floor: float = 0.0) -> Results:
    """The gross magnitude of every result: what its terms add up to where none cancels another.

    A sum counts the absolute values of its terms, a difference those of both sides: log p = z - lse(z) counts
    |z| + |lse(z)|. A function f of x, of size s, counts |f| + |f'|·s: e^x counts e^x·(1 + s), and a token's loss, or
    its derivative, counts what the derivatives of that make of the sizes of the values. So an error of ε times these is
    that of a computation whose every step is right to about ε. Autograd over full logits, to which that is compared,
    is less exact where distributions are sharp or nearly equal: for the derivative of p log p it adds p to p log p, and
    takes it away again. ``floor`` is the share of these p that counts.
    """
    inputs = Inputs(*inputs.leaves, inputs.ids, inputs.temperature, inputs.teacher)
    with torch.no_grad():
        student, scored = logits_of(inputs)
        every, teacher = torch.arange(len(inputs.ids)), inputs.teacher
        log_p, of_log_p = student.log_softmax(1), _of_logs(student)
        p, of_p = log_p.exp(), log_p.exp() * (1 + of_log_p)
        entropy = -(p * log_p).sum(1, keepdim=True)
        of_values = [of_log_p[every, inputs.ids], (p * of_log_p).sum(1), *torch.zeros(3, len(every)).to(p)]
        sampled = torch.zeros_like(p).index_put((every, inputs.ids), torch.ones((), dtype=p.dtype))
        slopes = [sampled + of_p, of_p * (log_p.abs() + entropy + floor), torch.zeros_like(p)]
        if teacher is not None and scored is not None:
            tokens, of_log_q = teacher.tokens, _of_logs(scored)
            of_values[3][tokens] = of_log_q[torch.arange(len(scored)), inputs.ids[tokens]]
            if teacher.with_entropy:
                q = scored.log_softmax(1).exp()
                of_values[4][tokens] = (q * (1 + of_log_q) * (1 + scored.log_softmax(1).abs())).sum(1)
            found = _of_divergence(
                log_p[tokens],
                scored.log_softmax(1),
                of_log_p[tokens],
                of_log_q,
                teacher.divergence,
                floor,
            )
            of_values[2][tokens], slopes[2][tokens] = found
    of_loss, of_slopes = _of_losses(inputs, token_loss, of_values)
    with torch.no_grad():
        terms = zip(of_slopes, slopes, strict=True)
        of_logits = sum(size.unsqueeze(1) * slope for size, slope in terms) / inputs.temperature
        names = ("logprobs", "entropy", "divergence", "teacher_logprobs", "teacher_entropy")
        found = {"loss": of_loss} | dict(zip(names, of_values, strict=True))
        found |= {"hidden": of_logits @ inputs.weight.abs(), "weight": of_logits.t() @ inputs.hidden.abs()}
        return found | {"bias": of_logits.sum(0)}


def _of_logs(logits: Tensor) -> Tensor:
    return logits.abs() + logits.logsumexp(1, keepdim=True).abs()


def _of_divergence(
    log_p: Tensor, log_q: Tensor, of_log_p: Tensor, of_log_q: Tensor, kind: Divergence | None, floor: float
) -> tuple[Tensor, Tensor]:
    """Sizes of the divergence (M,) and of its gradient with respect to the logits (M, V)."""
    p, q, both = log_p.exp(), log_q.exp(), of_log_p + of_log_q
    of_p, of_q = p * (1 + of_log_p), q * (1 + of_log_q)
    if kind is None:
        return torch.zeros_like(p[:, 0]), torch.zeros_like(p)
    if isinstance(kind, TeacherStudentKL):
        return (q * both).sum(1), of_p + of_q
    if isinstance(kind, StudentTeacherKL):
        x = of_p * ((log_p - log_q).abs() + floor)
        return (p * both).sum(1), x + x.sum(1, keepdim=True) * p
    assert isinstance(kind, GeneralisedJSD)
    beta = kind.jsd_beta
    log_m = torch.logaddexp(math.log(beta) + log_q, math.log(1 - beta) + log_p)
    x = (1 - beta) * of_p * ((log_p - log_m).abs() + floor)
    return ((beta * q + (1 - beta) * p) * both).sum(1), x + x.sum(1, keepdim=True) * p


def _of_losses(inputs: Inputs, token_loss: TokenLoss, of_values: list[Any]) -> tuple[Tensor, list[Tensor]]:
    """Size of the loss, and of each token's derivatives with respect to logprobs, entropy and divergence."""
    values = direct_values(*(z if z is None else z.detach() for z in logits_of(inputs)), inputs.ids, inputs.teacher)
    leaves = [value.detach().requires_grad_() for value in vars(values).values()]

    def spread(function: Tensor) -> tuple[Tensor, list[Tensor]]:
        found = [None] * len(leaves)
        if function.requires_grad:
            found = torch.autograd.grad(function.sum(), leaves, create_graph=True, allow_unused=True)
        derivatives = [torch.zeros_like(leaf) if one is None else one for one, leaf in zip(found, leaves, strict=True)]
        moved = sum(one.abs() * size for one, size in zip(derivatives, of_values, strict=True))
        return (function.abs() + moved).detach(), derivatives

    of_losses, derivatives = spread(token_loss(torch.arange(len(inputs.ids)), TokenValues(*leaves)))
    return of_losses.sum(), [spread(one)[0] for one in derivatives[:3]]


def divergence_named(kind: str | None, jsd_beta: float = 0.3) -> Divergence | None:
    """The divergence of a name in params.yaml; None stays None."""
    if kind is None:
        return None
    return DIVERGENCES[kind](*([jsd_beta] if fields(DIVERGENCES[kind]) else []))


def example(
    count: int = 6, words: int = 7, kind: Any = "kl_student_teacher", dtype: torch.dtype = torch.float64
) -> Inputs:
    """Half of the tokens scored, in another order than theirs, by a teacher with a head of its own."""
    generator = torch.Generator().manual_seed(words)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    head = torch.nn.Linear(3, words).double()
    head.weight.data, head.bias.data = normal(words, 3), normal(words)
    tokens = torch.randperm(count, generator=generator)[: count // 2]
    teacher = Teacher(tokens, normal(len(tokens), 3), head, 1.3, divergence_named(kind))
    ids = torch.randint(0, words, (count,), generator=generator)
    return Inputs(normal(count, 4), normal(words, 4), normal(words), ids, 0.7, teacher).to(dtype)


def mixed(order: Tensor, values: TokenValues) -> Tensor:
    """A loss of all values, nonlinear in each, of different weight for every token."""
    terms = values.logprobs.exp() + values.entropy.square() / 5 + values.divergence.sin() - 0.3 * values.logprobs
    return (1 + order) * terms
