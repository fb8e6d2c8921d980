"""Tests the forward passes that an update makes, its limiting cases, and the values that it passes on."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpg.errors import UserError
from sdpg.models.experience import Experience
from sdpg.objective.coefficients import Coefficients
from tests.helpers.plain_update import (
    AT,
    EVERYONE,
    KL,
    OFF,
    assert_close,
    lists,
    plain_log_probs,
    plain_loss,
    run,
    switched_on,
    update,
)
from tests.helpers.tiny import (
    counted_passes,
    gradients,
    tiny_experience,
    tiny_method,
    tiny_policies,
    tiny_train,
)

# --- which passes are made


def padded_prompts(experience: Experience, rows: list[int]) -> list[list[int]]:
    """Without the last token, whose state predicts nothing that is asked for."""
    return sorted(experience.teacher_prompts[i] + experience.responses[i][:-1] for i in rows)


def without_padding(rows: list[list[int]]) -> list[list[int]]:
    return sorted([token for token in row if token != 0] for row in rows)


@pytest.mark.parametrize(
    ("values", "gate", "expected"),
    [
        ({**KL}, "positive", [0, 2, 11]),
        ({**KL}, "all", list(range(12))),
        ({"token_weighting": "rlsd"}, "positive", [0, 1, 2, 3, 8, 9, 10, 11]),
        ({}, "positive", []),
    ],
    ids=["gate", "no gate", "rlsd", "no teacher"],
)
def test_the_teacher_reads_only_the_rows_that_the_loss_needs(
    values: dict[str, Any], gate: str, expected: list[int]
) -> None:
    policies, experience = tiny_policies(), tiny_experience(gate_kind=gate)
    method = tiny_method(**values)
    with counted_passes(policies.student) as passes, counted_passes(policies.reference) as of_reference:
        run(policies, experience, method, switched_on(method), tiny_train())
    assert without_padding(passes.prompts(with_gradient=False)) == padded_prompts(experience, expected)
    # The uniform group, rows 4 to 7, has no term at all unless it is distilled.
    trained = range(12) if gate == "all" else [0, 1, 2, 3, 8, 9, 10, 11]
    read = sorted(experience.student_prompts[i] + experience.responses[i][:-1] for i in trained)
    assert without_padding(passes.prompts(with_gradient=True)) == read
    assert of_reference.seen == []


def test_rlsd_does_not_ask_the_teacher_again_where_its_log_probs_are_stored() -> None:
    policies, experience = tiny_policies(), tiny_experience(shifted_old=True)
    method = tiny_method(outcome="ppo_clip", token_weighting="rlsd")
    with counted_passes(policies.student) as passes:
        run(policies, experience, method, switched_on(method), tiny_train(updates_per_batch=2))
    assert passes.prompts(with_gradient=False) == []


def test_no_teacher_pass_where_beta_is_zero() -> None:
    policies, experience = tiny_policies(), tiny_experience(gate_kind="all")
    with counted_passes(policies.student) as passes:
        run(policies, experience, tiny_method(**KL), OFF, tiny_train())
    assert passes.prompts(with_gradient=False) == []


def test_a_frozen_teacher_is_the_reference() -> None:
    policies, experience = tiny_policies(), tiny_experience()
    with counted_passes(policies.student) as passes, counted_passes(policies.reference) as of_reference:
        run(policies, experience, tiny_method(**KL, teacher="reference"), Coefficients(0.0, 0.5, 0.0), tiny_train())
    assert passes.prompts(with_gradient=False) == []
    assert without_padding(of_reference.prompts(False)) == padded_prompts(experience, [0, 2, 11])


def test_the_reference_reads_student_prompts_where_the_loss_has_its_term() -> None:
    policies, experience = tiny_policies(), tiny_experience()
    with counted_passes(policies.reference) as passes:
        run(policies, experience, tiny_method(reference="urkl"), Coefficients(0.1, 0.0, 0.0), tiny_train())
    expected = sorted(p + r[:-1] for p, r in zip(experience.student_prompts, experience.responses, strict=True))
    assert without_padding(passes.prompts(False)) == expected


@pytest.mark.parametrize(
    ("values", "alpha"), [({"reference": "urkl"}, 0.0), ({"reference": "k3", "reference_in": "reward"}, 0.1), ({}, 0.0)]
)
def test_the_reference_is_not_run_where_no_term_reads_it(values: dict[str, Any], alpha: float) -> None:
    policies = dataclasses.replace(tiny_policies(), reference=None)
    run(policies, tiny_experience(), tiny_method(**values), Coefficients(alpha, 0.0, 0.0), tiny_train())


def test_rows_without_any_term_are_not_read_but_count_in_the_normaliser() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method, at = tiny_method(**KL), dataclasses.replace(AT, alpha=0.0)
    with counted_passes(policies.student) as passes:
        accumulated, gradient = update(policies, experience, method, at, tiny_train())
    uniform = [experience.student_prompts[i] + experience.responses[i][:-1] for i in range(4, 8)]
    assert not [row for row in without_padding(passes.prompts(True) + passes.prompts(False)) if row in uniform]
    assert accumulated.columns["logprob"].rows == [0, 1, 2, 3, 8, 9, 10, 11]
    expected = plain_loss(policies, experience, method, at, tiny_train())
    policies.student.zero_grad()
    expected.backward()
    assert_close((accumulated.loss, gradient), (expected.item(), gradients(policies.student)), 1e-6)


# --- limiting cases


@pytest.mark.parametrize("rewards", [[[-1.0] * 4, [-1.0] * 4], [[1.0] * 4, [-1.0] * 4]])
def test_with_every_gate_closed_nothing_is_distilled(rewards: list[list[float]]) -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience(rewards)
    with counted_passes(policies.student) as passes:
        accumulated, gradient = update(policies, experience, tiny_method(**KL, reference="ufkl"), AT, tiny_train())
    found = accumulated.loss, gradient
    assert passes.prompts(with_gradient=False) == []
    assert accumulated.columns["kl_gated"].mean() is None
    assert found[0] == found[0] != 0
    alone = run(policies, experience, tiny_method(reference="ufkl"), dataclasses.replace(AT, beta=0.0), tiny_train())
    assert found[0] == alone[0]
    assert torch.equal(found[1], alone[1])
    # The groups are uniform: the reference term is all there is.
    only_reference = run(policies, experience, tiny_method(reference="ufkl"), Coefficients(0.6, 0, 0), tiny_train())
    assert only_reference[0] == pytest.approx(2 * found[0])


def test_negative_advantages_alone_close_the_gate() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    experience = dataclasses.replace(
        experience, advantages=-experience.advantages.abs(), gates=torch.zeros_like(experience.gates)
    )
    found = run(policies, experience, tiny_method(**KL), AT, tiny_train())
    alone = run(policies, experience, tiny_method(), OFF, tiny_train())
    assert found[0] == alone[0]
    assert torch.equal(found[1], alone[1])


def test_a_micro_batch_may_have_nothing_to_learn_from() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method = tiny_method(outcome="none", **KL)
    expected = run(policies, experience, method, AT, tiny_train(tokens_per_micro_batch=10_000))
    assert_close(run(policies, experience, method, AT, tiny_train(tokens_per_micro_batch=1)), expected, 1e-6)
    loss, gradient = run(policies, experience, method, OFF, tiny_train())  # β(T) = 0
    assert loss == gradient.abs().max() == 0


def test_uniform_groups_without_other_terms_have_no_gradient() -> None:
    policies = tiny_policies()
    loss, gradient = run(policies, tiny_experience([[1.0] * 4]), tiny_method(), OFF, tiny_train())
    assert loss == 0
    assert gradient.abs().max() == 0


def test_rlsd_with_lambda_zero_is_grpo() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    at = Coefficients(0.1, 0.0, 0.0)
    rlsd = tiny_method(outcome="ppo_clip", token_weighting="rlsd", reference="k3")
    grpo = tiny_method(outcome="ppo_clip", reference="k3")
    one, other = (run(policies, experience, method, at, tiny_train()) for method in (rlsd, grpo))
    assert one[0] == other[0]
    assert torch.equal(one[1], other[1])


def test_on_policy_the_three_outcome_terms_have_one_gradient() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    kinds = ["reinforce", "ppo_clip", "clipped_weight"]
    found = [run(policies, experience, tiny_method(outcome=kind), OFF, tiny_train())[1] for kind in kinds]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_teacher_gets_no_gradient_though_it_has_the_weights_of_the_student() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method, at = tiny_method(outcome="none", **KL), Coefficients(0.0, 1.0, 0.0)
    expected = run(policies, experience, method, at, tiny_train())
    frozen = dataclasses.replace(policies, reference=copy.deepcopy(policies.student).requires_grad_(False))
    found = run(frozen, experience, tiny_method(outcome="none", **KL, teacher="reference"), at, tiny_train())
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])


# --- what is handed on


def test_columns_hold_one_value_per_token_of_the_right_row() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method = tiny_method(**KL, reference="ufkl")
    accumulated, _ = update(policies, experience, method, AT, tiny_train())
    columns = lists(accumulated)
    assert sum(accumulated.columns["loss"].numbers()) == pytest.approx(accumulated.loss, rel=1e-5)
    with torch.no_grad():
        for i, response in enumerate(experience.responses):
            log_p = plain_log_probs(policies.student, experience.student_prompts[i], response, 1.0)
            log_ref = plain_log_probs(policies.reference, experience.student_prompts[i], response, 1.0)
            tokens = range(len(response))
            assert columns["logprob"][i] == pytest.approx([log_p[t, response[t]].item() for t in tokens], abs=1e-5)
            assert columns["ref_logprob"][i] == pytest.approx(
                [log_ref[t, response[t]].item() for t in tokens], abs=1e-5
            )
            entropies = [-(row.exp() * row).sum().item() for row in log_p]
            assert columns["entropy"][i] == pytest.approx(entropies, abs=1e-5)
            if i in (0, 2, 11):
                log_q = plain_log_probs(policies.student, experience.teacher_prompts[i], response, 1.0)
                expected = (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
                assert columns["kl_gated"][i] == pytest.approx(expected, abs=1e-5)
    assert accumulated.columns["kl_gated"].rows == [0, 2, 11]
    assert accumulated.columns["ratio"].mean() == accumulated.columns["weight"].mean() == 1
    assert accumulated.columns["clipped"].mean() == 0


def test_sampled_logprobs_are_those_of_the_update() -> None:
    policies, experience = tiny_policies(torch.float64, 0.7), tiny_experience()
    trained = lists(update(policies, experience, tiny_method(), EVERYONE, tiny_train())[0])["logprob"]
    rows = [1, 7, 4]
    found = policies.sampled_logprobs(policies.student, experience, rows, experience.student_prompts, 50)
    assert sorted(found) == sorted(rows)
    for row in rows:
        assert found[row].tolist() == pytest.approx(trained[row], abs=1e-6)
    found = policies.sampled_logprobs(policies.student, experience, [4], experience.teacher_prompts, 50, 1.0)
    response = experience.responses[4]
    log_q = plain_log_probs(policies.student, experience.teacher_prompts[4], response, 1.0)
    assert found[4].tolist() == pytest.approx([log_q[t, token].item() for t, token in enumerate(response)])


def test_the_distillation_of_gated_rows_is_kept_apart_from_rows_that_only_rlsd_reads() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method = tiny_method(token_weighting="rlsd", **KL)
    gated = lists(update(policies, experience, method, switched_on(method), tiny_train())[0])["kl_gated"]
    assert sorted(gated) == [0, 2, 11]
    with torch.no_grad():
        for i, found in gated.items():
            log_p, log_q = (
                plain_log_probs(policies.student, prompts[i], experience.responses[i], 1.0)
                for prompts in (experience.student_prompts, experience.teacher_prompts)
            )
            assert found == pytest.approx((log_p.exp() * (log_p - log_q)).sum(-1).tolist(), abs=1e-5)


# --- values that are not finite


@pytest.mark.parametrize("poison", ["advantage", "old_logprob", "teacher", "reference"])
def test_a_term_that_is_not_finite_stops_the_update_and_is_written_out(poison: str, tmp_path: Path) -> None:
    policies, experience, dump = tiny_policies(), tiny_experience(shifted_old=True), tmp_path / "dump.json"
    values: dict[str, Any] = {"outcome": "ppo_clip", **KL, "reference": "ufkl"}
    expected = {"advantage": "outcome", "old_logprob": "ratio", "teacher": "distillation", "reference": "reference"}
    if poison == "advantage":
        experience.advantages[11] = float("nan")
    elif poison == "old_logprob":
        assert experience.old_logprobs is not None
        experience.old_logprobs[11][0] = -float("inf")
        values = {"outcome": "none", **KL}
    else:
        next(policies.reference.parameters()).data[5] = float("nan")
    if poison == "teacher":
        values |= {"teacher": "reference"}
    with pytest.raises(UserError) as error:
        run(policies, experience, tiny_method(**values), AT, tiny_train(tokens_per_micro_batch=10_000), dump=dump)
    assert repr(expected[poison]) in str(error.value)
    assert str(dump) in str(error.value)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    rows = json.loads(dump.read_text(), parse_constant=refuse)
    bad = [row for row in rows if "nan" in row[expected[poison]] or "inf" in row[expected[poison]]]
    assert bad
    # Where distillation is all there is, only the rows with an open gate are read.
    assert len(rows) == (3 if poison == "old_logprob" else 12)
    assert all(len(row[expected[poison]]) == len(row["response_ids"]) for row in rows)
    if poison in ("advantage", "old_logprob"):
        assert [row["problem_id"] for row in bad] == ["problem-2"]
        assert bad[0]["response_ids"] == experience.responses[11]
        assert bad[0]["student_prompt_ids"] == experience.student_prompts[11]


def test_finite_terms_leave_no_dump(tmp_path: Path) -> None:
    run(tiny_policies(), tiny_experience(), tiny_method(**KL), AT, tiny_train(), dump=tmp_path / "dump.json")
    assert list(tmp_path.iterdir()) == []
