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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sdpg.models.row_kernels import RowValues, divergence_rows, gradient_rows, student_rows
from sdpg.objective.losses import Divergence

BLOCK_BYTES = 512 * 1024
"""On CPUs the row-wise work goes block by block, so that it finds its numbers in the second-level cache."""
GPU_BLOCK_BYTES = 64 << 20
"""On GPUs too, so that its scratch rows stay small beside the logits of a chunk."""


@dataclass(frozen=True)
class Teacher:
    """The privileged teacher's side of the tokens that it scored.

    Attributes:
        tokens: (M,) which of the N tokens, each at most once.
        hidden: (M, D) its hidden states there.
        head: None where it shares the student's head; else its output embedding, called as a module.
        temperature: its logits are divided by this.
        divergence: to compute from the student's and its distribution; None where only its log-probs are read.
        jsd_beta: β of the generalised JSD.
    """

    tokens: Tensor
    hidden: Tensor
    head: Any = None
    temperature: float = 1.0
    divergence: Divergence | None = "kl_student_teacher"
    jsd_beta: float = 0.5


@dataclass(frozen=True)
class TokenValues:
    """What the vocabulary pass yields per token, (C,) or (N,) each; losses are functions of these.

    Attributes:
        logprobs: log π(y_t).
        entropy: -Σ p log p, exact.
        divergence: to the teacher, exact; 0 where the teacher scored nothing.
        teacher_logprobs: log q(y_t), without gradient; NaN where the teacher scored nothing.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor
    teacher_logprobs: Tensor


TokenLoss = Callable[[Tensor, TokenValues], Tensor]
"""(indices (C,) of a chunk's tokens, their values) → (C,) losses, weighted; called once per chunk."""


def chunk_tokens(vocabulary: int, itemsize: int, memory_bytes: int) -> int:
    """How many tokens' logits, student's and teacher's side by side, fit the budget; at least one token's."""
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
) -> tuple[Tensor, TokenValues]:
    """The sum of ``token_loss`` over all tokens, with exact gradients, and the values that it was computed from.

    Args:
        hidden: (N, D) student hidden states, float64, float32, bfloat16 or float16; N may be 0.
        weight: (V, D) the head's weight.
        bias: (V,) or None.
        ids: (N,) the sampled tokens.
        token_loss: per-token loss; its derivatives with respect to logprobs, entropy and divergence are taken by
            autograd on (C,) values, and carried to hidden, weight and bias here. None: values only.
        memory_bytes: for the float32 logits of a chunk, student's and teacher's; it decides memory and time, not the
            result. Beside it a chunk takes some scratch rows and, where products are in a half type, their factor.
        temperature: the student's logits are divided by this.
        teacher: what the teacher scored, or None.

    Returns:
        The loss, a scalar whose backward pass only hands on what was formed here (once), and (N,) values without
        gradient.
    """
    device = hidden.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    job = _Job(ids, token_loss, memory_bytes, temperature, teacher, product, torch.is_grad_enabled())
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
    product: torch.dtype
    differentiate: bool


class _FusedHead(torch.autograd.Function):
    """Forward: loss, values and all gradients. Backward: the gradients times that of the loss."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> Any:
        # Under no_grad, too, the inputs say that they need a gradient.
        needed = tuple(flag and job.differentiate for flag in ctx.needs_input_grad[:3])
        work = _Pass(hidden, weight, bias, job, needed)
        for start in range(0, len(hidden), work.chunk):
            work.tokens(start, min(start + work.chunk, len(hidden)))
        ctx.save_for_backward(*work.gradients())
        ctx.mark_non_differentiable(*work.values)
        return (work.loss, *work.values)

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
        self.order, self.scored = torch.arange(count, device=hidden.device), 0
        if job.teacher is not None:
            rest = torch.ones(count, dtype=torch.bool, device=hidden.device)
            rest[job.teacher.tokens] = False
            self.order, self.scored = torch.cat([job.teacher.tokens, self.order[rest]]), len(job.teacher.tokens)

        self.chunk = max(1, min(count, chunk_tokens(vocabulary, itemsize, job.memory_bytes)))
        block_bytes = BLOCK_BYTES if on_cpu else GPU_BLOCK_BYTES
        self.block = max(1, min(self.chunk, block_bytes // (vocabulary * itemsize)))
        self.logits = torch.empty(self.chunk, vocabulary, **options)
        self.teacher_logits = torch.empty(min(self.chunk, self.scored), vocabulary, **options)
        self.scratch = torch.empty(2, self.block, vocabulary, **options)

        self.loss = torch.zeros((), **options)
        self.values = [torch.zeros(count, **options) for _ in range(4)]
        wanted = [flag and job.token_loss is not None for flag in needed]
        # A token's row is written once, the weight's gradient is a sum over tokens.
        self.hidden_gradient = torch.zeros_like(hidden) if wanted[0] else None
        self.weight_gradient = torch.zeros(weight.shape, **options) if wanted[1] else None
        self.bias_gradient = torch.zeros(vocabulary, **options) if wanted[2] else None

    def gradients(self) -> list[Tensor | None]:
        """Those of hidden, weight and bias, in the types of these."""
        found = (self.hidden_gradient, self.weight_gradient, self.bias_gradient)
        pairs = zip(found, self.inputs, strict=True)
        return [None if found is None or given is None else found.to(given.dtype) for found, given in pairs]

    def tokens(self, start: int, stop: int) -> None:
        """Values, loss and gradients of one chunk."""
        order = self.order[start:stop]
        ids, hidden = self.job.ids[order].unsqueeze(1), self.hidden[order].to(self.weight.dtype)
        logits = self.logits[: stop - start]
        teacher_logits = self.teacher_logits[: max(0, self.scored - start)]
        _product(hidden, self.weight, self.bias, logits)
        if len(teacher_logits):
            self._teacher_logits(start, teacher_logits)
        values = RowValues.zeros(stop - start, logits)
        self._read(logits, teacher_logits, ids, values)
        per_token = TokenValues(values.logprobs, values.entropy, values.divergence, values.teacher_logprobs)
        for joined, part in zip(self.values, vars(per_token).values(), strict=True):
            joined[order] = part
        if self.job.token_loss is None:
            return
        loss, gradients = _differentiate(self.job.token_loss, order, per_token)
        self.loss += loss
        if all(gradient is None for gradient in gradients):
            return
        self._form(logits, teacher_logits, ids, values, gradients)
        self._carry(order, logits, hidden)

    def _teacher_logits(self, start: int, out: Tensor) -> None:
        teacher = self.job.teacher
        assert teacher is not None
        hidden = teacher.hidden[start : start + len(out)]
        if teacher.head is None:
            _product(hidden.to(self.weight.dtype), self.weight, self.bias, out)
        else:
            # As the student's product: in the type of the products on a GPU, in float32 or better on a CPU.
            half = self.weight.dtype.itemsize == 2
            own = next(teacher.head.parameters()).dtype
            with torch.autocast(hidden.device.type, dtype=self.weight.dtype if half else None, enabled=half):
                out.copy_(teacher.head(hidden if half else hidden.to(own)))

    def _blocks(self, count: int, scored: int) -> Any:
        """Slices of rows, with those of them that the teacher scored, and scratch rows."""
        for start in range(0, count, self.block):
            rows = slice(start, min(start + self.block, count))
            taught = slice(start, max(start, min(rows.stop, scored)))
            yield rows, taught, self.scratch[:, : rows.stop - start]

    def _read(self, logits: Tensor, teacher_logits: Tensor, ids: Tensor, values: RowValues) -> None:
        """Fills the values; leaves p in ``logits`` and x in ``teacher_logits``."""
        teacher = self.job.teacher
        for rows, taught, (p, scratch) in self._blocks(len(logits), len(teacher_logits)):
            student_rows(logits[rows], ids[rows], p, scratch, self.job.temperature, values[rows])
            if teacher is not None and taught.stop > taught.start:
                count = taught.stop - taught.start
                divergence_rows(
                    logits[taught], p[:count], teacher_logits[taught], ids[taught], scratch[:count],
                    teacher.temperature, teacher.divergence, teacher.jsd_beta, values[taught],
                )  # fmt: skip
            logits[rows].copy_(p)

    def _form(self, p: Tensor, x: Tensor, ids: Tensor, values: RowValues, gradients: tuple[Tensor | None, ...]) -> None:
        """Turns p into the gradient with respect to the logits before their division by the temperature."""
        scaled = [None if gradient is None else gradient / self.job.temperature for gradient in gradients]
        for rows, taught, (scratch, _) in self._blocks(len(p), len(x)):
            parts = [None if gradient is None else gradient[rows] for gradient in scaled]
            gradient_rows(p[rows], x[taught], ids[rows], scratch, values[rows], *parts)

    def _carry(self, order: Tensor, logit_gradient: Tensor, hidden: Tensor) -> None:
        """Through the head, to hidden states, weight and bias."""
        if self.bias_gradient is not None:
            self.bias_gradient += logit_gradient.sum(0)
        factor = logit_gradient.to(self.weight.dtype)
        if self.hidden_gradient is not None:
            self.hidden_gradient[order] = (factor @ self.weight).to(self.hidden_gradient.dtype)
        if self.weight_gradient is not None:
            _accumulate(self.weight_gradient, factor.t(), hidden)


def _differentiate(token_loss: TokenLoss, order: Tensor, values: TokenValues) -> tuple[Tensor, Any]:
    """The chunk's loss, and its (C,) derivatives with respect to logprobs, entropy and divergence (None: no part)."""
    leaves = [part.detach().requires_grad_() for part in (values.logprobs, values.entropy, values.divergence)]
    logprobs, entropy, divergence = leaves
    with torch.enable_grad():
        loss = token_loss(order, TokenValues(logprobs, entropy, divergence, values.teacher_logprobs)).sum()
    if not loss.requires_grad:
        return loss, (None, None, None)
    return loss.detach(), torch.autograd.grad(loss, leaves, allow_unused=True)


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """out = hidden · weightᵀ + bias, in the type of ``out`` throughout."""
    if weight.dtype == out.dtype:
        torch.mm(hidden, weight.t(), out=out)
    else:
        torch.mm(hidden, weight.t(), out_dtype=out.dtype, out=out)
    if bias is not None:
        out.add_(bias)


def _accumulate(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left · right, without rounding the product to the factors' type first."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
