"""Tests the memory of the exact head, and the counter that measures it."""

import itertools
from typing import Any

import pytest
import torch

from benchmarks.memory import PeakMemory
from sdpg.models.fused_head import BLOCK_BYTES, Teacher
from sdpg.objective.divergences import DIVERGENCES
from tests.helpers.direct_head import Inputs, divergence_named, fused, mixed

FLOAT = 4


# --- the measure


def test_peak_and_frees() -> None:
    with PeakMemory() as memory:
        a = torch.ones(1000)
        b = a + 1
        assert memory.live == 8000
        del a
        assert memory.live == 4000
        c = b * 2
        assert (memory.live, memory.peak, memory.largest) == (8000, 8000, 4000)
        del b, c
        torch.ones(3000)
        assert (memory.live, memory.peak, memory.largest) == (0, 12000, 12000)
        memory.reset_peak()
        assert (memory.live, memory.peak, memory.largest) == (0, 0, 0)


def test_views_in_place_work_and_older_tensors_are_not_counted_again() -> None:
    old = torch.ones(1000)
    with PeakMemory() as memory:
        old.add_(1).view(10, 100)[3:].t()
        torch.mul(old, 2, out=old)
        assert memory.peak == 0
        new = torch.empty(1000)
        part = new[10:20].view(2, 5)
        torch.exp(old, out=new)
        assert memory.peak == memory.live == 4000
        del new
        assert memory.live == 4000
        del part
        assert memory.live == 0


def test_resized_storages_and_literals() -> None:
    with PeakMemory() as memory:
        values = torch.tensor([1.0] * 100)
        assert memory.live == 400
        out = torch.empty(0)
        torch.cat([values, values], out=out)
        assert memory.live == 400 + 800
        del values, out
    assert memory.live == 0


def test_what_a_graph_saves_lives_as_long_as_the_graph() -> None:
    leaf = torch.ones(1000, requires_grad=True)
    with PeakMemory() as memory:
        loss = leaf.exp().sum()  # saves e^x
        assert memory.live == 4000 + FLOAT
        loss.backward()
        assert leaf.grad is not None
        assert memory.live == 4000 + FLOAT  # e^x is gone, the gradient is there
        del loss
    leaf.grad = None
    assert memory.live == 0
    with PeakMemory() as memory:
        loss = leaf.exp().sum()
        del loss
        assert memory.live == 0


# --- the fused head


def inputs_of(count: int, words: int, size: int, kind: Any) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, states = (torch.randn(n, size, generator=generator) for n in (count, words, count // 2))
    tokens = torch.randperm(count, generator=generator)[: count // 2]
    teacher = None if kind is None else Teacher(tokens, states, divergence=divergence_named(kind, 0.5))
    inputs = Inputs(hidden, weight, weight[:, 0], torch.randint(0, words, (count,), generator=generator), 0.7, teacher)
    return inputs.to(torch.float32)


def measured(inputs: Inputs, memory_bytes: int) -> PeakMemory:
    with PeakMemory() as memory:
        loss, _ = fused(inputs, mixed, memory_bytes)
        loss.backward()
    return memory


@pytest.mark.parametrize("kind", [None, *DIVERGENCES])
def test_memory_does_not_grow_with_tokens_times_vocabulary(kind: Any) -> None:
    size, budget = 16, 1 << 18
    for words in (2048, 8192):
        peaks, gradients = {}, {}
        for count in (64, 128, 1024):
            inputs = inputs_of(count, words, size, kind)
            memory = measured(inputs, budget)
            assert memory.largest <= max(budget, words * size * FLOAT, 2 * BLOCK_BYTES)
            assert memory.largest < count * words * FLOAT
            peaks[count], gradients[count] = memory.peak, FLOAT * sum(leaf.numel() for leaf in inputs.leaves)
            # Logits; two scratch blocks, and up to three for the mixture's logarithms; a few numbers per token.
            assert peaks[count] - gradients[count] <= budget + 5 * BLOCK_BYTES + count * 64 + 10_000
        # Beyond the gradients, a token takes its seven numbers and its place in the order of work.
        for less, more in itertools.pairwise(peaks):
            grown = peaks[more] - gradients[more] - peaks[less] + gradients[less]
            assert grown <= (more - less) * (7 * FLOAT + 8)


def test_the_budget_bounds_the_logits() -> None:
    inputs = inputs_of(256, 4096, 8, "jsd")
    row = 4096 * FLOAT
    peaks = [measured(inputs.to(torch.float32), budget).peak for budget in (1, 64 * row, 128 * row, 256 * row)]
    assert peaks == sorted(peaks)
    assert peaks[2] - peaks[1] == pytest.approx(64 * row, rel=0.05)
    assert peaks[3] - peaks[2] == pytest.approx(128 * row, rel=0.05)


def test_the_backward_pass_makes_no_second_gradient() -> None:
    inputs = inputs_of(64, 4096, 32, None)
    with PeakMemory() as memory:
        loss, _ = fused(inputs, mixed)
        before = memory.live
        memory.reset_peak()
        (3 * loss).backward()
    assert memory.peak - before < 4096
    assert before >= 4096 * 32 * FLOAT


def test_gradients_wait_for_the_backward_pass_in_the_type_of_the_inputs() -> None:
    inputs = inputs_of(64, 4096, 32, None).to(torch.bfloat16)
    with PeakMemory() as memory:
        loss, _ = fused(inputs, mixed)
    assert loss.requires_grad
    halves = 2 * sum(leaf.numel() for leaf in inputs.leaves if leaf is not None)
    assert memory.live == pytest.approx(halves, rel=0.02)


def test_without_gradient_no_memory_for_gradients() -> None:
    words, size = 4096, 64
    inputs = inputs_of(32, words, size, "jsd")
    gradient = words * size * FLOAT
    budget = 4 * words * FLOAT
    with PeakMemory() as memory:
        fused(inputs, None, budget)
    assert memory.peak < gradient
    inputs.weight.requires_grad_(False)
    with PeakMemory() as memory:
        fused(inputs, mixed, budget)
    assert memory.peak < gradient
    inputs.weight.requires_grad_()
    with PeakMemory() as memory, torch.no_grad():
        fused(inputs, mixed, budget)
    assert memory.peak < gradient
