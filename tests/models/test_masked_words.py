"""Tests the exact head where logits are -inf: such a word has probability 0, and adds 0 to every value and gradient."""

import math
from typing import Any

import pytest
import torch

from sdpg.models.fused_head import Teacher, fused_head
from sdpg.objective.divergences import DIVERGENCES
from tests.helpers.direct_head import divergence_named


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("own_head", [False, True])
def test_words_of_logit_minus_infinity_are_as_if_they_were_not_there(kind: Any, own_head: bool) -> None:
    generator = torch.Generator().manual_seed(5)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    kept, count = torch.tensor([0, 2, 3, 6, 7, 8, 10]), 12
    hidden, weight, bias, taught, head = (
        numbers(6, 5),
        numbers(count, 5),
        numbers(count),
        numbers(4, 5),
        numbers(count, 5),
    )
    ids, tokens = kept[torch.randint(0, len(kept), (6,), generator=generator)], torch.tensor([5, 0, 2, 3])
    factors = numbers(3, 6)
    masked = torch.full((count,), -math.inf, dtype=torch.float64).index_copy_(0, kept, bias[kept])
    divergence = divergence_named(kind, 0.3)

    def loss(logprobs: torch.Tensor, entropy: torch.Tensor, apart: torch.Tensor, at: Any) -> torch.Tensor:
        return factors[0, at] * logprobs + factors[1, at] * entropy + factors[2, at] * apart

    teacher_head = None
    if own_head:
        teacher_head = torch.nn.Linear(5, count, dtype=torch.float64).requires_grad_(False)
        teacher_head.weight.copy_(head)
        teacher_head.bias.copy_(masked)
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_(), masked.clone().requires_grad_()]
    teacher = Teacher(tokens, taught, teacher_head, 0.5, divergence, with_entropy=True)
    total, values = fused_head(
        leaves[0], leaves[1], leaves[2], ids, lambda at, v: loss(v.logprobs, v.entropy, v.divergence, at),
        memory_bytes=1 << 9, temperature=0.7, teacher=teacher,
    )  # fmt: skip
    total.backward()

    plain = [hidden.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    student = ((plain[0] @ plain[1].T + plain[2])[:, kept] / 0.7).log_softmax(1)
    asked = (taught @ (head if own_head else weight).T + bias)[:, kept] / 0.5
    q = asked.log_softmax(1)
    places = torch.searchsorted(kept, ids)
    entropy = -(student.exp() * student).sum(1)
    m = (0.3 * q.exp() + 0.7 * student[tokens].exp()).log()
    p = student[tokens]
    apart = {
        "kl_student_teacher": p.exp() * (p - q), "kl_teacher_student": q.exp() * (q - p),
        "jsd": 0.3 * q.exp() * (q - m) + 0.7 * p.exp() * (p - m),
        "skewed_kl": p.exp() * (p - m),
    }[kind].sum(1)  # fmt: skip
    divergences = torch.zeros(6, dtype=torch.float64).index_copy(0, tokens, apart)
    expected = loss(student.gather(1, places[:, None]).squeeze(1), entropy, divergences, slice(None)).sum()
    expected.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(values.entropy, entropy)
    torch.testing.assert_close(values.divergence, divergences)
    torch.testing.assert_close(values.teacher_entropy[tokens], -(q.exp() * q).sum(1))
    for found, wanted in zip(leaves, plain, strict=True):
        assert found.grad is not None and found.grad.isfinite().all()
        torch.testing.assert_close(found.grad, wanted.grad)
    # The formula alone, as a user's own divergence goes through it.
    log_p = torch.full((4, count), -math.inf, dtype=torch.float64).index_copy_(1, kept, p.detach()).requires_grad_()
    log_q = torch.full((4, count), -math.inf, dtype=torch.float64).index_copy_(1, kept, q)
    torch.testing.assert_close(divergence.value(log_p, log_q), apart.detach())
    (slope,) = torch.autograd.grad(divergence.value(log_p, log_q).sum(), log_p)
    assert slope.isfinite().all()
