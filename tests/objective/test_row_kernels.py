"""Tests the row kernels of the exact head by hand and against autograd."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sdpg.models.row_kernels import RowValues, gradient_rows, log_softmax_rows, student_rows, teacher_rows
from tests.helpers.direct_head import KERNELS, divergence_named

P, Q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
LN2 = math.log(2)


def logs(*rows: list[float]) -> Tensor:
    """Logits of these probabilities, moved by a constant per row, which must not matter."""
    return torch.tensor(rows, dtype=torch.float64).log() + 3 * torch.arange(1, len(rows) + 1).unsqueeze(1)


def read(logits: Tensor, ids: Tensor, teacher: Tensor | None, kind: Any, beta: float = 0.5) -> tuple[Any, ...]:
    """(p, x, values) of rows of which the first are the teacher's."""
    p, scratch = torch.full_like(logits, math.nan), torch.full_like(logits, math.nan)
    values, log_p = RowValues.empty(len(logits), logits), logits.clone()
    student_rows(log_p, ids, p, scratch, 1.0, values)
    x = logits[:0] if teacher is None else teacher.clone()
    rows = slice(0, len(x))
    kind = divergence_named(kind, beta)
    teacher_rows(log_p[rows], p[rows], x, ids[rows], scratch[rows], 1.0, kind, True, values[rows])
    return p, x, values


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_log_softmax_by_hand(temperature: float) -> None:
    logits, exponentials = temperature * logs(P, Q), torch.full((2, 3), math.nan, dtype=torch.float64)
    sums = log_softmax_rows(logits, exponentials, temperature)
    torch.testing.assert_close(logits, torch.tensor([P, Q], dtype=torch.float64).log())
    torch.testing.assert_close(exponentials / sums, torch.tensor([P, Q], dtype=torch.float64))
    assert sums.flatten().tolist() == pytest.approx([2, 2])


def test_student_rows_by_hand() -> None:
    p, _, values = read(logs(P, Q), torch.tensor([[1], [2]]), None, None)
    torch.testing.assert_close(p, torch.tensor([P, Q], dtype=torch.float64))
    assert values.logprobs.tolist() == pytest.approx([-2 * LN2, -LN2])
    assert values.entropy.tolist() == pytest.approx([1.5 * LN2] * 2)
    assert values.divergence.tolist() == [0.0, 0.0]
    assert values.teacher_logprobs.isnan().all()


# p = (1/2, 1/4, 1/4) and q = (1/4, 1/4, 1/2), so m = (3/8, 1/4, 3/8) at β = 1/2: x, divergence, its slopes
TABLE: dict[Any, tuple[list[float], float, list[float]]] = {
    "kl_student_teacher": (
        [LN2 / 2, 0, -LN2 / 4],
        LN2 / 4,
        [LN2 / 2 - LN2 / 8, -LN2 / 16, -LN2 / 4 - LN2 / 16],
    ),
    "kl_teacher_student": (Q, LN2 / 4, [1 / 4, 0, -1 / 4]),
    "jsd": (
        [math.log(4 / 3) / 2, 0, math.log(2 / 3) / 4],
        math.log(4 / 3) / 2 + math.log(2 / 3) / 4,
        [
            math.log(4 / 3) / 8 - math.log(2 / 3) / 16,
            -math.log(4 / 3) / 16 - math.log(2 / 3) / 32,
            -math.log(4 / 3) / 16 + 3 * math.log(2 / 3) / 32,
        ],
    ),
}


@pytest.mark.parametrize("kind", KERNELS)
def test_teacher_rows_by_hand(kind: Any) -> None:
    expected_x, divergence, slopes = TABLE[kind]
    p, x, values = read(logs(P, P), torch.tensor([[2], [0]]), logs(Q), kind)
    assert x.tolist() == [pytest.approx(expected_x)]
    assert values.divergence.tolist() == pytest.approx([divergence, 0])
    assert values.teacher_logprobs[0].item() == pytest.approx(-LN2)
    assert values.teacher_entropy[0].item() == pytest.approx(1.5 * LN2)
    assert values.teacher_entropy[1].isnan()
    found = values.of_p[0] * p[0] + values.of_x[0] * x[0]
    assert found.tolist() == pytest.approx(slopes)
    assert values.of_p[1] == values.of_x[1] == 0


@pytest.mark.parametrize("kind", KERNELS)
def test_gradient_rows_equals_autograd(kind: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    logits, teacher = (torch.randn(n, 9, generator=generator, dtype=torch.float64) for n in (5, 3))
    ids, beta = torch.randint(0, 9, (5, 1), generator=generator), 0.2
    given = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    for used in range(8):
        gradients = [given[i] if used >> i & 1 else None for i in range(3)]
        p, x, values = read(logits, ids, teacher, kind, beta)
        gradient_rows(p, x, ids, torch.full_like(p, math.nan), values, *gradients)

        leaf = logits.clone().requires_grad_()
        log_p, log_q = leaf.log_softmax(1), teacher.log_softmax(1)
        log_m = (beta * log_q.exp() + (1 - beta) * log_p[:3].exp()).log()
        kl = torch.nn.functional.kl_div  # its first argument is the second of KL
        divergences = {
            "kl_student_teacher": kl(log_q, log_p[:3], reduction="none", log_target=True),
            "kl_teacher_student": kl(log_p[:3], log_q, reduction="none", log_target=True),
            "jsd": beta * kl(log_m, log_q, reduction="none", log_target=True)
            + (1 - beta) * kl(log_m, log_p[:3], reduction="none", log_target=True),
        }
        outcomes = [log_p.gather(1, ids).squeeze(1), torch.distributions.Categorical(logits=leaf).entropy()]
        outcomes.append(torch.cat([divergences[kind].sum(1), torch.zeros(2, dtype=torch.float64)]))
        torch.testing.assert_close(
            torch.stack([values.logprobs, values.entropy, values.divergence]), torch.stack(outcomes)
        )
        total = sum((g * o).sum() for g, o in zip(gradients, outcomes, strict=True) if g is not None)
        expected = torch.autograd.grad(total, leaf)[0] if isinstance(total, Tensor) else torch.zeros_like(logits)
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("apart", [0.0, 1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("spread", [0.0, 0.5, 8.0])
def test_divergences_of_many_words_are_not_negative_beyond_rounding(spread: float, apart: float, kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, moved = (torch.randn(10, 20_000, generator=generator) for _ in range(2))
    logits = 5 + spread * logits
    _, _, values = read(logits, torch.zeros(10, 1, dtype=torch.long), logits + apart * moved, kind)
    assert values.divergence.min() >= -1e-6
    assert values.divergence.max() <= 1e-6 + apart**2


def test_entropy_and_its_gradient_where_probabilities_underflow() -> None:
    p, x, values = read(
        torch.tensor([[0.0, -200.0, -1e4]]), torch.tensor([[2]]), torch.tensor([[-1e4, 0.0, 1e4]]), "jsd"
    )
    assert values.entropy.tolist() == [0.0]
    assert values.divergence.item() == pytest.approx(LN2)
    gradient_rows(p, x, torch.tensor([[2]]), torch.empty(1, 3), values, *torch.ones(3, 1))
    assert p.isfinite().all()
    assert p[0, 2].item() == pytest.approx(1.0)


def test_rows_of_values_are_views() -> None:
    values = RowValues.empty(4, torch.empty(1))
    values[1:3].entropy.fill_(2.0)
    assert values.entropy.tolist() == [0.0, 2.0, 2.0, 0.0]
    assert [part.isnan().all().item() for part in vars(values).values()] == [
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
