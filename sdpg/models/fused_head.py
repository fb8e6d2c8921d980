"""Exact losses straight from hidden states, without a (tokens × vocabulary) tensor.

The logits of a few tokens at a time are turned into the values that losses read (log-prob of the sampled token,
entropy, divergence to the teacher, the teacher's log-prob), those into the loss, and the loss into the gradients with
respect to hidden states and head weight, all in the forward pass: nothing of the vocabulary's size is kept per token,
and every term comes from the same student logits. In units of 2·N·D·V operations this takes three matrix products
(logits, hidden gradient, weight gradient) and one more for the share of tokens that the teacher scored; an exact method
cannot do with fewer.

Axes: N tokens, M ≤ N of them scored by the teacher, C tokens of a chunk, D hidden size, V vocabulary. Values and sums
are float32 whatever the inputs are; float64 inputs stay float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdpg.models.row_kernels import RowValues, gradient_rows, student_rows, teacher_rows
from sdpg.models.triton_rows import launch
from sdpg.objective.divergences import Divergence, StudentTeacherKL

BLOCK_BYTES = 512 * 1024
"""On CPUs the row-wise work goes block by block, so that it finds its numbers in the second-level cache."""
GPU_BLOCK_BYTES = 64 << 20
"""On GPUs without Triton too, so that its scratch rows stay small beside the logits of a chunk."""
DIFFERENTIATED = ("logprobs", "entropy", "divergence")
"""The values that carry a gradient, in the order of :func:`sdpg.models.row_kernels.gradient_rows`."""


@dataclass(frozen=True)
class Teacher:
    """The privileged teacher's side of the tokens that it scored.

    Attributes:
        tokens: (M,) which of the N tokens, each at most once.
        hidden: (M, D) its hidden states there.
        head: None where it shares the student's head; else its output embedding, a linear module.
        temperature: its logits are divided by this.
        divergence: to compute from the student's and its distribution; None where only its log-probs are read.
        with_entropy: whether the entropy of its distribution is computed too.
    """

    tokens: Tensor
    hidden: Tensor
    head: Any = None
    temperature: float = 1.0
    divergence: Divergence | None = field(default_factory=StudentTeacherKL)
    with_entropy: bool = False


@dataclass(frozen=True)
class TokenValues:
    """What the vocabulary pass yields per token, (C,) or (N,) each; losses are functions of these.

    Attributes:
        logprobs: log π(y_t).
        entropy: -Σ p log p, exact.
        divergence: to the teacher, exact; 0 where the teacher scored nothing.
        teacher_logprobs: log q(y_t), without gradient; NaN where the teacher scored nothing.
        teacher_entropy: -Σ q log q, without gradient; NaN where the teacher scored nothing or was not asked for it.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor
    teacher_logprobs: Tensor
    teacher_entropy: Tensor

    @staticmethod
    def of(rows: RowValues) -> "TokenValues":
        """Returns those of some rows, without what only gradients need."""
        return TokenValues(**{name: getattr(rows, name) for name in TokenValues.__dataclass_fields__})


TokenLoss = Callable[[Tensor, TokenValues], Tensor]
"""(indices (C,) of a chunk's tokens, their values) → (C,) losses, weighted; called once per chunk, or once for all
tokens where losses read whole responses."""


def chunk_tokens(vocabulary: int, itemsize: int, memory_bytes: int) -> int:
    """Returns how many tokens fit the budget with their logits, student's and teacher's side by side; at least 1."""
    return max(1, memory_bytes // (2 * vocabulary * itemsize))


def fused_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    token_loss: TokenLoss | None,
    *,
    memory_bytes: int,
    temperature: float = 1.0,
    teacher: Teacher | None = None,
    whole_responses: bool = False,
) -> tuple[Tensor, TokenValues]:
    """Returns the sum of ``token_loss`` over all tokens, with exact gradients, and the values that it is computed from.

    Args:
        hidden: (N, D) student hidden states, float64, float32, bfloat16 or float16; N may be 0.
        weight: (V, D) the head's weight.
        bias: (V,) or None.
        ids: (N,) the sampled tokens.
        token_loss: per-token loss; its derivatives with respect to logprobs, entropy and divergence are taken by
            autograd on (C,) values, and carried to hidden, weight and bias here. None: values only.
        memory_bytes: for the float32 logits of a chunk, student's and teacher's; it decides memory and time, not the
            result. Beside it a chunk takes some scratch rows, unless :mod:`sdpg.models.triton_rows` does the work,
            and, where products are in a half type, their factor.
        temperature: the student's logits are divided by this.
        teacher: what the teacher scored, or None.
        whole_responses: ``token_loss`` reads more than each token's own values, and is called once with all N tokens.
            Where they take more than one chunk, their logits are formed twice, which takes 1 + M/N more products.

    Returns:
        The loss, a scalar whose backward pass only hands on what was formed here (once), and (N,) values without
        gradient.
    """
    device = hidden.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    job = _Job(ids, token_loss, memory_bytes, temperature, teacher, whole_responses, product, torch.is_grad_enabled())
    with torch.autocast(device, enabled=False):
        loss, *values = _FusedHead.apply(hidden, weight, bias, job)  # pyright: ignore[reportGeneralTypeIssues]
    return loss, TokenValues(*values)


@dataclass(frozen=True)
class _Job:
    """What :class:`_FusedHead` is given beside the tensors that get a gradient.

    ``product`` is the type of matrix products, ``differentiate`` whether the caller records gradients.
    """

    ids: Tensor
    token_loss: TokenLoss | None
    memory_bytes: int
    temperature: float
    teacher: Teacher | None
    whole_responses: bool
    product: torch.dtype
    differentiate: bool


class _FusedHead(torch.autograd.Function):
    """Forward: loss, values and all gradients. Backward: the gradients times that of the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Any:
        # Under no_grad, too, the inputs say that they need a gradient.
        needed = tuple(flag and job.differentiate for flag in ctx.needs_input_grad[:3])
        work = _Pass(hidden, weight, bias, job, needed)
        work.run()
        ctx.save_for_backward(*work.gradients())
        values = vars(work.token_values()).values()
        ctx.mark_non_differentiable(*values)
        return (work.loss, *values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_gradient: Tensor, *_: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # In place: another copy of the weight's gradient would double the largest tensor there is.
        return (*(None if g is None else g.mul_(loss_gradient) for g in ctx.saved_tensors), None)


class _Pass:
    """One pass over the tokens. Those that the teacher scored come first, so that they are slices everywhere."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job, needed: tuple[bool, ...]
    ) -> None:
        self.job, self.inputs = job, (hidden, weight, bias)
        count, vocabulary = len(hidden), len(weight)
        options: dict[str, Any] = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": hidden.device}
        itemsize = options["dtype"].itemsize
        on_cpu = hidden.device.type == "cpu"
        # Logits rounded to bf16 would be no exact loss, and CPU libraries do not multiply bf16 into float32.
        product = torch.promote_types(job.product, torch.float32) if on_cpu else job.product
        self.hidden, self.weight, self.bias = hidden, weight.to(product), bias
        self.teacher_head = (self.weight, bias)
        if job.teacher is not None and job.teacher.head is not None:
            self.teacher_head = (job.teacher.head.weight.to(product), job.teacher.head.bias)
        self.order, self.scored = torch.arange(count, device=hidden.device), 0
        if job.teacher is not None:
            rest = torch.ones(count, dtype=torch.bool, device=hidden.device)
            rest[job.teacher.tokens] = False
            self.scored = len(job.teacher.tokens)
            # Sorted instead of selected by the mask, whose length a GPU would have to tell.
            unscored = rest.to(torch.uint8).argsort(stable=True)[self.scored :]
            self.order = torch.cat([job.teacher.tokens, unscored])

        self.chunk = max(1, min(count, chunk_tokens(vocabulary, itemsize, job.memory_bytes)))
        block_bytes = BLOCK_BYTES if on_cpu else GPU_BLOCK_BYTES
        self.block = max(1, min(self.chunk, block_bytes // (vocabulary * itemsize)))
        self.logits = torch.empty(self.chunk, vocabulary, **options)
        self.teacher_logits = torch.empty(min(self.chunk, self.scored), vocabulary, **options)
        teacher = job.teacher
        self.asked = teacher and launch.Scored(teacher.temperature, teacher.divergence, teacher.with_entropy)
        divergence = None if teacher is None else teacher.divergence
        self.triton = launch.usable(hidden.device, options["dtype"], divergence)
        self.scratch = torch.empty(2, 0 if self.triton else self.block, vocabulary, **options)

        self.loss = torch.zeros((), **options)
        self.values = RowValues.empty(count, self.loss)
        wanted = [flag and job.token_loss is not None for flag in needed]
        # A token's row is written once, the weight's gradient is a sum over tokens.
        self.hidden_gradient = torch.zeros_like(hidden) if wanted[0] else None
        self.weight_gradient = torch.zeros(weight.shape, **options) if wanted[1] else None
        self.bias_gradient = torch.zeros(vocabulary, **options) if wanted[2] else None

    def gradients(self) -> list[Tensor | None]:
        """Returns the gradients of hidden states, weight and bias, each in the type of its input."""
        pairs = zip((self.hidden_gradient, self.weight_gradient, self.bias_gradient), self.inputs, strict=True)
        return [None if sums is None or given is None else sums.to(given.dtype) for sums, given in pairs]

    def token_values(self) -> TokenValues:
        """Returns the values of all tokens, in the order in which they were given."""
        # They were written in the order of the work, the scored ones first.
        values = vars(TokenValues.of(self.values)).items()
        return TokenValues(**{name: torch.empty_like(part).index_copy_(0, self.order, part) for name, part in values})

    def run(self) -> None:
        """Reads all tokens, chunk by chunk, and forms loss and gradients."""
        starts = range(0, len(self.order), self.chunk)
        chunks = [slice(start, min(start + self.chunk, len(self.order))) for start in starts]
        if self.job.token_loss is None:
            for chunk in chunks:
                self._read(chunk)
        elif self.job.whole_responses and len(chunks) > 1:
            for chunk in chunks:
                self._read(chunk)
            gradients = self._differentiate(slice(0, len(self.order)))
            for chunk in chunks:
                self._form(chunk, self._read(chunk), [part if part is None else part[chunk] for part in gradients])
        else:
            for chunk in chunks:
                logits = self._read(chunk)
                self._form(chunk, logits, self._differentiate(chunk))
        # Before gradients are converted, which takes memory too.
        del self.logits, self.teacher_logits, self.teacher_head, self.scratch

    def _read(self, chunk: slice) -> "_Logits":
        """Fills the values of one chunk; leaves p in the student's logits and x in the teacher's, or raw logits."""
        order, count = self.order[chunk], chunk.stop - chunk.start
        logits = _Logits(
            self.hidden[order].to(self.weight.dtype), self.job.ids[order].unsqueeze(1),
            self.logits[:count], self.teacher_logits[: max(0, min(self.scored - chunk.start, count))],
        )  # fmt: skip
        _product(logits.hidden, self.weight, self.bias, logits.student)
        if len(logits.teacher):
            self._teacher_logits(chunk.start, logits.teacher)
        teacher, values = self.job.teacher, self.values[chunk]
        if self.triton:
            ids = logits.ids.squeeze(1)
            stats = launch.read(logits.student, logits.teacher, ids, self.job.temperature, self.asked, values)
            return replace(logits, stats=stats)
        for rows, taught, (p, scratch) in self._blocks(count, len(logits.teacher)):
            student_rows(logits.student[rows], logits.ids[rows], p, scratch, self.job.temperature, values[rows])
            if teacher is not None and taught.stop > taught.start:
                scored = taught.stop - taught.start
                teacher_rows(
                    logits.student[taught], p[:scored], logits.teacher[taught], logits.ids[taught], scratch[:scored],
                    teacher.temperature, teacher.divergence, teacher.with_entropy, values[taught],
                )  # fmt: skip
            logits.student[rows].copy_(p)
        return logits

    def _differentiate(self, chunk: slice) -> list[Tensor | None]:
        """Adds the loss of some tokens; returns its derivatives by logprobs, entropy, divergence (None: no part)."""
        values, token_loss = TokenValues.of(self.values[chunk]), self.job.token_loss
        assert token_loss is not None
        leaves = {name: getattr(values, name).detach().requires_grad_() for name in DIFFERENTIATED}
        with torch.enable_grad():
            loss = token_loss(self.order[chunk], replace(values, **leaves)).sum()
        self.loss += loss.detach()
        if not loss.requires_grad:
            return [None] * len(DIFFERENTIATED)
        return list(torch.autograd.grad(loss, list(leaves.values()), allow_unused=True))

    def _form(self, chunk: slice, logits: "_Logits", gradients: list[Tensor | None]) -> None:
        """Turns what was read into the gradient with respect to the logits; carries it to hidden, weight and bias."""
        if all(gradient is None for gradient in gradients):
            return
        # With respect to the logits before their division by the temperature.
        scaled = [None if gradient is None else gradient / self.job.temperature for gradient in gradients]
        factor = self._factor(logits, self.values[chunk], scaled)
        if self.bias_gradient is not None:
            self.bias_gradient += factor.sum(0)
        factor = factor.to(self.weight.dtype)
        if self.hidden_gradient is not None:
            self.hidden_gradient[self.order[chunk]] = (factor @ self.weight).to(self.hidden_gradient.dtype)
        if self.weight_gradient is not None:
            _accumulate(self.weight_gradient, factor.t(), logits.hidden)

    def _factor(self, logits: "_Logits", values: RowValues, gradients: list[Tensor | None]) -> Tensor:
        """Returns the gradient with respect to a chunk's logits (C, V), by ``gradients``, (C,) each or None."""
        p, x = logits.student, logits.teacher
        if logits.stats is not None:
            # In the type of the products, but for a bias, whose gradient is the sum of exact rows.
            exact = self.bias_gradient is not None or p.dtype == self.weight.dtype
            factor = p if exact else torch.empty_like(p, dtype=self.weight.dtype)
            ids = logits.ids.squeeze(1)
            launch.differentiate(p, x, ids, self.job.temperature, self.asked, values, logits.stats, gradients, factor)
            return factor
        for rows, taught, (scratch, _) in self._blocks(len(p), len(x)):
            parts = [None if gradient is None else gradient[rows] for gradient in gradients]
            gradient_rows(p[rows], x[taught], logits.ids[rows], scratch, values[rows], *parts)
        return p

    def _teacher_logits(self, start: int, out: Tensor) -> None:
        teacher = self.job.teacher
        assert teacher is not None
        weight, bias = self.teacher_head
        _product(teacher.hidden[start : start + len(out)].to(weight.dtype), weight, bias, out)

    def _blocks(self, count: int, scored: int) -> Any:
        """Yields slices of rows, each with the slice of those that the teacher scored, and scratch rows."""
        for start in range(0, count, self.block):
            rows = slice(start, min(start + self.block, count))
            taught = slice(start, max(start, min(rows.stop, scored)))
            yield rows, taught, self.scratch[:, : rows.stop - start]


@dataclass(frozen=True)
class _Logits:
    """The place of work of a chunk: C tokens, S of them scored.

    Hidden states are (C, D), ids (C, 1), the student's logits (C, V), the teacher's (S, V). ``stats`` is what
    :func:`sdpg.models.triton_rows.launch.read` returned; None where the plain form read.
    """

    hidden: Tensor
    ids: Tensor
    student: Tensor
    teacher: Tensor
    stats: Tensor | None = None


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Writes hidden · weightᵀ + bias to ``out``, in its type throughout."""
    if weight.dtype == out.dtype:
        torch.mm(hidden, weight.t(), out=out)
    else:
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    if bias is not None:
        out.add_(bias)


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left · right to ``total``, without rounding the product to the factors' type first."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
