"""Tests that the digests of a step change with any bit that they stand for, and with nothing else."""

from dataclasses import replace
import math
from pathlib import Path

import pytest
import torch

from sdpg.training import step_digests
from sdpg.training.step_digests import append_digests, rollouts_digest, weights_digest
from tests.helpers.tiny import tiny_experience, tiny_model


def test_one_bit_of_one_weight_changes_the_digest() -> None:
    model, same = tiny_model(), tiny_model()
    before = weights_digest(model.parameters())
    assert before == weights_digest(same.parameters())
    for parameter in model.parameters():
        last = parameter.data.view(-1)[-1:]
        kept = last.clone()
        last.copy_(torch.nextafter(kept, torch.tensor([math.inf])))
        assert weights_digest(model.parameters()) != before
        last.copy_(kept)
    assert weights_digest(model.parameters()) == before
    assert weights_digest(model.to(torch.bfloat16).parameters()) != before


def test_a_large_tensor_is_read_in_even_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_digests, "MOST", 4)
    weights = torch.zeros(3, 4)
    before = weights_digest([weights])
    weights[0, 1] = 1.0
    assert weights_digest([weights]) == before
    for row, column in ((0, 0), (0, 3), (1, 2), (2, 1)):
        changed = weights.clone()
        changed[row, column] = 1.0
        assert weights_digest([changed]) != before


def test_a_token_a_log_probability_or_their_order_changes_the_digest() -> None:
    rollouts = tiny_experience()
    other_token = [[*rollouts.responses[0][:-1], 39], *rollouts.responses[1:]]
    first = rollouts.rollout_logprobs[0]
    other_logprob = [[math.nextafter(first[0], 0.0), *first[1:]], *rollouts.rollout_logprobs[1:]]
    moved = [*rollouts.responses[1:], rollouts.responses[0]]
    changed = [
        replace(rollouts, responses=other_token), replace(rollouts, rollout_logprobs=other_logprob),
        replace(rollouts, responses=moved), replace(rollouts, problem_ids=rollouts.problem_ids[::-1]),
    ]  # fmt: skip
    assert len({rollouts_digest(each) for each in (rollouts, tiny_experience(), *changed)}) == 5


def test_each_step_adds_a_line(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        append_digests(tmp_path, step, tiny_experience(), tiny_model(step))
    header, *lines = (tmp_path / "digests.csv").read_text().splitlines()
    assert header == "step,rollouts,weights" and [line.split(",")[0] for line in lines] == ["1", "2", "3"]
    assert len({line.split(",")[1] for line in lines}) == 1 and len({line.split(",")[2] for line in lines}) == 3
