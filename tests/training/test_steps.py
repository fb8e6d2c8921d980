"""Tests dynamic sampling: which groups are replaced, by what, and what is left."""

from typing import Any

import pytest
import torch

from sdpg.models.experience import Rollouts
from sdpg.problems.prompts import PreparedRow
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.training.steps import Sampled, mixed_logprobs, refill

SIBLINGS = 2


def test_passes_are_mixed_as_probabilities_over_those_that_scored_a_response() -> None:
    one, two = torch.tensor([0.5, 0.125]).log(), torch.tensor([0.25, 0.375]).log()
    mixed = mixed_logprobs([[one, one, None, None], [two, None, two, None]])
    assert [None if each is None else each.exp().tolist() for each in mixed] == [
        pytest.approx([0.375, 0.25]), pytest.approx([0.5, 0.125]), pytest.approx([0.25, 0.375]), None
    ]  # fmt: skip


def problem(name: str) -> PreparedRow:
    return PreparedRow(name, name, "1", "", "", name, name, 1, 1)


def sampled(names: list[str], round: int = 0) -> Sampled:
    """Responses that say which problem, sibling and round they are of."""
    texts = [f"{name}{sibling} of {round}" for name in names for sibling in range(SIBLINGS)]
    tokens = [[index, round] for index, _ in enumerate(texts)]
    rollouts = Rollouts(texts, tokens, tokens, tokens, [[-1.0]] * len(texts), ended=[True] * len(texts))
    return Sampled([problem(name) for name in names], rollouts, texts, [False] * len(texts))


def verdicts(letters: str) -> list[Verdict]:
    right = Verdict(Status.CORRECT, "1", 1.0)
    return [right if letter == "r" else Verdict(Status.WRONG, "2", -1.0) for letter in letters]


def refilled(
    first: str, later: dict[int, str], spare: list[str], rounds: int
) -> tuple[Sampled, list[Verdict], float, Any]:
    asked: list[list[str]] = []

    def sample(chosen: list[PreparedRow], number: int) -> Sampled:
        asked.append([row.id for row in chosen])
        return sampled(asked[-1], number)

    names = [chr(ord("a") + at) for at in range(len(first) // SIBLINGS)]
    found = refill(
        sampled(names), verdicts(first), [problem(name) for name in spare], rounds, sample,
        lambda more: verdicts(later[len(asked)][: len(more.texts)]),
    )  # fmt: skip
    return *found, asked


def test_groups_of_equal_rewards_are_replaced_in_their_places() -> None:
    # b and c are uniform; of their substitutes x is too, and y is not.
    found, kept, count, asked = refilled("rwrrwwwr", {1: "wwwr", 2: "rw"}, ["a", "x", "y", "z"], 2)
    assert asked == [["x", "y"], ["z"]] and count == 2
    assert [row.id for row in found.problems] == ["a", "y", "z", "d"]
    assert found.texts == ["a0 of 0", "a1 of 0", "y0 of 1", "y1 of 1", "z0 of 2", "z1 of 2", "d0 of 0", "d1 of 0"]
    assert found.rollouts.problem_ids == found.texts and found.rollouts.responses[2:6] == [
        [2, 1],
        [3, 1],
        [0, 2],
        [1, 2],
    ]
    assert [verdict.status == Status.CORRECT for verdict in kept] == [letter == "r" for letter in "rwwrrwwr"]


def test_what_cannot_be_replaced_stays() -> None:
    found, kept, count, asked = refilled("rrwwrw", {1: "rrww", 2: "ww"}, ["x", "y", "z"], 3)
    assert asked == [["x", "y"], ["z"]] and count == 0
    assert found.texts == sampled(["a", "b", "c"]).texts and [v.reward for v in kept] == [1, 1, -1, -1, 1, -1]


def test_nothing_is_sampled_where_all_groups_differ() -> None:
    assert refilled("rwwr", {}, ["x"], 2)[3] == []
