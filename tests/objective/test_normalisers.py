"""Tests the normalisers of the loss: numbers by hand, and weights that add up to one."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest
import torch

from sdpg.objective.losses import normaliser_weights


def test_normaliser_weights_by_hand() -> None:
    # two prompts of two responses: 1 + 3 and 2 + 6 tokens
    lengths = torch.tensor([1, 3, 2, 6])
    assert normaliser_weights(lengths, "group", 2, 10).tolist() == pytest.approx([1 / 8, 1 / 8, 1 / 16, 1 / 16])
    assert normaliser_weights(lengths, "batch", 2, 10).tolist() == pytest.approx([1 / 12] * 4)
    assert normaliser_weights(lengths, "sequence", 2, 10).tolist() == pytest.approx([1 / 4, 1 / 12, 1 / 8, 1 / 24])
    assert normaliser_weights(lengths, "constant", 2, 10).tolist() == pytest.approx([1 / 40] * 4)


@given(st.lists(st.lists(st.integers(1, 4096), min_size=3, max_size=3), min_size=1, max_size=5))
def test_weights_of_all_tokens_add_up_to_one(groups: list[list[int]]) -> None:
    lengths = torch.tensor([length for group in groups for length in group])
    kinds: list[Any] = ["group", "batch", "sequence"]
    for kind in kinds:
        weights = normaliser_weights(lengths, kind, 3, 4096)
        assert weights.dtype == torch.float64
        assert (weights * lengths).sum().item() == pytest.approx(1, rel=1e-12)
    constant = normaliser_weights(lengths, "constant", 3, 4096)
    assert (constant * lengths).sum().item() == pytest.approx(lengths.double().mean().item() / 4096)


def test_one_prompt_has_the_same_group_and_batch_normaliser() -> None:
    lengths = torch.tensor([4, 1, 7])
    torch.testing.assert_close(normaliser_weights(lengths, "group", 3, 10), normaliser_weights(lengths, "batch", 3, 10))
