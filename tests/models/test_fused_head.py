"""Tests the exact head: values and gradients against full logits, by hand and by gradcheck."""

from collections.abc import Callable
from dataclasses import dataclass, replace
import math
from typing import Any
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import Tensor

from sdpg.models.fused_head import Teacher, TokenLoss, TokenValues
from tests.helpers.direct_head import (
    KERNELS,
    Inputs,
    Results,
    direct,
    direct_values,
    divergence_named,
    example,
    fused,
    logits_of,
    mixed,
    results,
    sizes,
)

EVERYTHING = 1 << 40


# --- random cases


@dataclass(frozen=True)
class Case:
    """Inputs, a nonlinear loss of their values, and what must not matter: memory, and rows worked on at a time."""

    inputs: Inputs
    loss: TokenLoss
    memory_bytes: int
    block_bytes: int


def loss_of(kind: str, entropy: float, advantages: Tensor, old: Tensor, cap: Tensor) -> TokenLoss:
    """A policy term of that kind less an entropy bonus. The constants are rounded to float32, so exact in any type."""
    advantages, old, cap = (constant.float() for constant in (advantages, old, cap))

    def token_loss(order: Tensor, values: TokenValues) -> Tensor:
        log_ratio = values.logprobs - old[order]
        match kind:
            case "reinforce":
                loss = -advantages[order] * values.logprobs
            case "clipped":
                ratio = log_ratio.exp()
                loss = torch.maximum(-advantages[order] * ratio, -advantages[order] * ratio.clamp(0.8, 1.2))
            case "squared":
                loss = log_ratio.square() / 2 + values.divergence / 3
            case "weighted":
                gain = torch.where(values.teacher_logprobs.isnan(), 0, values.teacher_logprobs - old[order])
                weight = (0.3 * advantages[order].sign() * gain).exp().clamp(0.01, 100)
                loss = -advantages[order] * weight * values.logprobs
            case "capped":
                loss = torch.minimum(values.divergence, cap[order]) - 0.1 * advantages[order] * values.logprobs
            case "distilled":
                loss = values.divergence.square() + values.divergence
            case _:
                loss = 0 * advantages[order]
        return loss if entropy == 0 else loss - entropy * values.entropy

    return token_loss


LOSSES = ("reinforce", "clipped", "squared", "weighted", "capped", "distilled", "none")


@st.composite
def cases(
    draw: Callable[..., Any],
    vocabulary: tuple[int, int] = (2, 80),
    tokens: int = 40,
    dtype: torch.dtype = torch.float32,
    own_head: bool = True,
) -> Case:
    """Numbers that ``dtype`` holds exactly, as float64."""
    count, size, words = draw(st.integers(0, tokens)), draw(st.integers(1, 24)), draw(st.integers(*vocabulary))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1 << 40)))

    def normal(*shape: int, spread: float = 1.0) -> Tensor:
        return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype).double()

    spread = draw(st.sampled_from([0.3, 1.0, 2.0, 4.0]))
    hidden, weight = normal(count, size), normal(words, size, spread=spread / math.sqrt(size))
    bias = normal(words, spread=0.5) if draw(st.booleans()) else None
    ids = torch.randint(0, words, (count,), generator=generator)
    teacher = None
    if draw(st.integers(0, 4)):
        chosen = torch.randperm(count, generator=generator)[
            : draw(st.sampled_from([0, count, draw(st.integers(0, 40))]))
        ]
        states, head = normal(len(chosen), size), None
        if own_head and draw(st.booleans()):
            other = draw(st.integers(1, 24))
            states, head = normal(len(chosen), other), torch.nn.Linear(other, words, draw(st.booleans())).double()
            for parameter in head.parameters():
                parameter.data = normal(*parameter.shape, spread=spread / math.sqrt(other))
        elif draw(st.booleans()):
            states = (hidden[chosen] + 0.2 * states).to(dtype).double()
        teacher = Teacher(
            chosen, states, head, draw(st.sampled_from([0.5, 1.0, 1.3])),
            divergence_named(draw(st.sampled_from([*KERNELS, None])), draw(st.floats(0.05, 0.95))),
            draw(st.booleans()),
        )  # fmt: skip
    inputs = Inputs(hidden, weight, bias, ids, draw(st.sampled_from([0.5, 0.7, 1.0, 1.6])), teacher)

    # Distances to where clipping and capping begin, so that rounding puts no token on the other side.
    values = direct_values(*logits_of(inputs), ids, teacher)
    steps = torch.tensor([-0.9, -0.4, -0.1, 0.1, 0.4, 0.9], dtype=torch.float64)
    shift = steps[torch.randint(0, len(steps), (count,), generator=generator)]
    kind, entropy = draw(st.sampled_from(LOSSES)), draw(st.sampled_from([0.0, 0.01, 1.0]))
    loss = loss_of(kind, entropy, normal(count), values.logprobs - shift, values.divergence + shift)
    row = 4 * words
    memory = draw(st.sampled_from([1, 2 * row * draw(st.integers(1, 41)), EVERYTHING]))
    return Case(inputs, loss, memory, draw(st.sampled_from([1, row * draw(st.integers(1, 8)), 1 << 18])))


def found_and_exact(case: Case, dtype: torch.dtype, floor: float) -> tuple[Results, Results, Results]:
    """Of the fused head in that type and of the direct computation in float64, with the sizes for the errors."""
    given_inputs = case.inputs.to(dtype)
    exact = given_inputs.to(torch.float64)
    with patch("sdpg.models.fused_head.BLOCK_BYTES", case.block_bytes):
        found = results(given_inputs, lambda inputs: fused(inputs, case.loss, case.memory_bytes))
    size = sizes(exact, case.loss, floor)
    return found, results(exact, lambda inputs: direct(inputs, case.loss)), size


def check(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    """‖found - exact‖ ≤ tolerance · ‖size‖ for every result; gradients may be rounded to ``dtype`` besides."""
    found, exact, size = found_and_exact(case, dtype, floor=IN_FLOAT64 / tolerance)
    assert found.keys() == exact.keys()
    for name, expected in exact.items():
        gradient = name in ("hidden", "weight", "bias")
        assert found[name].shape == expected.shape
        assert found[name].dtype == (dtype if gradient else torch.promote_types(dtype, torch.float32))
        allowed = tolerance * size[name].norm()
        if gradient and dtype.itemsize == 2:
            allowed += torch.finfo(dtype).eps / 2 * (expected.norm() + torch.finfo(dtype).tiny * expected.numel())
        assert (found[name].double() - expected).norm() <= allowed, name


# Worst of 10,000 cases 2.5e-7, of 5,000 4e-16. Autograd over full logits in float32: 2.3e-7, some gradients 7e-5.
IN_FLOAT32, IN_FLOAT64 = 1e-6, 1e-14


@settings(deadline=None, max_examples=200)
@given(cases())
def test_equals_full_logits_in_float32(case: Case) -> None:
    check(case, torch.float32, IN_FLOAT32)


@settings(deadline=None)
@given(cases(dtype=torch.float64))
def test_equals_full_logits_in_float64(case: Case) -> None:
    check(case, torch.float64, IN_FLOAT64)


@settings(deadline=None, max_examples=10)
@given(cases(vocabulary=(4000, 6000)))
def test_equals_full_logits_over_a_large_vocabulary(case: Case) -> None:
    check(case, torch.float32, IN_FLOAT32)


@settings(deadline=None)
@given(st.data(), st.sampled_from([torch.bfloat16, torch.float16]))
def test_halves_are_multiplied_and_summed_in_float32(data: st.DataObject, dtype: torch.dtype) -> None:
    check(data.draw(cases(dtype=dtype, own_head=False)), dtype, IN_FLOAT32)


@pytest.mark.parametrize("kind", KERNELS)
def test_is_as_exact_in_float32_as_autograd_over_full_logits(kind: Any) -> None:
    squares: dict[str, list[float]] = {}
    for words in range(20, 60):
        inputs = example(20, words, kind, torch.float32)
        assert inputs.teacher is not None
        inputs = replace(inputs, teacher=replace(inputs.teacher, with_entropy=True))
        exact = results(inputs.to(torch.float64), lambda inputs: direct(inputs, mixed))
        for index, run in enumerate((fused, direct)):
            found = results(inputs.to(torch.float32), lambda inputs, run=run: run(inputs, mixed))
            for name, expected in exact.items():
                error = (found[name].double() - expected).norm() / expected.norm()
                squares.setdefault(name, [0.0, 0.0])[index] += error.item() ** 2
    for name, (here, there) in squares.items():
        assert here <= 2**2 * there, name


# --- by hand


def double(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


LN3 = math.log(3)
# p = (3/4, 1/4), q = (1/2, 1/2), m = (5/8, 3/8): divergence and its derivative with respect to the first logit
BY_HAND: dict[Any, tuple[float, float]] = {
    "kl_student_teacher": (0.75 * math.log(3 / 2) + 0.25 * math.log(1 / 2), 3 / 16 * LN3),
    "kl_teacher_student": (0.5 * math.log(2 / 3) + 0.5 * math.log(2), 1 / 4),
    "jsd": (
        0.25 * math.log(4 / 5) + 0.25 * math.log(4 / 3) + 0.375 * math.log(6 / 5) + 0.125 * math.log(2 / 3),
        3 / 32 * math.log(9 / 5),
    ),
}


def two_words(kind: Any) -> Inputs:
    """p = (3/4, 1/4) at a temperature of 2, hence hidden 2; q is uniform, as its hidden state is 0."""
    teacher = Teacher(torch.tensor([0]), double([0.0]), divergence=divergence_named(kind, 0.5), temperature=7.0)
    return Inputs(double([2.0]), double([LN3], [0.0]), None, torch.tensor([0]), 2.0, teacher).to(torch.float64)


@pytest.mark.parametrize("kind", KERNELS)
def test_values_by_hand(kind: Any) -> None:
    _, values = fused(two_words(kind), None)
    assert values.logprobs.item() == pytest.approx(math.log(3 / 4))
    assert values.entropy.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))
    assert values.divergence.item() == pytest.approx(BY_HAND[kind][0])
    assert values.teacher_logprobs.item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize(
    "factors",
    [{"logprobs": 1}, {"entropy": 1}, {"divergence": 1}, {"logprobs": -1, "entropy": -0.5, "divergence": 2}],
    ids=lambda factors: "+".join(factors),
)
@pytest.mark.parametrize("kind", KERNELS)
def test_gradients_by_hand(kind: Any, factors: dict[str, float]) -> None:
    def loss(order: Tensor, values: TokenValues) -> Tensor:
        return torch.stack([factor * getattr(values, name) for name, factor in factors.items()]).sum(0)

    slopes = {"logprobs": 1 / 4, "entropy": -3 / 16 * LN3, "divergence": BY_HAND[kind][1]}
    slope = sum(factor * slopes[name] for name, factor in factors.items())
    found = results(two_words(kind), lambda inputs: fused(inputs, loss))
    # The logits, before their division by 2, have derivatives ±slope/2.
    assert found["hidden"].tolist() == [[pytest.approx(slope / 2 * LN3)]]
    assert found["weight"].tolist() == [[pytest.approx(slope)], [pytest.approx(-slope)]]


def test_gradients_of_three_words_by_hand() -> None:
    # p = (1/2, 1/4, 1/4) from the bias alone; -A log π(y) has the derivative A·(p - e_y)
    bias = double(2, 1, 1).log()
    inputs = Inputs(double([1.0, 2.0], [3.0, 4.0]), double(*[[0.0, 0.0]] * 3), bias, torch.tensor([0, 2]))
    advantages = double(2, -4)
    loss = lambda order, values: -advantages[order] * values.logprobs  # noqa: E731
    found = results(inputs.to(torch.float64), lambda inputs: fused(inputs, loss, memory_bytes=1))
    assert found["loss"].item() == pytest.approx(2 * math.log(2) - 4 * math.log(4))
    assert found["bias"].tolist() == pytest.approx([-1 - 2, 0.5 - 1, 0.5 + 3])
    expected = double([-1 * 1 - 2 * 3, -1 * 2 - 2 * 4], [0.5 - 3, 1 - 4], [0.5 + 9, 1 + 12])
    torch.testing.assert_close(found["weight"], expected)
    assert found["hidden"].tolist() == [[0.0, 0.0]] * 2


class Anew(torch.autograd.Function):
    """Runs the fused head again for each backward pass, because gradcheck asks for several of one forward pass."""

    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], *leaves: Tensor) -> Tensor:
        ctx.run = run
        ctx.save_for_backward(*leaves)
        return run(*leaves).detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        leaves = [leaf.detach().requires_grad_() for leaf in ctx.saved_tensors]
        with torch.enable_grad():
            return None, *torch.autograd.grad(ctx.run(*leaves), leaves, gradient)


@pytest.mark.parametrize("memory_bytes", [1, EVERYTHING])
@pytest.mark.parametrize("kind", KERNELS)
def test_gradcheck(kind: Any, memory_bytes: int) -> None:
    inputs = example(kind=kind)

    def run(*leaves: Tensor) -> Tensor:
        hidden, weight, bias = leaves
        return fused(replace(inputs, hidden=hidden, weight=weight, bias=bias), mixed, memory_bytes)[0]

    assert torch.autograd.gradcheck(lambda *leaves: Anew.apply(run, *leaves), inputs.leaves)
