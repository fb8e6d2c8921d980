"""Tests the exact head in its limiting cases: no tokens, sharp distributions, half precision, frozen parts."""

import copy
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdpg.models.fused_head import Teacher, TokenValues, chunk_tokens
from sdpg.objective.divergences import DIVERGENCES
from tests.helpers.direct_head import (
    Inputs,
    direct,
    direct_values,
    divergence_named,
    example,
    fused,
    logits_of,
    mixed,
    results,
)

EVERYTHING = 1 << 40


@pytest.mark.parametrize("with_teacher", [False, True])
def test_no_tokens(with_teacher: bool) -> None:
    inputs = example(count=0)
    inputs = inputs if with_teacher else replace(inputs, teacher=None)
    loss, values = fused(inputs, mixed)
    loss.backward()
    assert loss.item() == 0
    assert [value.shape for value in vars(values).values()] == [(0,)] * 5
    for leaf in inputs.leaves:
        assert leaf is not None and leaf.grad is not None
        assert leaf.grad.shape == leaf.shape and not leaf.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_policy_has_no_divergence_from_itself(kind: Any, dtype: torch.dtype) -> None:
    inputs = example(count=40, words=300)
    tokens = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:30]
    teacher = Teacher(tokens, inputs.hidden.detach()[tokens], None, inputs.temperature, divergence_named(kind))
    inputs = replace(inputs, teacher=teacher).to(dtype)
    for memory_bytes in (1, 20_000, EVERYTHING):
        found = results(inputs.to(dtype), lambda inputs, m=memory_bytes: fused(inputs, lambda o, v: v.divergence, m))
        bound = 1e-6 if dtype == torch.float32 else 1e-14
        assert found["divergence"].abs().max() <= bound
        # Of 30 tokens of |h|, |w| and |b| up to 4 each.
        assert max(found[name].abs().max() for name in ("hidden", "weight", "bias")) <= 30 * 4 * bound


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=12),
    st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    st.sampled_from([1.0, 30.0, 1e4]),
    st.sampled_from(sorted(DIVERGENCES)),
)
def test_sharp_distributions_in_float32(
    pairs: list[tuple[float, float]], apart: float, magnitude: float, kind: Any
) -> None:
    # The identity as weight, so that hidden states are logits.
    student = magnitude * torch.tensor([[a for a, _ in pairs]])
    teacher = student + apart * torch.tensor([[b for _, b in pairs]])
    inputs = Inputs(student, torch.eye(len(pairs)), None, torch.tensor([1]), 1.0, None)
    inputs = replace(inputs, teacher=Teacher(torch.tensor([0]), teacher, None, 1.0, divergence_named(kind, 0.5))).to(
        torch.float32
    )
    found = results(inputs, lambda inputs: fused(inputs, lambda o, v: v.divergence - v.entropy - v.logprobs))
    assert found["divergence"].item() >= -1e-6
    assert found["entropy"].item() >= 0
    assert all(result.isfinite().all() for result in found.values())


@pytest.mark.parametrize("count", [0, 1, 7])
def test_memory_decides_how_tokens_are_chunked_and_nothing_else(count: int) -> None:
    inputs = example(count=count)
    budgets = [1, 2 * 7 * 8 * 2, 2 * 7 * 8 * 3, EVERYTHING]
    assert [chunk_tokens(7, 8, budget) for budget in budgets[:3]] == [1, 2, 3]
    runs, chunks = [], []
    for budget in budgets:
        seen: list[list[int]] = []

        def loss(order: Tensor, values: TokenValues, seen: list[list[int]] = seen) -> Tensor:
            seen.append(order.tolist())
            return mixed(order, values)

        runs.append(results(inputs.to(torch.float64), lambda inputs, b=budget, f=loss: fused(inputs, f, b)))
        chunks.append([len(chunk) for chunk in seen])
        assert sorted(token for chunk in seen for token in chunk) == list(range(count))
    assert (
        chunks
        == {
            0: [[]] * 4,
            1: [[1]] * 4,
            7: [[1] * 7, [2, 2, 2, 1], [3, 3, 1], [7]],
        }[count]
    )
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-13, atol=1e-13)


def test_tokens_without_gradient_have_none() -> None:
    inputs = example()
    kept = torch.tensor([True, False, True, False, False, True])
    found = results(inputs, lambda inputs: fused(inputs, lambda o, v: torch.where(kept[o], mixed(o, v), 0)))
    assert (found["hidden"] != 0).any(1).tolist() == kept.tolist()


def test_what_the_teacher_has_not_scored() -> None:
    inputs = example()
    assert inputs.teacher is not None
    _, values = fused(inputs, None)
    rest = sorted(set(range(6)) - set(inputs.teacher.tokens.tolist()))
    assert values.divergence[rest].tolist() == [0.0] * 3
    assert values.teacher_logprobs.isnan().nonzero().flatten().tolist() == rest
    _, values = fused(replace(inputs, teacher=replace(inputs.teacher, divergence=None)), None)
    assert values.divergence.tolist() == [0.0] * 6
    assert values.teacher_logprobs.isnan().nonzero().flatten().tolist() == rest


def test_autocast_leaves_cpus_at_float32() -> None:
    inputs = example(dtype=torch.float32)
    expected = results(inputs.to(torch.float32), lambda inputs: fused(inputs, mixed))
    with torch.autocast("cpu", torch.bfloat16):
        found = results(inputs.to(torch.float32), lambda inputs: fused(inputs, mixed))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_hidden_states_may_be_halves_where_the_weight_is_not() -> None:
    inputs = replace(example(dtype=torch.float32), teacher=None)
    halves = replace(inputs, hidden=inputs.hidden.detach().bfloat16().requires_grad_())
    with torch.autocast("cpu", torch.bfloat16):
        found = results(halves, lambda inputs: fused(inputs, mixed))
    exact = results(halves.to(torch.float64), lambda inputs: direct(inputs, mixed))
    assert found["hidden"].dtype == torch.bfloat16
    torch.testing.assert_close(found["hidden"].double(), exact["hidden"], rtol=2**-8, atol=1e-6)
    assert found["weight"].dtype == torch.float32
    torch.testing.assert_close(found["weight"].double(), exact["weight"], rtol=1e-5, atol=1e-5)


def test_a_teachers_head_of_halves_is_multiplied_without_rounding_its_logits() -> None:
    inputs = replace(example(), bias=None).to(torch.bfloat16)
    assert inputs.teacher is not None
    exact = copy.deepcopy(inputs.teacher.head).double()
    logits = exact(inputs.teacher.hidden.double()) / inputs.teacher.temperature
    expected = direct_values(logits_of(inputs.to(torch.float64))[0], logits, inputs.ids, inputs.teacher)
    _, values = fused(inputs, None)
    for name, value in vars(values).items():
        torch.testing.assert_close(
            value.double(), getattr(expected, name).detach(), rtol=1e-5, atol=1e-6, equal_nan=True
        )


# --- the graph


def test_a_second_backward_pass_is_refused() -> None:
    for keep in (False, True):
        inputs = example()
        loss, _ = fused(inputs, mixed)
        loss.backward(retain_graph=keep)
        with pytest.raises(RuntimeError, match="modified by an inplace operation" if keep else "a second time"):
            loss.backward()


def test_the_gradient_of_the_loss_multiplies_all() -> None:
    once = results(example(), lambda inputs: fused(inputs, mixed))
    inputs = example()
    loss, _ = fused(inputs, mixed)
    (3 * loss).backward()
    for name, leaf in zip(("hidden", "weight", "bias"), inputs.leaves, strict=True):
        assert leaf is not None and leaf.grad is not None
        torch.testing.assert_close(leaf.grad, 3 * once[name], rtol=1e-14, atol=0)


def test_values_carry_no_gradient() -> None:
    _, values = fused(example(), mixed)
    assert not any(value.requires_grad for value in vars(values).values())


def test_nothing_reaches_the_teacher() -> None:
    inputs = example()
    assert inputs.teacher is not None
    inputs.teacher.hidden.requires_grad_()
    fused(inputs, mixed)[0].backward()
    assert inputs.teacher.hidden.grad is None
    assert all(parameter.grad is None for parameter in inputs.teacher.head.parameters())


@pytest.mark.parametrize("frozen", range(1, 8))
def test_gradients_only_where_they_are_wanted(frozen: int) -> None:
    expected = results(example(), lambda inputs: fused(inputs, mixed))
    inputs = example()
    for index, leaf in enumerate(inputs.leaves):
        assert leaf is not None
        leaf.requires_grad_(not frozen >> index & 1)
    loss, _ = fused(inputs, mixed)
    assert loss.requires_grad == (frozen != 7)
    if loss.requires_grad:
        loss.backward()
    for name, leaf in zip(("hidden", "weight", "bias"), inputs.leaves, strict=True):
        assert leaf is not None
        if leaf.requires_grad:
            torch.testing.assert_close(leaf.grad, expected[name], rtol=1e-14, atol=1e-14)
        else:
            assert leaf.grad is None


# --- how much is multiplied


class Products(TorchDispatchMode):
    """Counts matrix products, and their multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.multiplications = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ("mm", "addmm"):
            left, right = args[-2:]
            self.count += 1
            self.multiplications += len(left) * right.numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("memory_bytes", [1, EVERYTHING])
def test_three_products_and_one_for_what_the_teacher_scored(memory_bytes: int) -> None:
    inputs = replace(example(count=10), bias=None)
    assert inputs.teacher is not None
    inputs.teacher.head.bias = None
    with Products() as products:
        fused(inputs, mixed, memory_bytes)[0].backward()
    # N = 10, D = 4, M = 5, the teacher's D = 3, V = 7
    assert products.multiplications == 3 * 10 * 4 * 7 + 5 * 3 * 7
    assert products.count == (35 if memory_bytes == 1 else 4)


def test_a_chunk_without_gradient_takes_one_product() -> None:
    inputs = replace(example(), teacher=None)

    def loss(order: Tensor, values: TokenValues) -> Tensor:
        return -values.logprobs if order.item() in (2, 5) else -values.logprobs.detach()

    with Products() as products:
        found = results(inputs, lambda inputs: fused(inputs, loss, memory_bytes=1))
    assert products.count == 6 + 2 * 2
    assert (found["hidden"] != 0).any(1).tolist() == [False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("frozen", "expected"), [((), 3), (("weight",), 2), (("hidden",), 2), (("hidden", "weight"), 1)]
)
def test_frozen_tensors_take_no_product(frozen: tuple[str, ...], expected: int) -> None:
    inputs = replace(example(), teacher=None)
    for name in frozen:
        getattr(inputs, name).requires_grad_(False)
    with Products() as products:
        fused(inputs, mixed)
    assert products.count == expected
    with Products() as products:
        loss, _ = fused(inputs, None)
    assert products.count == 1
    assert loss.item() == 0


def test_without_gradient_one_product_yields_loss_and_values() -> None:
    inputs = replace(example(), teacher=None)
    expected, _ = fused(inputs, mixed)
    with Products() as products, torch.no_grad():
        loss, values = fused(inputs, mixed)
    assert not loss.requires_grad
    assert loss.item() == expected.item()
    assert values.logprobs.isfinite().all()
    assert products.count == 1


def test_a_teachers_own_head_in_float32_reads_states_of_an_autocast_pass() -> None:
    inputs = example(dtype=torch.float32)
    assert inputs.teacher is not None
    inputs = replace(inputs, teacher=replace(inputs.teacher, hidden=inputs.teacher.hidden.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, found = fused(inputs, None)
    exact = replace(inputs, teacher=replace(inputs.teacher, hidden=inputs.teacher.hidden.float()))
    torch.testing.assert_close(found.divergence, fused(exact, None)[1].divergence)
