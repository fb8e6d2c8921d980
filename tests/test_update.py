"""The update against an implementation of its own, from the paper's formulas, one row and one token at a time."""

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import (
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
import torch
from torch import Tensor

from sdpg.batches import token_batch
from sdpg.errors import UserError
from sdpg.experience import Experience, Signals
from sdpg.methods import Coefficients, coefficients
from sdpg.models import response_logits
from sdpg.params import MethodParams, TrainParams, load_params
from sdpg.policies import Policies
from sdpg.update import Task, accumulate_gradients

METHODS = load_params(Path(__file__).parents[1] / "params.yaml").methods
NORMALISERS: list[Any] = ["group", "batch", "sequence", "constant"]
KL: dict[str, Any] = {"distillation": "kl_student_teacher", "beta": 1.0}
AT = Coefficients(alpha=0.3, beta=0.7, rlsd_lambda=0.0)
OFF = Coefficients(alpha=0.0, beta=0.0, rlsd_lambda=0.0)
EVERYONE = dataclasses.replace(OFF, entropy_bonus=0.1)
"""A term that is in every row: without one, rows whose every term is zero are not read."""


def run(
    policies: Policies, experience: Experience, method: MethodParams, at: Coefficients, train: TrainParams,
    rows: range | None = None, signals: Signals | None = None, dump: Path = Path("unused.json"),
) -> tuple[float, Tensor]:  # fmt: skip
    """Loss and gradient of the module under test."""
    policies.student.zero_grad(set_to_none=True)
    everyone = range(len(experience.responses)) if rows is None else rows
    task = Task(policies, experience, method, at, train, MAX_TOKENS, dump)
    loss = accumulate_gradients(task, everyone, signals or Signals())
    return loss, gradients(policies.student)


def switched_on(method: MethodParams) -> Coefficients:
    """Coefficients that give every term of the method a weight that shows."""
    return Coefficients(
        alpha=AT.alpha if method.reference != "none" else 0.0,
        beta=AT.beta if method.distillation != "none" else 0.0,
        rlsd_lambda=0.4 if method.token_weighting == "rlsd" else 0.0,
        entropy_bonus=method.entropy_bonus,
    )


def gate_kind(method: MethodParams) -> str:
    return method.gate if method.distillation != "none" else "positive"


# --- an independent implementation


def plain_log_probs(model: Any, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)


def plain_row(policies: Policies, x: Experience, i: int, m: MethodParams, at: Coefficients, t: TrainParams) -> Tensor:
    """Sum over the tokens of row i."""
    advantage, response = x.advantages[i].item(), x.responses[i]
    log_p = plain_log_probs(policies.student, x.student_prompts[i], response, policies.temperature)
    with torch.no_grad():
        teacher = policies.student if m.teacher == "current" else policies.reference
        teacher_temperature = policies.temperature if t.teacher_temperature == "same" else 1.0
        log_q = plain_log_probs(teacher, x.teacher_prompts[i], response, teacher_temperature)
        log_ref = plain_log_probs(policies.reference, x.student_prompts[i], response, policies.temperature)
    total = torch.zeros((), dtype=log_p.dtype)
    for place, token in enumerate(response):
        lp = log_p[place, token]
        old = lp.detach() if x.old_logprobs is None else x.old_logprobs[i][place]
        log_rho = lp - old
        if t.log_ratio_clamp is not None:
            log_rho = torch.clamp(log_rho, -t.log_ratio_clamp, t.log_ratio_clamp)
        rho = torch.exp(log_rho)

        a = torch.tensor(advantage, dtype=log_p.dtype)
        if m.token_weighting == "rlsd":
            stored = x.teacher_logprobs
            log_q_y = log_q[place, token] if stored is None else stored[i][place]  # type: ignore[index]
            u = torch.exp(torch.sign(a) * (log_q_y - old))
            a = a * ((1 - at.rlsd_lambda) + at.rlsd_lambda * torch.clamp(u, 1 - m.rlsd_clip, 1 + m.rlsd_clip))

        if m.outcome == "reinforce":
            total = total - a * lp
        elif m.outcome != "none":
            bounded = torch.clamp(rho, 1 - m.clip_low, 1 + m.clip_high)
            ell = -torch.minimum(rho * a, bounded * a)
            if advantage < 0 and m.dual_clip is not None:
                ell = torch.minimum(ell, -a * m.dual_clip)
            total = total + (ell if m.outcome == "ppo_clip" else ell.detach() * lp)

        rest = torch.zeros((), dtype=log_p.dtype)
        if m.distillation != "none" and at.beta > 0 and (m.gate == "all" or advantage > 0):
            p, q = torch.softmax(log_p[place], -1), torch.softmax(log_q[place], -1)
            if m.distillation == "kl_student_teacher":
                kl = torch.sum(p * torch.log(p / q))
            elif m.distillation == "kl_teacher_student":
                kl = torch.sum(q * torch.log(q / p))
            else:
                mix = m.jsd_beta * q + (1 - m.jsd_beta) * p
                kl = m.jsd_beta * torch.sum(q * torch.log(q / mix))
                kl = kl + (1 - m.jsd_beta) * torch.sum(p * torch.log(p / mix))
            rest = rest + at.beta * (kl if m.kl_clamp is None or kl < m.kl_clamp else kl.detach() * 0 + m.kl_clamp)
        if m.reference != "none" and m.reference_in == "loss":
            w = torch.exp(lp - log_ref[place, token])
            term = {
                "ufkl": 1 / w + torch.log(w),
                "urkl": 0.5 * torch.log(w) ** 2,
                "fkl": 1 / w,
                "rkl": 0.5 * (torch.log(w) + 1) ** 2,
                "k3": 1 / w - 1 + torch.log(w),
            }[m.reference]
            rest = rest + at.alpha * term
        if m.entropy_bonus:
            rest = rest + at.entropy_bonus * torch.sum(log_p[place].exp() * log_p[place])
        if t.updates_per_batch > 1 and t.ratio_on_all_terms:
            rest = rest * rho.detach()
        total = total + rest
    return total


def plain_loss(policies: Policies, x: Experience, m: MethodParams, at: Coefficients, t: TrainParams) -> Tensor:
    sums = [plain_row(policies, x, i, m, at, t) for i in range(len(x.responses))]
    lengths = [len(response) for response in x.responses]
    count = len(sums)
    if t.normaliser == "group":
        groups = [range(start, start + SIBLINGS) for start in range(0, count, SIBLINGS)]
        means = [sum(sums[i] for i in group) / sum(lengths[i] for i in group) for group in groups]
        return sum(means) / len(means)  # type: ignore[return-value]
    if t.normaliser == "batch":
        return sum(sums) / sum(lengths)  # type: ignore[return-value]
    if t.normaliser == "sequence":
        return sum(s / length for s, length in zip(sums, lengths, strict=True)) / count  # type: ignore[return-value]
    return sum(sums) / (count * MAX_TOKENS)  # type: ignore[return-value]


def assert_close(found: tuple[float, Tensor], expected: tuple[float, Tensor], tolerance: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    assert expected[1].norm() > 1e-3
    assert (found[1] - expected[1]).norm() / expected[1].norm() < tolerance


def compare(method: MethodParams, train: TrainParams, experience: Experience, temperature: float = 1.0) -> None:
    policies, at = tiny_policies(torch.float64, temperature), switched_on(method)
    loss = plain_loss(policies, experience, method, at, train)
    loss.backward()
    expected = loss.item(), gradients(policies.student)
    assert_close(run(policies, experience, method, at, train), expected, 1e-6)


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


@pytest.mark.parametrize("head_bytes", [1, 2_000, 5_000])
@pytest.mark.parametrize("off_policy", [False, True])
def test_the_gradient_does_not_depend_on_the_memory_of_the_head(head_bytes: int, off_policy: bool) -> None:
    values: dict[str, Any] = {**KL, "reference": "ufkl", "entropy_bonus": 0.1}
    train = tiny_train()
    if off_policy:
        values |= {"outcome": "ppo_clip", "token_weighting": "rlsd"}
        train = tiny_train(updates_per_batch=2)
    method, signals = tiny_method(**values), Signals()
    experience, at = tiny_experience(shifted_old=off_policy), switched_on(method)
    expected = run(tiny_policies(torch.float64), experience, method, at, train)
    small = dataclasses.replace(tiny_policies(torch.float64), head_bytes=head_bytes)
    assert_close(run(small, experience, method, at, train, signals=signals), expected, 1e-12)
    assert all(len(values) == len(experience.responses[row]) for row, values in signals.loss.items())


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
    accumulate_gradients(task, range(12), Signals())
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


# --- which passes are made


def padded_prompts(experience: Experience, rows: list[int]) -> list[list[int]]:
    return sorted(experience.teacher_prompts[i] + experience.responses[i] for i in rows)


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
    read = sorted(experience.student_prompts[i] + experience.responses[i] for i in trained)
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
    expected = sorted(p + r for p, r in zip(experience.student_prompts, experience.responses, strict=True))
    assert without_padding(passes.prompts(False)) == expected


@pytest.mark.parametrize(
    ("values", "alpha"), [({"reference": "urkl"}, 0.0), ({"reference": "k3", "reference_in": "reward"}, 0.1), ({}, 0.0)]
)
def test_the_reference_is_not_run_where_no_term_reads_it(values: dict[str, Any], alpha: float) -> None:
    policies = dataclasses.replace(tiny_policies(), reference=None)
    run(policies, tiny_experience(), tiny_method(**values), Coefficients(alpha, 0.0, 0.0), tiny_train())


def test_rows_without_any_term_are_not_read_but_count_in_the_normaliser() -> None:
    policies, experience, signals = tiny_policies(torch.float64), tiny_experience(), Signals()
    method, at = tiny_method(**KL), dataclasses.replace(AT, alpha=0.0)
    with counted_passes(policies.student) as passes:
        found = run(policies, experience, method, at, tiny_train(), signals=signals)
    uniform = [experience.student_prompts[i] + experience.responses[i] for i in range(4, 8)]
    assert not [row for row in without_padding(passes.prompts(True) + passes.prompts(False)) if row in uniform]
    assert sorted(signals.logprob) == [0, 1, 2, 3, 8, 9, 10, 11]
    expected = plain_loss(policies, experience, method, at, tiny_train())
    policies.student.zero_grad()
    expected.backward()
    assert_close(found, (expected.item(), gradients(policies.student)), 1e-6)


# --- limiting cases


@pytest.mark.parametrize("rewards", [[[-1.0] * 4, [-1.0] * 4], [[1.0] * 4, [-1.0] * 4]])
def test_with_every_gate_closed_nothing_is_distilled(rewards: list[list[float]]) -> None:
    policies, experience, signals = tiny_policies(torch.float64), tiny_experience(rewards), Signals()
    with counted_passes(policies.student) as passes:
        found = run(policies, experience, tiny_method(**KL, reference="ufkl"), AT, tiny_train(), signals=signals)
    assert passes.prompts(with_gradient=False) == []
    assert signals.mean("kl_gated") is None
    assert found[0] == found[0] != 0
    alone = run(policies, experience, tiny_method(reference="ufkl"), dataclasses.replace(AT, beta=0.0), tiny_train())
    assert found[0] == alone[0]
    assert torch.equal(found[1], alone[1])
    # The groups are uniform: the reference term is all there is.
    only_reference = run(policies, experience, tiny_method(reference="ufkl"), Coefficients(0.6, 0, 0), tiny_train())
    assert only_reference[0] == pytest.approx(2 * found[0])


def test_negative_advantages_alone_close_the_gate() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    experience.advantages = -experience.advantages.abs()
    experience.gates = torch.zeros_like(experience.gates)
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


def test_signals_hold_one_value_per_token_of_the_right_row() -> None:
    policies, experience, signals = tiny_policies(torch.float64), tiny_experience(), Signals()
    method = tiny_method(**KL, reference="ufkl")
    loss, _ = run(policies, experience, method, AT, tiny_train(), signals=signals)
    assert sum(value for row in signals.loss.values() for value in row) == pytest.approx(loss, rel=1e-5)
    with torch.no_grad():
        for i, response in enumerate(experience.responses):
            log_p = plain_log_probs(policies.student, experience.student_prompts[i], response, 1.0)
            log_ref = plain_log_probs(policies.reference, experience.student_prompts[i], response, 1.0)
            tokens = range(len(response))
            assert signals.logprob[i] == pytest.approx([log_p[t, response[t]].item() for t in tokens], abs=1e-5)
            assert signals.ref_logprob[i] == pytest.approx([log_ref[t, response[t]].item() for t in tokens], abs=1e-5)
            entropies = [-(row.exp() * row).sum().item() for row in log_p]
            assert signals.entropy[i] == pytest.approx(entropies, abs=1e-5)
            if i in (0, 2, 11):
                log_q = plain_log_probs(policies.student, experience.teacher_prompts[i], response, 1.0)
                expected = (log_p.exp() * (log_p - log_q)).sum(-1).tolist()
                assert signals.kl_gated[i] == pytest.approx(expected, abs=1e-5)
    assert sorted(signals.kl_gated) == [0, 2, 11]
    assert signals.mean("ratio") == signals.mean("weight") == 1
    assert signals.mean("clipped") == 0


def test_sampled_logprobs_are_those_of_the_update() -> None:
    policies, experience, signals = tiny_policies(torch.float64, 0.7), tiny_experience(), Signals()
    run(policies, experience, tiny_method(), EVERYONE, tiny_train(), signals=signals)
    rows = [1, 7, 4]
    found = policies.sampled_logprobs(policies.student, experience, rows, experience.student_prompts, 50)
    assert sorted(found) == sorted(rows)
    for row in rows:
        assert found[row].tolist() == pytest.approx(signals.logprob[row], abs=1e-6)


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
    # The micro-batch at fault, here that of the rows that the teacher reads.
    assert len(rows) == 3
    assert all(len(row[expected[poison]]) == len(row["response_ids"]) for row in rows)
    if poison in ("advantage", "old_logprob"):
        assert [row["problem_id"] for row in bad] == ["problem-2"]
        assert bad[0]["response_ids"] == experience.responses[11]
        assert bad[0]["student_prompt_ids"] == experience.student_prompts[11]


def test_finite_terms_leave_no_dump(tmp_path: Path) -> None:
    run(tiny_policies(), tiny_experience(), tiny_method(**KL), AT, tiny_train(), dump=tmp_path / "dump.json")
    assert list(tmp_path.iterdir()) == []


def test_the_methods_of_the_parameter_file_are_in_use() -> None:
    """Their schedules switch every term on at some step, so that the comparisons above cover what runs."""
    for method in METHODS.values():
        reached = [coefficients(method, step, 400) for step in range(1, 401)]
        assert any(at.beta > 0 for at in reached) == (method.distillation != "none" and method.beta > 0)
        assert any(at.rlsd_lambda > 0 for at in reached) == (method.token_weighting == "rlsd")
