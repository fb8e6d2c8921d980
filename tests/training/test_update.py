"""Tests the update against a second implementation of the paper's formulas, one row and one token at a time."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdpg.models.batches import token_batch
from sdpg.models.loading import response_logits
from sdpg.objective.coefficients import coefficients
from sdpg.training.update import Accumulated, Task, accumulate_gradients
from tests.helpers.plain_update import (
    AT,
    EVERYONE,
    KL,
    METHODS,
    NORMALISERS,
    OFF,
    assert_close,
    compare,
    gate_kind,
    run,
    switched_on,
    update,
)
from tests.helpers.tiny import (
    MAX_TOKENS,
    SIBLINGS,
    counted_passes,
    gradients,
    tiny_experience,
    tiny_method,
    tiny_model,
    tiny_policies,
    tiny_train,
)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("updates", [1, 2])
def test_every_method_equals_the_independent_implementation(name: str, updates: int) -> None:
    method, off_policy = METHODS[name], updates > 1
    if method.reference_in == "reward":
        method = method.model_copy(update={"reference": "none"})  # no part of the loss
    experience = tiny_experience(gate_kind=gate_kind(method), shifted_old=off_policy)
    compare(method, tiny_train(updates_per_batch=updates), experience)


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "public code, SDPG": (
        {"outcome": "ppo_clip", "clip_high": 0.28, "dual_clip": 1.3, **KL, "gate": "all", "kl_clamp": 1.0,
         "reference": "urkl"},
        {"updates_per_batch": 2, "ratio_on_all_terms": False, "log_ratio_clamp": 0.5, "normaliser": "batch",
         "teacher_temperature": "one"},
    ),
    "public code, RLSD": (
        {"outcome": "ppo_clip", "dual_clip": 3.0, "token_weighting": "rlsd"},
        {"updates_per_batch": 2, "ratio_on_all_terms": False, "log_ratio_clamp": 20.0, "teacher_temperature": "one"},
    ),
    "A.3": ({"outcome": "clipped_weight", "clip_high": 0.28, **KL, "reference": "ufkl"}, {"updates_per_batch": 2}),
    "A.3, dual clip, all": (
        {"outcome": "clipped_weight", "dual_clip": 1.2, **KL, "gate": "all", "reference": "rkl"},
        {"updates_per_batch": 2, "normaliser": "sequence"},
    ),
    "RLSD and distillation": (
        {"outcome": "reinforce", "token_weighting": "rlsd", **KL, "reference": "fkl"}, {"normaliser": "constant"},
    ),
    "OPSD": ({"outcome": "none", "distillation": "jsd", "jsd_beta": 0.3, "teacher": "reference", "gate": "all"}, {}),
    "entropy bonus": ({"outcome": "ppo_clip", **KL, "reference": "k3", "entropy_bonus": 0.2}, {"updates_per_batch": 2}),
    "entropy bonus alone": ({"outcome": "reinforce", "entropy_bonus": 0.3}, {}),
    "KL to the student": ({"outcome": "reinforce", "distillation": "kl_teacher_student", "reference": "k3"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shifted_old", [False, True])
def test_other_options_equal_the_independent_implementation(variant: str, shifted_old: bool) -> None:
    values, changes = VARIANTS[variant]
    method = tiny_method(**values)
    experience = tiny_experience(gate_kind=gate_kind(method), shifted_old=shifted_old)
    compare(method, tiny_train(**changes), experience, temperature=0.7)


# --- grouping into micro-batches


def assert_same_columns(found: Accumulated, expected: Accumulated, rel: float, absolute: float) -> None:
    """Every value per token agrees, of the same rollouts."""
    assert found.columns.keys() == expected.columns.keys() >= {"logprob", "entropy", "weight", "loss"}
    for name, column in expected.columns.items():
        assert found.columns[name].rows == column.rows, name
        assert found.columns[name].numbers() == pytest.approx(column.numbers(), rel=rel, abs=absolute)


@functools.cache
def one_row_at_a_time(name: str, normaliser: Any) -> tuple[float, Tensor]:
    train = tiny_train(normaliser=normaliser, tokens_per_micro_batch=1)
    experience = tiny_experience(gate_kind=gate_kind(METHODS[name]))
    return run(tiny_policies(torch.float64), experience, METHODS[name], switched_on(METHODS[name]), train)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_the_gradient_does_not_depend_on_the_micro_batches(name: str, normaliser: Any) -> None:
    policies, method = tiny_policies(torch.float64), METHODS[name]
    experience = tiny_experience(gate_kind=gate_kind(method))
    for budget in (50, 90, 10_000):
        train = tiny_train(normaliser=normaliser, tokens_per_micro_batch=budget)
        assert_close(
            run(policies, experience, method, switched_on(method), train), one_row_at_a_time(name, normaliser), 1e-6
        )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("line_tokens", [30, 1000])
def test_siblings_that_share_their_prompt_have_the_same_gradient(name: str, line_tokens: int) -> None:
    method, at = METHODS[name], switched_on(METHODS[name])
    experience = tiny_experience(gate_kind=gate_kind(method))
    alone, expected = update(tiny_policies(torch.float64), experience, method, at, tiny_train())
    policies = dataclasses.replace(tiny_policies(torch.float64), line_tokens=line_tokens)
    with counted_passes(policies.student) as passes:
        shared, found = update(policies, experience, method, at, tiny_train(tokens_per_micro_batch=200))
    assert_close((shared.loss, found), (alone.loss, expected), 1e-6)
    # Fewer prompts are read than there are responses.
    assert sum(len(one.input_ids) for one in passes.seen if one.with_gradient) < len(alone.columns["logprob"].rows)
    assert_same_columns(shared, alone, 1e-5, 1e-7)


@pytest.mark.parametrize("head_bytes", [1, 2_000, 5_000])
@pytest.mark.parametrize("off_policy", [False, True])
def test_the_gradient_does_not_depend_on_the_memory_of_the_head(head_bytes: int, off_policy: bool) -> None:
    values: dict[str, Any] = {**KL, "reference": "ufkl", "entropy_bonus": 0.1}
    train = tiny_train()
    if off_policy:
        values |= {"outcome": "ppo_clip", "token_weighting": "rlsd"}
        train = tiny_train(updates_per_batch=2)
    method, at = tiny_method(**values), switched_on(tiny_method(**values))
    experience = tiny_experience(shifted_old=off_policy)
    whole, expected = update(tiny_policies(torch.float64), experience, method, at, train)
    small = dataclasses.replace(tiny_policies(torch.float64), head_bytes=head_bytes)
    chunked, found = update(small, experience, method, at, train)
    assert_close((chunked.loss, found), (whole.loss, expected), 1e-12)
    assert_same_columns(chunked, whole, 1e-6, 1e-9)


def test_the_memory_of_the_head_decides_how_many_tokens_are_read_at_once() -> None:
    experience, chunks = tiny_experience(), []
    batch = experience.batch([[row] for row in range(12)], experience.student_prompts, 0, "cpu")

    def token_loss(tokens: Tensor, values: Any) -> Tensor:
        chunks.append(len(tokens))
        return values.logprobs

    for head_bytes, expected in ((1, 1), (2 * 40 * 4 * 7, 7)):
        chunks.clear()
        dataclasses.replace(tiny_policies(), head_bytes=head_bytes).read(tiny_model(), batch, token_loss)
        assert set(chunks[:-1]) == {expected}
        assert sum(chunks) == len(batch.targets)


def test_micro_batches_are_really_different() -> None:
    policies, experience = tiny_policies(), tiny_experience()
    counts = []
    for budget in (1, 50, 90, 10_000):
        with counted_passes(policies.student) as passes:
            run(
                policies,
                experience,
                tiny_method(entropy_bonus=0.1),
                EVERYONE,
                tiny_train(tokens_per_micro_batch=budget),
            )
        counts.append(len(passes.seen))
    assert counts[0] == 12
    assert counts[-1] == 1
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4


def test_mini_batches_are_whole_groups_normalised_on_their_own() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method = tiny_method(**KL, reference="ufkl")
    parts = [run(policies, experience, method, AT, tiny_train(), rows=range(s, s + SIBLINGS)) for s in (0, 4, 8)]
    expected = sum(part[0] for part in parts) / 3, torch.stack([part[1] for part in parts]).mean(0)
    assert_close(run(policies, experience, method, AT, tiny_train()), expected, 1e-6)


def test_gradients_add_up_over_calls() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    _, once = run(policies, experience, tiny_method(), OFF, tiny_train())
    task = Task(policies, experience, tiny_method(), OFF, tiny_train(), MAX_TOKENS, Path("unused.json"))
    accumulate_gradients(task, range(12))
    torch.testing.assert_close(gradients(policies.student), 2 * once)


def test_padding_at_the_right_does_not_reach_the_response() -> None:
    model, prompt, response = tiny_model(5), [5, 6, 7], [8, 9, 1]
    alone = response_logits(model, token_batch([prompt], [response], 0))
    padded = response_logits(model, token_batch([prompt, [3] * 20], [response, [4] * 9], 0))
    other_padding = response_logits(model, token_batch([prompt, [3] * 20], [response, [4] * 9], 17))
    torch.testing.assert_close(padded[:3], alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(padded, other_padding)
    full = model(input_ids=torch.tensor([prompt + response])).logits[0, 2:5]
    torch.testing.assert_close(alone, full, rtol=1e-5, atol=1e-5)


def test_logits_are_divided_by_the_temperature() -> None:
    model, batch = tiny_model(5), token_batch([[5, 6]], [[7, 1]], 0)
    torch.testing.assert_close(response_logits(model, batch, 0.5), 2 * response_logits(model, batch))


def test_the_methods_of_the_parameter_file_are_in_use() -> None:
    """Their schedules switch every term on at some step, so that the comparisons above cover what runs."""
    for method in METHODS.values():
        reached = [coefficients(method, step, 400) for step in range(1, 401)]
        assert any(at.beta > 0 for at in reached) == (method.distillation != "none" and method.beta > 0)
        assert any(at.rlsd_lambda > 0 for at in reached) == (method.token_weighting != "none")
