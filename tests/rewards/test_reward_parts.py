"""Tests the rewards for format and length by hand."""

import pytest

from sdpg.errors import UserError
from sdpg.params import RewardParams, load_params, parse_params
from sdpg.rewards.parts import length_value, reward_parts
from sdpg.rewards.verifiers import Status, Verdict

VERDICTS = [
    Verdict(Status.CORRECT, "5", 1.0), Verdict(Status.WRONG, "6", -1.0), Verdict(Status.NO_ANSWER, None, -1.0),
    Verdict(Status.TIMEOUT, "x", -1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tokens", "free", "value"),
    [(1, 0.75, 0.0), (75, 0.75, 0.0), (80, 0.75, -0.2), (100, 0.75, -1.0), (50, 0.0, -0.5), (0, 0.0, 0.0)],
)
def test_a_length_costs_more_and_more_towards_the_limit(tokens: int, free: float, value: float) -> None:
    assert length_value(tokens, 100, free) == pytest.approx(value)


def test_parts_are_weighted_and_off_without_a_weight() -> None:
    assert reward_parts(RewardParams(), VERDICTS, [1, 2, 3, 4], 4) == {}
    params = RewardParams.model_validate({"format": {"weight": 0.5}, "length": {"weight": 2.0, "free": 0.5}})
    assert reward_parts(params, VERDICTS, [1, 2, 3, 4], 4) == {
        "format": [0.5, 0.5, 0.0, 0.5], "length": [0.0, 0.0, -1.0, -2.0],
    }  # fmt: skip
    assert load_params().reward.format is None and load_params().reward.length is None


def test_a_methods_own_penalty_takes_the_place_of_the_sections_in_its_runs_alone() -> None:
    tree = load_params().model_dump(exclude_unset=True)
    params = parse_params(tree | {"reward": tree["reward"] | {"length": {"weight": 9.0}}})
    found = {name: params.for_method(name).reward for name in ("dapo", "grpo")}
    assert reward_parts(found["dapo"], VERDICTS, [80, 90, 100, 1], 100) == {"length": pytest.approx([0, -0.5, -1, 0])}
    assert reward_parts(found["grpo"], VERDICTS, [75, 100], 100)["length"] == pytest.approx([0, -9.0])
    assert params.reward.length is not None and params.reward.length.weight == 9.0


@pytest.mark.parametrize("part", [{"format": {"weight": 0.0}}, {"length": {"weight": 1.0, "free": 1.0}}, {"length": 1}])
def test_weights_that_do_nothing_or_cannot_be_are_refused(part: dict[str, object]) -> None:
    tree = load_params().model_dump()
    tree["methods"] = {"grpo": {"title": "GRPO", "outcome": "reinforce"}}
    tree["run"]["methods"] = ["grpo"]
    with pytest.raises(UserError, match=r"reward\.(format|length)"):
        parse_params(tree | {"reward": tree["reward"] | part})
