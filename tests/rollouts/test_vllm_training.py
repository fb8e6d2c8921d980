"""Tests SDPG with rollouts of the real vLLM, in process, on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdpg.errors import UserError
from sdpg.records.schemas import read_rollouts
from tests.helpers.vllm_tiny import needs_vllm
from tests.helpers.vllm_world import IN_PROCESS, World, train

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.policies.student.parameters()])


def test_training_improves_the_reward(world: World, tmp_path: Path) -> None:
    """14 steps of 16 prompts × 8 responses, one seed; a standard error of a three-step mean is under 0.03."""
    trainer, logged = train(world, IN_PROCESS, tmp_path, steps=14, eval_every=7, record_every=7)
    first, last = (sum(logged[step]["accuracy"] or 0 for step in steps) / 3 for steps in ((1, 2, 3), (12, 13, 14)))
    print(f"accuracy of rollouts: steps 1-3 {first:.3f}, steps 12-14 {last:.3f}")
    assert last > first + 0.15
    # What vLLM says of its tokens is what the trainer says of them, at every step.
    assert max(metrics["sampler_mismatch_max"] or 0 for metrics in logged.values()) < 1e-3
    assert trainer.engine.difference < 1e-4  # type: ignore[attr-defined]


def test_a_run_that_an_error_ended_goes_on_to_the_same_weights(world: World, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "eval_every": 3, "checkpoint_every": 2, "record_every": 3}
    whole, _ = train(world, IN_PROCESS, tmp_path / "whole", **settings)
    expected = weights(whole)

    def broken(trainer: Any) -> None:
        send, sent = trainer.engine.send_weights, []

        def once_too_few() -> None:
            sent.append(1)
            # The sync before the first step and those of four steps; in the fifth the weights get lost.
            if len(sent) < 6:
                send()

        trainer.engine.send_weights = once_too_few

    with pytest.raises(UserError, match="does not sample from the policy that is trained"):
        train(world, IN_PROCESS, tmp_path / "broken", broken, **settings)
    assert (tmp_path / "broken" / "checkpoint-000004").is_dir()
    resumed, logged = train(world, IN_PROCESS, tmp_path / "broken", **settings)
    assert list(logged) == [5, 6]
    assert torch.equal(weights(resumed), expected)
    for name in ("metrics.csv", "curves.csv"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
    for step in (1, 5, 6):
        file = f"rollouts/step-{step:06d}-rank-0.parquet"
        assert read_rollouts(tmp_path / "broken" / file).equals(read_rollouts(tmp_path / "whole" / file))
