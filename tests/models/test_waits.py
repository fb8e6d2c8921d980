"""Tests that the head does not make the host wait for a GPU, and the columns that leave it together."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdpg.models.columns import TokenColumn, cut_columns
from sdpg.objective.divergences import DIVERGENCES
from tests.helpers.direct_head import example, fused, mixed

# What the host cannot go on without: a number's value, or how long a result is.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "repeat_interleave.Tensor")


class Waits(TorchDispatchMode):
    """Counts operations for which the host would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # A mask as an index: its length is that of the result.
        indexes = str(function).startswith(("aten.index.", "aten.index_put"))
        masked = indexes and any(isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1])
        if masked or any(name in str(function) for name in WAITING):
            self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_waits_are_counted() -> None:
    values = torch.arange(3)
    with Waits() as waits:
        values[values > 1]
        values[0].item()
    assert sum(waits.found.values()) == 2


@pytest.mark.parametrize("kind", [None, *DIVERGENCES])
def test_the_fused_head_does_not_make_the_host_wait(kind: Any) -> None:
    inputs = example(kind=kind)
    with Waits() as waits:
        loss, _ = fused(inputs, mixed, 200)
        loss.backward()
    assert waits.found == {}


def test_columns_of_several_values_and_of_some_rollouts() -> None:
    values = {"a": torch.arange(6), "b": torch.arange(6) > 3}
    columns = cut_columns([7, 2, 5], [1, 3, 2], values)
    assert columns["a"].lists() == {2: [1, 2, 3], 5: [4, 5], 7: [0]}
    assert columns["b"].lists() == {2: [0, 0, 0], 5: [1, 1], 7: [0]}
    assert columns["a"].only([7, 2]).lists() == {2: [1, 2, 3], 7: [0]}
    none = columns["a"].only([])
    assert (none.rows, none.lengths, none.numbers()) == ([], [], [])
    assert TokenColumn([], [], torch.zeros(0)).only([1]).rows == []
    assert cut_columns([], [], {"a": torch.zeros(0)})["a"].rows == []
