"""Tests the metrics of a step: entropies, clip fractions and KL estimators by hand."""

import math
from typing import Any

import pytest
import torch

from sdpg.models.columns import TokenColumn
from sdpg.models.experience import Experience, Rollouts
from sdpg.params import MethodParams
from sdpg.problems.prompts import PreparedRow
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.training.metrics import metric_columns, step_metrics
from sdpg.training.steps import Sampled, Step, Update
from tests.helpers.tiny import tiny_method


def two_groups(advantages: list[float]) -> Experience:
    """Two prompts of two responses; the last response has two tokens, the others one."""
    return Experience(
        problem_ids=["a", "a", "b", "b"],
        student_prompts=[[5]] * 4,
        teacher_prompts=[[5, 6]] * 4,
        responses=[[1], [1], [1], [7, 1]],
        rollout_logprobs=[[-0.5], [-1.0], [-2.0], [-3.0, -0.25]],
        advantages=torch.tensor(advantages, dtype=torch.float64),
        gates=torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64),
    )


def measured(
    experience: Experience, columns: dict[str, dict[int, list[float]]], method: MethodParams,
    diagnosed: dict[str, TokenColumn] | None = None,
) -> dict[str, Any]:  # fmt: skip
    verdicts = [
        Verdict(Status.CORRECT if reward > 0 else Status.WRONG, "1", reward) for reward in (1.0, -1.0, -1.0, -1.0)
    ]
    problems = [
        PreparedRow(
            id=name, problem="", answer="1", solution="", source="", student_prompt="", teacher_prompt="",
            student_tokens=1, teacher_tokens=2,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    rollouts = Rollouts(**{name: getattr(experience, name) for name in Rollouts.__dataclass_fields__})
    sampled = Sampled(problems, rollouts, ["", "", "", ""], [False, False, False, True])
    update = Update(0.5, 2.0, 1e-3, {name: TokenColumn.of(parts) for name, parts in columns.items()})
    return step_metrics(Step(sampled, verdicts, experience, update, diagnosed or {}), method)


def test_rows_without_a_pass_enter_the_entropy_by_the_samplers_log_probs() -> None:
    columns = {"entropy": {3: [0.1, 0.2], 0: [0.3]}, "logprob": {0: [-0.5], 3: [-3.0, -0.25]}}
    found = measured(two_groups([1.0, -1.0, 0.0, 0.0]), columns, tiny_method())
    assert found["entropy"] == pytest.approx((0.3 + 1.0 + 2.0 + 0.1 + 0.2) / 5)
    assert found["sampler_mismatch"] == 0
    assert found["zero_variance_groups"] == 0.5
    assert found["gate_rate"] == 0.25


def test_the_kl_at_the_ends_is_that_of_responses_that_ended() -> None:
    kl = TokenColumn([0, 2, 3], [1, 3, 2], torch.tensor([1.0, 8.0, 16.0, 4.0, 32.0, 64.0]))
    found = measured(two_groups([1.0, -1.0, 0.0, 0.0]), {}, tiny_method(), {"kl_to_teacher": kl, "top_k_error": kl})
    # The last of the four was cut.
    assert found["kl_to_teacher_eos"] == 2.5
    assert found["kl_to_teacher_sampled"] == pytest.approx(125 / 6) == found["top_k_error"]
    nothing = measured(two_groups([1.0, -1.0, 0.0, 0.0]), {}, tiny_method())
    assert nothing["kl_to_teacher_eos"] is None and nothing["top_k_error"] is None


def test_clip_fractions_tell_what_the_clip_did() -> None:
    columns = {
        "ratio": {0: [1.5], 1: [0.5], 2: [20.0], 3: [1.1, 0.9]},
        "clipped": {0: [1.0], 1: [1.0], 2: [1.0], 3: [0.0, 0.0]},
    }
    experience = two_groups([1.0, -1.0, -1.0, 1.0])
    found = measured(experience, columns, tiny_method(outcome="ppo_clip", dual_clip=10.0))
    shares = {kind: found[f"clip_fraction_{kind}"] for kind in ("high", "low", "dual")}
    assert shares == {"high": 0.2, "low": 0.2, "dual": 0.2}
    assert found["clip_fraction"] == pytest.approx(0.6)
    unclipped = measured(experience, columns, tiny_method())
    assert {unclipped[name] for name in unclipped if name.startswith("clip_fraction")} == {None}


def test_kl_estimators_by_hand() -> None:
    columns = {"logprob": {0: [-0.5], 3: [-3.0, -0.25]}, "ref_logprob": {0: [-0.7], 3: [-2.5, -0.25]}}
    found = measured(two_groups([1.0, -1.0, 0.0, 0.0]), columns, tiny_method(reference="k3"))
    log_w = [0.2, -0.5, 0.0]
    assert found["kl_to_reference_k1"] == pytest.approx(sum(log_w) / 3)
    assert found["kl_to_reference_k3"] == pytest.approx(sum(math.exp(-v) - 1 + v for v in log_w) / 3)


def test_every_metric_has_a_column() -> None:
    found = measured(two_groups([0.0] * 4), {}, tiny_method())
    assert found.keys() <= set(metric_columns())
    assert len(metric_columns()) == len(set(metric_columns()))
