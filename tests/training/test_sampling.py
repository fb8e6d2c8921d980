"""Tests which weights sample which step: with and without a lag, after a kill, and where groups are drawn anew."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdpg.errors import Interrupted, UserError
from sdpg.params import Params, parse_params
from sdpg.records.schemas import read_rollouts
from sdpg.rollouts.embedded import EmbeddedEngine
from tests.training.test_trainer import small, trained, weights, world  # noqa: F401 (a fixture)


def lagging(method: str = "grpo", lag: int = 1, **train: Any) -> Params:
    """Parameters with a lag, and the correction that it needs; ``method`` alone is trained."""
    tree = small(sampler_correction=2.0, checkpoint_every=1, **train).model_dump(exclude_unset=True)
    return parse_params(tree | {"rollout": tree["rollout"] | {"lag": lag}, "run": tree["run"] | {"methods": [method]}})


def completions(state: Path, step: int) -> list[list[int]]:
    return read_rollouts(state / f"rollouts/step-{step:06d}-rank-0.parquet")["completion_ids"].to_pylist()


def test_with_a_lag_each_batch_is_one_update_older_than_its_policy(world: Any, tmp_path: Path) -> None:  # noqa: F811
    logged: dict[int, dict[str, float | None]] = {}
    trained(world, lagging(lr=0.02), "grpo", tmp_path / "lag", on_step=logged.__setitem__)
    trained(world, lagging(lag=0, lr=0.02), "grpo", tmp_path / "none")
    trained(world, lagging(lag=0, lr=1e-12), "grpo", tmp_path / "base")
    lag, none, base = ([completions(tmp_path / name, step) for step in (1, 2, 3)] for name in ("lag", "none", "base"))
    # The base draws steps 1 and 2, and the weights that step 1 left draw step 3.
    assert lag[0] == none[0] == base[0]
    assert lag[1] == base[1] != none[1]
    assert lag[2] != base[2] and lag[2] != none[2]
    assert [logged[step]["staleness"] for step in (1, 2, 3)] == [0.0, 1.0, 1.0]
    mismatch = [logged[step]["sampler_mismatch"] or 0.0 for step in (1, 2, 3)]
    assert mismatch[0] < 1e-5 < 1e-2 < min(mismatch[1:])


@pytest.mark.parametrize("method", ["grpo", "antisd"])
def test_a_run_with_a_lag_or_a_switch_goes_on_to_the_same_bits(
    world: Any, tmp_path: Path, method: str  # noqa: F811
) -> None:  # fmt: skip
    params = lagging(method, steps=4, eval_every=4)
    whole = trained(world, params, method, tmp_path / "whole")
    for until in (1, 2, 3):
        with pytest.raises(Interrupted):
            trained(world, params, method, tmp_path / "parts", until=until)
        assert (tmp_path / f"parts/checkpoint-{until:06d}/ahead-00000.safetensors").exists()
    assert torch.equal(weights(trained(world, params, method, tmp_path / "parts")), weights(whole))
    for name in ("digests.csv", "metrics.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "whole/checkpoint-000004/ahead-00000.safetensors").exists()


@pytest.mark.parametrize(
    ("method", "remedy"), [("grpo", "or train.old_logprobs to rollout"), ("sdpg-ufkl", "(such as 2.0)")]
)
def test_a_lag_without_a_correction_is_refused(method: str, remedy: str) -> None:
    tree = lagging(method).model_dump(exclude_unset=True)
    for old_logprobs in ["trainer"] if method == "grpo" else ["trainer", "rollout"]:
        tree["train"] |= {"sampler_correction": None, "old_logprobs": old_logprobs}
        with pytest.raises(
            UserError, match=rf"rollout.lag is 1: methods.{method} .*set train.sampler_correction"
        ) as at:
            parse_params(tree)
        assert remedy.rstrip("$") in str(at.value)
    if method == "grpo":
        parse_params(tree | {"train": tree["train"] | {"old_logprobs": "rollout"}})


@pytest.mark.parametrize("lag", [0, 1])
def test_the_engine_rests_when_all_of_a_step_is_drawn(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lag: int  # noqa: F811
) -> None:  # fmt: skip
    calls: list[str] = []
    generate = EmbeddedEngine.generate

    def drawn(engine: EmbeddedEngine, *arguments: Any) -> Any:
        calls.append("generate")
        return generate(engine, *arguments)

    monkeypatch.setattr(EmbeddedEngine, "generate", drawn)
    for name in ("rest", "sync_weights"):
        monkeypatch.setattr(EmbeddedEngine, name, lambda engine, name=name: calls.append(name))
    # All rewards are equal, so that groups are drawn anew until the rounds are over.
    params = lagging(lag=lag, steps=2, eval_every=2, refill_rounds=3)
    trained(world, params, "grpo", tmp_path, right=lambda index: False)
    assert calls.count("generate") == 2 * (1 + 3) + 1, "two steps with three rounds each, and the evaluation"
    awake = True
    for call in calls:
        assert awake or call != "generate", calls
        awake = call == "sync_weights" or (awake and call != "rest")
    assert calls.count("rest") == 2


def test_a_switch_sets_lambda_to_zero_for_its_warm_up(world: Any, tmp_path: Path) -> None:  # noqa: F811
    logged: dict[int, dict[str, float | None]] = {}
    trained(world, small(), "antisd", tmp_path, on_step=logged.__setitem__)
    entropies = [logged[step]["teacher_entropy"] or 0.0 for step in (1, 2, 3)]
    assert min(entropies) > 0 and len(set(entropies)) == 3
    lambdas, on = [logged[step]["rlsd_lambda"] for step in (1, 2, 3)], True
    for step in (1, 2):
        on = entropies[step] >= entropies[0] or (on and entropies[step] >= 0.93 * entropies[0])
        assert lambdas[step] == (0.5 if on else 0.0)
    assert lambdas[0] == 0.0 and lambdas[1] == 0.5
