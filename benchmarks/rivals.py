"""Several ways to compute one head: loss and gradients of SDPG-UFKL from the hidden states of student and teacher.

Axes: N tokens, of which the first M have an open gate, D hidden size, V vocabulary. The loss is
Σ_t (-A_t log p(y_t) + α·UFKL_t + β·m_t·D_KL(p_t‖q_t)) / N, and the entropy of p_t is needed as a metric, without
gradient. Every way reads the teacher at open gates only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
import importlib.util
from typing import Any

import torch
from torch import Tensor

from benchmarks.figures import SkippedError
from sdpg.models.fused_head import Teacher, TokenValues, fused_head
from sdpg.models.triton_rows.launch import without_triton
from sdpg.objective import losses
from sdpg.objective.divergences import Divergence, StudentTeacherKL

ALPHA, BETA = 1e-3, 1.0


@dataclass(frozen=True)
class Work:
    """The inputs of the head.

    Attributes:
        hidden: (N, D) the student's hidden states.
        weight: (V, D) the head's weight.
        ids: (N,) the sampled tokens.
        teacher_hidden: (M, D) the teacher's hidden states, for the first M tokens.
        advantages: (N,) each token's advantage.
        ref_logprobs: (N,) log π_ref.
        divergence: the one in the loss; rivals know the default alone.
    """

    hidden: Tensor
    weight: Tensor
    ids: Tensor
    teacher_hidden: Tensor
    advantages: Tensor
    ref_logprobs: Tensor
    divergence: Divergence = field(default_factory=StudentTeacherKL)

    def leaves(self) -> tuple[Tensor, Tensor]:
        """Returns hidden states and weight as leaves that get a gradient; nothing is copied."""
        return self.hidden.detach().requires_grad_(), self.weight.detach().requires_grad_()

    def loss(self, logprobs: Tensor, divergence: Tensor) -> Tensor:
        """Returns L from log p(y_t) of all tokens, (N,), and the divergence of the first M, (M,)."""
        per_token = losses.reinforce(logprobs, self.advantages)
        per_token = per_token + ALPHA * losses.reference_term(logprobs, self.ref_logprobs, "ufkl")
        return (per_token.sum() + BETA * divergence.sum()) / len(self.ids)


@dataclass(frozen=True)
class Result:
    """The values that every way must return."""

    loss: Tensor
    hidden_gradient: Tensor
    weight_gradient: Tensor
    entropy: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns all values."""
        return self.loss, self.hidden_gradient, self.weight_gradient, self.entropy


Way = Callable[[Work], Result]


def make_work(
    tokens: int,
    width: int,
    vocabulary: int,
    *,
    open_gates: float = 0.5,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Work:
    """Returns random inputs: logits with a spread of a few nats, and a teacher near the student but not equal to it."""
    generator = torch.Generator(device).manual_seed(seed)
    options: dict[str, Any] = {"generator": generator, "device": device}
    hidden = torch.randn(tokens, width, **options).to(dtype)
    scored = round(tokens * open_gates)
    return Work(
        hidden=hidden,
        weight=torch.randn(vocabulary, width, **options).mul_(1.5 * width**-0.5).to(dtype),
        ids=torch.randint(vocabulary, (tokens,), **options),
        teacher_hidden=hidden[:scored] + torch.randn(scored, width, **options).mul_(0.3).to(dtype),
        advantages=torch.randn(tokens, **options),
        ref_logprobs=torch.rand(tokens, **options) * -10,
    )


def ours(work: Work, memory_bytes: int) -> Result:
    """Calls :func:`sdpg.models.fused_head.fused_head`."""
    hidden, weight = work.leaves()
    scored, count = len(work.teacher_hidden), len(work.ids)

    def token_loss(tokens: Tensor, values: TokenValues) -> Tensor:
        outcome = losses.reinforce(values.logprobs, work.advantages[tokens])
        reference = losses.reference_term(values.logprobs, work.ref_logprobs[tokens], "ufkl")
        return (outcome + ALPHA * reference + BETA * values.divergence) / count

    tokens = torch.arange(scored, device=hidden.device)
    teacher = Teacher(tokens, work.teacher_hidden, divergence=work.divergence)
    loss, values = fused_head(
        hidden, weight, None, work.ids, token_loss, memory_bytes=memory_bytes, teacher=teacher
    )  # fmt: skip
    loss.backward()
    return _result(loss, hidden, weight, values.entropy)


def ours_in_pytorch(work: Work, memory_bytes: int) -> Result:
    """The same without Triton's kernels."""
    with without_triton():
        return ours(work, memory_bytes)


def plain(work: Work) -> Result:
    """Uses autograd over the logits of student and teacher, kept whole."""
    hidden, weight = work.leaves()
    scored = len(work.teacher_hidden)
    with torch.no_grad():
        log_q = _wide(work.teacher_hidden @ weight.t()).log_softmax(-1)
    log_p = _wide(hidden @ weight.t()).log_softmax(-1)
    logprobs = _token_logprobs(log_p, work.ids)
    divergence = work.divergence.value(log_p[:scored], log_q)
    with torch.no_grad():
        entropy = _entropy(log_p)
    loss = work.loss(logprobs, divergence)
    loss.backward()
    return _result(loss, hidden, weight, entropy)


def _token_logprobs(log_probs: Tensor, ids: Tensor) -> Tensor:
    return log_probs.gather(1, ids.unsqueeze(1)).squeeze(1)


def _entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs).sum(-1)


def split(work: Work) -> Result:
    """Works like :func:`plain`, tuned by hand: tokens with and without an open gate are two products.

    So no part of a (N, V) tensor is copied or padded in the backward pass of the divergence.
    """
    hidden, weight = work.leaves()
    scored = len(work.teacher_hidden)
    with torch.no_grad():
        log_q = (work.teacher_hidden @ weight.t()).float().log_softmax(-1)
    logprobs, entropies, divergence = [], [], log_q.new_zeros(0)
    for part in (slice(0, scored), slice(scored, None)):
        log_p = (hidden[part] @ weight.t()).float().log_softmax(-1)
        logprobs.append(_token_logprobs(log_p, work.ids[part]))
        with torch.no_grad():
            entropies.append(_entropy(log_p))
        if part.start == 0:
            divergence = StudentTeacherKL().value(log_p, log_q)
    loss = work.loss(torch.cat(logprobs), divergence)
    loss.backward()
    return _result(loss, hidden, weight, torch.cat(entropies))


def trl(work: Work) -> Result:
    """Uses TRL's chunked log-probs and, at open gates, its chunked divergence; chunks have TRL's own size."""
    require("trl")
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    hidden, weight = work.leaves()
    scored = len(work.teacher_hidden)
    logprobs, entropy = _trl_logprobs(hidden, weight, work.ids)
    # β = 1 is D_KL(student‖teacher).
    divergence, _ = ChunkedDivergenceFunction.apply(
        hidden[:scored], weight, None, work.teacher_hidden, weight.detach(), None, 1.0
    )  # pyright: ignore[reportGeneralTypeIssues]
    loss = work.loss(logprobs, divergence)
    loss.backward()
    return _result(loss, hidden, weight, entropy)


def liger(work: Work) -> Result:
    """Uses Liger's fused linear JSD at open gates, after TRL's log-probs; needs a GPU."""
    require("trl")
    require("liger_kernel")
    from liger_kernel.transformers import LigerFusedLinearJSD  # pyright: ignore[reportMissingImports]

    hidden, weight = work.leaves()
    scored = len(work.teacher_hidden)
    logprobs, entropy = _trl_logprobs(hidden, weight, work.ids)
    # β = 1 is D_KL(student‖teacher), a mean over tokens.
    mean = LigerFusedLinearJSD(jsd_beta=1.0)(hidden[:scored], weight, work.teacher_hidden, weight.detach(), None)
    loss = work.loss(logprobs, mean * scored)
    loss.backward()
    return _result(loss, hidden, weight, entropy)


def require(package: str) -> None:
    """Raises SkippedError if a rival is not installed."""
    if importlib.util.find_spec(package) is None:
        raise SkippedError(f"{package.replace('_kernel', '-kernel')} is not installed")


def differences(found: Result, expected: Result) -> dict[str, float]:
    """Returns |found - expected| / |expected| of loss, both gradients and entropy, by name."""
    pairs = zip(vars(found).items(), expected.tensors(), strict=True)
    return {name: ((a.double() - b.double()).norm() / b.double().norm()).item() for (name, a), b in pairs}


def _wide(logits: Tensor) -> Tensor:
    """Returns the logits in float32, or in float64 if they are float64."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _trl_logprobs(hidden: Tensor, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    logprobs, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden, weight, None, ids, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("entropy",)
    )  # pyright: ignore[reportGeneralTypeIssues]
    return logprobs, entropy


def _result(loss: Tensor, hidden: Tensor, weight: Tensor, entropy: Tensor) -> Result:
    assert hidden.grad is not None and weight.grad is not None
    return Result(loss.detach(), hidden.grad, weight.grad, entropy.detach())
