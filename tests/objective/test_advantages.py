"""Tests group-relative advantages and gates: numbers by hand and properties over random rewards."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
import pytest
import torch

from sdpg.objective.advantages import group_advantages
from sdpg.objective.gate_choice import find_gate
from sdpg.objective.gates import GATES, RowCredit, group_credits

EPS = 1e-6


def test_population_std_by_hand() -> None:
    # mean 0.25, Σ(R-mean)² = 3·(1/16) + 9/16 = 0.75, std √(0.75/4) = √3/4
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "population", EPS)
    std = math.sqrt(3) / 4
    expected = [0.75 / (std + EPS), -0.25 / (std + EPS), -0.25 / (std + EPS), -0.25 / (std + EPS)]
    assert advantages.tolist() == [pytest.approx(expected, rel=1e-12)]
    assert advantages[0, 0].item() == pytest.approx(1.7320468, abs=1e-7)  # √3 would be 1.7320508: ε counts


def test_sample_std_by_hand() -> None:
    # √(0.75/3) = 0.5
    advantages = group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), "sample", EPS)
    expected = [0.75 / (0.5 + EPS), -0.25 / (0.5 + EPS), -0.25 / (0.5 + EPS), -0.25 / (0.5 + EPS)]
    assert advantages.tolist() == [pytest.approx(expected, rel=1e-12)]


def test_epsilon_is_added_outside_the_root() -> None:
    # std is 1 exactly, so A = ±1/(1+ε); inside the root it would be ±1/√(1+ε).
    advantages = group_advantages(torch.tensor([[1.0, -1.0]]), "population", 0.5)
    assert advantages.tolist() == [pytest.approx([2 / 3, -2 / 3], rel=1e-12)]


def test_groups_are_normalised_one_by_one() -> None:
    rewards = torch.tensor([[1.0, -1.0], [5.0, 4.0], [2.0, 2.0]])
    advantages = group_advantages(rewards, "population", EPS)
    half = 0.5 / (0.5 + EPS)
    expected = [[1 / (1 + EPS), -1 / (1 + EPS)], [half, -half], [0.0, 0.0]]
    assert [row.tolist() for row in advantages] == [pytest.approx(row, rel=1e-12) for row in expected]


def test_rewards_of_plus_minus_one_and_of_zero_one_differ_by_epsilon_only() -> None:
    signs = group_advantages(torch.tensor([[1.0, -1.0, -1.0]]), "population", EPS)
    bits = group_advantages(torch.tensor([[1.0, 0.0, 0.0]]), "population", EPS)
    assert signs.tolist() != bits.tolist()
    torch.testing.assert_close(signs, bits, rtol=3 * EPS, atol=0)


@pytest.mark.parametrize("kind", ["population", "sample"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.1, 0.7, 1 / 3, 1e9 + 0.1])
@pytest.mark.parametrize("size", [2, 3, 6, 7, 10])
def test_a_uniform_group_has_advantages_of_exactly_zero(kind: str, value: float, size: int) -> None:
    # The mean of equal numbers such as 0.1 may round away from them.
    rewards = torch.full((2, size), value, dtype=torch.float64)
    rewards[1, 0] += 1.0
    advantages = group_advantages(rewards, kind, EPS)  # type: ignore[arg-type]
    assert advantages[0].tolist() == [0.0] * size
    assert (advantages[1] != 0).all()


@pytest.mark.parametrize("kind", ["population", "sample"])
@pytest.mark.parametrize("value", [0.1, 0.7])
@pytest.mark.parametrize("size", [3, 6])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_groups_whose_deviation_is_rounded_up_are_uniform(kind: str, value: float, size: int, groups: int) -> None:
    # Their deviation is about 1e-17 and not 0 where there is one group alone, which torch sums in another order.
    rewards = torch.full((groups, size), value, dtype=torch.float64)
    assert (rewards[:1].std(dim=1, correction=int(kind == "sample")) > 0).all()
    assert group_advantages(rewards, kind, EPS).tolist() == [[0.0] * size] * groups  # type: ignore[arg-type]


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.3, 1.0]), min_size=2, max_size=9))
def test_the_two_stds_differ_by_a_known_factor(rewards: list[float]) -> None:
    size = len(rewards)
    population = group_advantages(torch.tensor([rewards]), "population", 1e-15)
    sample = group_advantages(torch.tensor([rewards]), "sample", 1e-15)
    torch.testing.assert_close(sample, population * math.sqrt((size - 1) / size), rtol=1e-9, atol=1e-12)


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=9))
def test_advantages_are_centred_and_ordered_like_the_rewards(quarters: list[int]) -> None:
    rewards = [quarter / 4 for quarter in quarters]
    advantages = group_advantages(torch.tensor([rewards]), "population", EPS)[0]
    assert advantages.sum().item() == pytest.approx(0, abs=1e-9)
    for one, a in zip(rewards, advantages.tolist(), strict=True):
        for other, b in zip(rewards, advantages.tolist(), strict=True):
            assert (one > other) == (a > b)


def test_the_gate_opens_for_positive_advantages_only_or_for_all() -> None:
    def opened(name: Any, advantages: tuple[float, ...]) -> list[float]:
        return [find_gate(name).row(RowCredit(advantage, 1.0, True, 0.25)) for advantage in advantages]

    assert opened("positive", (0.5, 1e-300, 0.0, -0.0, -0.5)) == [1, 1, 0, 0, 0]
    assert opened("negative", (0.5, 1e-300, 0.0, -0.0, -0.5)) == [0, 0, 0, 0, 1]
    assert opened("all", (0.5, 0.0, -0.5)) == [1, 1, 1]
    assert opened(["positive", "difficulty"], (0.5, 0.0, -0.5)) == [0.75, 0, 0]
    assert GATES.keys() | {"import"} >= {"positive", "all"}


def test_rewards_that_are_not_known_leave_mean_and_deviation() -> None:
    rewards = torch.tensor([[1.0, 0.0, 9.0, 0.0], [1.0, 9.0, 9.0, 9.0], [1.0, 1.0, 9.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    kept = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1], [1, 1, 1, 1]]).bool()
    advantages = group_advantages(rewards, "population", EPS, kept)
    # Of 1, 0, 0: mean 1/3, standard deviation √2/3.
    std = math.sqrt(2) / 3
    expected = [[2 / 3 / (std + EPS), -1 / 3 / (std + EPS), 0.0, -1 / 3 / (std + EPS)], [0.0] * 4, [0.0] * 4]
    assert [row.tolist() for row in advantages[:3]] == [pytest.approx(row, rel=1e-12) for row in expected]
    assert torch.equal(advantages[3:], group_advantages(rewards[3:], "population", EPS))


def test_two_known_rewards_are_enough_and_one_is_not() -> None:
    rewards = torch.tensor([[1.0, -1.0, 5.0]])
    for kept, expected in (([1, 1, 0], [1.0, -1.0, 0.0]), ([1, 0, 0], [0.0] * 3), ([0, 0, 0], [0.0] * 3)):
        found = group_advantages(rewards, "population", 0.0, torch.tensor([kept]).bool())
        assert found.tolist() == [expected]
    every = torch.ones(1, 3).bool()
    assert torch.equal(group_advantages(rewards, "sample", EPS, every), group_advantages(rewards, "sample", EPS))


def test_other_baselines_and_divisors_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])

    def made(std: Any, baseline: Any, kept: torch.Tensor | None = None) -> list[float]:
        return group_advantages(rewards, std, 1e-12, kept, baseline).flatten().tolist()

    assert made("none", "group") == pytest.approx([0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0])
    # RLOO: less the mean of the three siblings, which is G/(G-1) times the difference from the group's mean.
    assert made("none", "leave_one_out") == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0])
    # REINFORCE++: over all eight rewards, of mean 5/8 and variance 15/64; a uniform group is above it.
    spread = math.sqrt(15) / 8
    assert made("batch", "batch") == pytest.approx([0.375 / spread, *[-0.625 / spread] * 3, *[0.375 / spread] * 4])
    assert made("none", "batch") == pytest.approx([0.375, *[-0.625] * 3, *[0.375] * 4])
    # With the group's baseline the differences have mean 0 and variance 0.75/8.
    deviation = math.sqrt(0.75 / 8)
    assert made("batch", "group") == pytest.approx([0.75 / deviation, *[-0.25 / deviation] * 3, 0, 0, 0, 0])
    kept = torch.tensor([[True, True, False, True], [False] * 4])
    assert made("none", "leave_one_out", kept) == pytest.approx([1.0, -0.5, 0, -0.5, 0, 0, 0, 0])
    assert made("batch", "batch", kept) == pytest.approx(
        [2 / math.sqrt(2), -1 / math.sqrt(2), 0, -1 / math.sqrt(2), 0, 0, 0, 0]
    )
    assert made("batch", "batch", torch.zeros_like(kept)) == [0.0] * 8


@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "batch"])
def test_equal_rewards_have_no_advantage_by_any_baseline(baseline: Any) -> None:
    for std in ("none", "batch"):
        found = group_advantages(torch.full((3, 4), 0.1), std, 1e-12, None, baseline)
        assert found.tolist() == [[0.0] * 4] * 3


def test_the_credit_of_a_group_has_its_share_of_right_answers() -> None:
    rows = group_credits([1.0, -1.0, 0.0, 0.0], [1.0, -1.0, 1.0, 1.0], [True, False, True, True], 2)
    assert [row.accuracy for row in rows] == [0.5, 0.5, 1.0, 1.0]
    opened = {name: [gate.row(row) for row in rows] for name, gate in GATES.items()}
    assert (
        opened["difficulty"] == [1, 1, 0, 0] and opened["correct"] == [1, 0, 1, 1] and opened["wrong"] == [0, 1, 0, 0]
    )
