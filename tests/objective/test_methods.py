"""Tests methods as a whole: coefficients, the rows that are read, and the loss per token by hand."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from sdpg.objective.coefficients import Coefficients, coefficients, is_trained, reads_reference, reads_teacher
from sdpg.objective.methods import TokenInputs, token_losses
from sdpg.objective.responses import Responses
from sdpg.params.method import SAMPLED
from tests.helpers.tiny import tiny_method, tiny_train

LN2 = math.log(2)
SDPG: dict[str, Any] = {
    "distillation": "kl_student_teacher", "teacher": "current", "gate": "positive", "beta": 1.0,
    "beta_warmup": 0.125, "beta_decay": 0.875, "reference": "ufkl", "reference_in": "loss", "alpha": 1e-3,
}  # fmt: skip
RLSD: dict[str, Any] = {"outcome": "ppo_clip", "token_weighting": "rlsd", "rlsd_lambda": 0.5, "rlsd_clip": 0.2}


def token_inputs(advantages: list[float], gates: list[float], seed: int = 0) -> TokenInputs:
    """Random values per token; the three that carry a gradient are leaves."""
    generator = torch.Generator().manual_seed(seed)
    count = len(advantages)

    def random(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    logprobs = random(-3.0, -0.1).requires_grad_()
    return TokenInputs(
        logprobs=logprobs,
        entropy=random(0.1, 1.5).requires_grad_(),
        divergence=random(0.0, 2.0).requires_grad_(),
        old_logprobs=logprobs.detach() + random(-0.4, 0.4),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        gates=torch.tensor(gates, dtype=torch.float64),
        ref_logprobs=random(-3.0, -0.1),
        gain_logprobs=logprobs.detach(),
        gain_teacher_logprobs=None,
        teacher_logprobs=random(-3.0, -0.1),
        teacher_entropy=random(0.1, 1.5),
        responses=Responses.of(torch.tensor([count])),
    )


def leaves(inputs: TokenInputs) -> list[torch.Tensor]:
    return [inputs.logprobs, inputs.entropy, inputs.divergence]


def test_coefficients_of_the_paper() -> None:
    method = tiny_method(**SDPG | {"beta": 1e-3})
    # 400 steps: windows of 50 and 350
    assert coefficients(method, 1, 400) == Coefficients(1e-3, pytest.approx(2e-5), 0.0)
    assert coefficients(method, 50, 400) == Coefficients(1e-3, pytest.approx(1e-3), 0.0)
    assert coefficients(method, 225, 400) == Coefficients(1e-3, pytest.approx(5e-4), 0.0)
    assert coefficients(method, 400, 400) == Coefficients(1e-3, 0.0, 0.0)


def test_coefficients_of_rlsd_and_of_absent_terms() -> None:
    rlsd = tiny_method(**RLSD, rlsd_decay=0.125)
    assert [coefficients(rlsd, step, 400).rlsd_lambda for step in (10, 50)] == pytest.approx([0.4, 0.0])
    assert coefficients(tiny_method(), 10, 400) == Coefficients(0.0, 0.0, 0.0)


def test_the_reference_is_needed_by_a_term_in_the_loss_with_a_coefficient() -> None:
    on = Coefficients(1e-3, 0.0, 0.0)
    assert reads_reference(tiny_method(reference="k3"), on)
    assert not reads_reference(tiny_method(reference="k3"), Coefficients(0.0, 1.0, 1.0))
    assert not reads_reference(tiny_method(reference="k1", reference_in="reward"), on)
    assert not reads_reference(tiny_method(), on)


def test_teacher_rows_are_those_that_a_term_reads() -> None:
    advantages, method = [1.0, 0.0, -1.0], tiny_method(**SDPG)

    def rows(beta: float, rlsd_lambda: float, gates: tuple[float, ...] = (1.0, 0.0, 0.0)) -> list[bool]:
        at = Coefficients(0.0, beta, rlsd_lambda)
        return [reads_teacher(method, at, *each) for each in zip(advantages, gates, strict=True)]

    assert rows(0.0, 0.0) == [False, False, False]
    assert rows(0.5, 0.0) == [True, False, False]
    assert rows(0.5, 0.0, (1.0, 1.0, 1.0)) == [True, True, True]
    assert rows(0.0, 0.5) == [True, False, True]  # an advantage of 0 stays 0 under any weight
    assert rows(0.5, 0.5) == [True, False, True]


def test_trained_rows_are_those_with_a_term() -> None:
    credit = list(zip([1.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 1.0], strict=True))

    def rows(at: Coefficients, **values: Any) -> list[bool]:
        return [is_trained(tiny_method(**values), at, *each) for each in credit]

    off, distilled = Coefficients(0.0, 0.0, 0.0), {"distillation": "kl_student_teacher"}
    assert rows(off) == [True, False, True, False]
    assert rows(dataclasses.replace(off, rlsd_lambda=0.5), **RLSD) == [True, False, True, False]
    assert rows(dataclasses.replace(off, beta=0.5), **distilled) == [True, False, True, True]
    assert rows(dataclasses.replace(off, beta=0.5), outcome="none", **distilled) == [True, False, False, True]
    assert rows(off, outcome="none", **distilled) == [False] * 4
    assert rows(dataclasses.replace(off, alpha=0.1), reference="k3") == [True] * 4
    assert rows(dataclasses.replace(off, alpha=0.1), reference="k3", reference_in="reward") == [
        True, False, True, False,
    ]  # fmt: skip
    assert rows(dataclasses.replace(off, entropy_bonus=0.1)) == [True] * 4
    assert [is_trained(tiny_method(), off, advantage, 0.0) for advantage in (math.nan, 0.0)] == [True, False]


def test_token_losses_by_hand() -> None:
    half, quarter = math.log(0.5), math.log(0.25)
    inputs = TokenInputs(
        logprobs=torch.tensor([half, quarter], dtype=torch.float64),
        entropy=torch.tensor([LN2, 0.3], dtype=torch.float64),
        divergence=torch.tensor([0.25, 0.5], dtype=torch.float64),
        old_logprobs=torch.tensor([half, quarter], dtype=torch.float64),
        advantages=torch.tensor([2.0, -1.0], dtype=torch.float64),
        gates=torch.tensor([1.0, 0.0], dtype=torch.float64),
        ref_logprobs=torch.tensor([quarter, quarter], dtype=torch.float64),
        gain_logprobs=torch.tensor([half, quarter], dtype=torch.float64),
        gain_teacher_logprobs=None,
        teacher_logprobs=torch.full((2,), math.nan, dtype=torch.float64),
        teacher_entropy=torch.full((2,), math.nan, dtype=torch.float64),
        responses=Responses.of(torch.tensor([1, 1])),
    )
    terms = token_losses(tiny_method(**SDPG), Coefficients(0.1, 0.5, 0.0), tiny_train(), inputs)
    assert terms.outcome.tolist() == pytest.approx([2 * LN2, -2 * LN2])
    assert terms.distillation.tolist() == [0.25, 0.0]
    assert terms.reference.tolist() == pytest.approx([0.5 + LN2, 1.0])
    total = [2 * LN2 + 0.5 * 0.25 + 0.1 * (0.5 + LN2), -2 * LN2 + 0.1]
    assert terms.total.tolist() == pytest.approx(total)
    assert terms.ratio.tolist() == terms.weight.tolist() == [1.0, 1.0]
    assert terms.clipped.tolist() == [False, False]
    bonus = token_losses(tiny_method(**SDPG), Coefficients(0.1, 0.5, 0.0, 0.2), tiny_train(), inputs)
    assert bonus.total.tolist() == pytest.approx([total[0] - 0.2 * LN2, total[1] - 0.2 * 0.3])


def test_kl_clamp_bounds_the_value_and_stops_the_gradient() -> None:
    inputs = token_inputs([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    at, values = Coefficients(0.0, 1.0, 0.0), inputs.divergence
    bound = values.median().item()
    clamped = token_losses(tiny_method(**SDPG, kl_clamp=bound), at, tiny_train(), inputs).distillation
    assert clamped.tolist() == pytest.approx([min(value, bound) for value in values.tolist()])
    (slopes,) = torch.autograd.grad(clamped.sum(), inputs.divergence)
    assert (slopes == 0).tolist() == (values > bound).tolist()


def test_the_gate_multiplies_the_distillation() -> None:
    inputs = token_inputs([1.0] * 4, [0.0, 1.0, 0.0, 0.5])
    terms = token_losses(tiny_method(**SDPG), Coefficients(0.0, 1.0, 0.0), tiny_train(), inputs)
    torch.testing.assert_close(terms.distillation, inputs.gates * inputs.divergence)


@pytest.mark.parametrize("outcome", ["reinforce", "ppo_clip", "clipped_weight"])
def test_off_policy_the_ratio_multiplies_the_other_terms_but_carries_no_gradient(outcome: str) -> None:
    """A.3."""
    inputs = token_inputs([1.0, -1.0, 0.5], [1.0, 0.0, 1.0])
    method, at = tiny_method(**SDPG | {"outcome": outcome}), Coefficients(0.3, 0.7, 0.0, 0.2)
    ratio = (inputs.logprobs - inputs.old_logprobs).exp().detach()
    terms = token_losses(method, at, tiny_train(updates_per_batch=2), inputs)
    others = 0.7 * terms.distillation + 0.3 * terms.reference - 0.2 * inputs.entropy
    expected = terms.outcome + ratio * others
    torch.testing.assert_close(terms.total, expected)
    found = torch.autograd.grad(terms.total.sum(), leaves(inputs), retain_graph=True)
    wanted = torch.autograd.grad(expected.sum(), leaves(inputs), retain_graph=True)
    torch.testing.assert_close(found, wanted)

    for train in (tiny_train(updates_per_batch=2, ratio_on_all_terms=False), tiny_train(updates_per_batch=1)):
        terms = token_losses(method, at, train, inputs)
        torch.testing.assert_close(terms.total, terms.outcome + others)


def test_clipped_marks_the_tokens_whose_ratio_was_cut() -> None:
    inputs = token_inputs([1.0, 1.0, -1.0, -1.0, 0.0, 1.0], [0.0] * 6)
    shift = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.5, 0.1], dtype=torch.float64)
    inputs = dataclasses.replace(inputs, old_logprobs=inputs.logprobs.detach() - shift)
    method, at = tiny_method(outcome="ppo_clip"), Coefficients(0.0, 0.0, 0.0)
    terms = token_losses(method, at, tiny_train(), inputs)
    assert terms.clipped.tolist() == [True, False, False, True, False, False]
    torch.testing.assert_close(terms.ratio, shift.exp())


def test_the_clamp_of_the_log_ratio_reaches_the_loss() -> None:
    inputs = token_inputs([-1.0, -1.0], [0.0, 0.0])
    inputs = dataclasses.replace(inputs, old_logprobs=inputs.logprobs.detach() - torch.tensor([3.0, 1.0]))
    train = tiny_train(log_ratio_clamp=2.0)
    terms = token_losses(tiny_method(outcome="ppo_clip"), Coefficients(0.0, 0.0, 0.0), train, inputs)
    assert terms.total.tolist() == pytest.approx([math.exp(2), math.exp(1)])


def test_rlsd_weights_the_advantage_before_clipping() -> None:
    inputs = token_inputs([1.0, -1.0, 0.0], [0.0] * 3)
    inputs = dataclasses.replace(
        inputs,
        old_logprobs=inputs.logprobs.detach() - math.log(1.5),
        gain_teacher_logprobs=inputs.gain_logprobs + math.log(1.1),
    )
    terms = token_losses(tiny_method(**RLSD), Coefficients(0.0, 0.0, 0.5), tiny_train(), inputs)
    weights = [1.05, 0.5 + 0.5 / 1.1, 1.0]
    assert terms.weight.tolist() == pytest.approx(weights)
    assert terms.outcome.tolist() == pytest.approx([-1.2 * weights[0], 1.5 * weights[1], 0.0])


def assert_same_loss(one: tuple[Any, Coefficients], other: tuple[Any, Coefficients], inputs: TokenInputs) -> None:
    """Equal to the last bit, gradients too."""
    found = []
    for method, at in (one, other):
        total = token_losses(method, at, tiny_train(updates_per_batch=2), inputs).total
        slopes = torch.autograd.grad(total.sum(), leaves(inputs), retain_graph=True, materialize_grads=True)
        found.append((total, *slopes))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_rlsd_with_lambda_zero_is_grpo() -> None:
    inputs = token_inputs([1.0, -1.0, 0.0, 0.3], [1.0, 0.0, 0.0, 1.0])
    grpo = tiny_method(outcome="ppo_clip", reference="k3", alpha=0.1)
    rlsd = tiny_method(**RLSD, reference="k3", alpha=0.1)
    at = Coefficients(0.1, 0.0, 0.0)
    assert_same_loss((rlsd, at), (grpo, at), inputs)
    # and so it is where λ = 0 although the teacher was asked
    asked = dataclasses.replace(inputs, gain_teacher_logprobs=inputs.gain_logprobs - 1)
    assert_same_loss((rlsd, at), (grpo, at), asked)


def test_sdpg_with_beta_zero_is_reinforce_with_a_reference() -> None:
    inputs = token_inputs([1.0, -1.0, 0.0, 0.3], [1.0, 0.0, 0.0, 1.0])
    plain = tiny_method(reference="ufkl", alpha=0.1)
    at = Coefficients(0.1, 0.0, 0.0)
    assert_same_loss((tiny_method(**SDPG), at), (plain, at), inputs)


def test_sdpg_with_alpha_zero_is_sdpg_without_a_reference() -> None:
    inputs = token_inputs([1.0, -1.0, 0.0, 0.3], [1.0, 0.0, 0.0, 1.0])
    without = tiny_method(**{k: v for k, v in SDPG.items() if k not in ("reference", "reference_in", "alpha")})
    at = Coefficients(0.0, 0.5, 0.0)
    assert_same_loss((tiny_method(**SDPG), at), (without, at), inputs)


def test_a_uniform_group_with_the_gate_closed_has_the_reference_term_only() -> None:
    inputs = token_inputs([0.0] * 3, [0.0] * 3)
    terms = token_losses(tiny_method(**SDPG), Coefficients(0.1, 0.5, 0.0), tiny_train(), inputs)
    assert terms.outcome.tolist() == terms.distillation.tolist() == [0.0] * 3
    torch.testing.assert_close(terms.total, 0.1 * terms.reference)


# --- further terms and gates


def test_sampled_divergences_by_hand() -> None:
    inputs = dataclasses.replace(
        token_inputs([1.0, 1.0, 1.0], [1.0, 0.0, 0.0]), teacher_logprobs=torch.tensor([-1.0, math.nan, -1.0]).double()
    )
    gain = -1.0 - inputs.logprobs[0].item()
    slope = {"sampled_k2": -gain, "sampled_k3": 1 - math.exp(gain), "sampled_gain": -1.0}
    value = {"sampled_k2": gain**2 / 2, "sampled_k3": math.exp(gain) - 1 - gain, "sampled_gain": gain}
    for kind in SAMPLED:
        method = tiny_method(outcome="none", distillation=kind, gate="all", token_gate=["sigmoid"], gate_kappa=0.0)
        losses = token_losses(method, Coefficients(0.0, 1.0, 0.0), tiny_train(), inputs)
        # σ(0) = ½; nothing where the gate is closed, whether the teacher scored or not.
        assert losses.distillation.tolist() == pytest.approx([value[kind] / 2, 0.0, 0.0])
        (found,) = torch.autograd.grad(losses.total.sum(), inputs.logprobs)
        assert found.tolist() == pytest.approx([slope[kind] / 2, 0.0, 0.0])


def test_gates_of_tokens_by_hand() -> None:
    inputs = token_inputs([1.0] * 4, [1.0] * 4)
    inputs = dataclasses.replace(
        inputs, divergence=torch.tensor([0.4, 0.1, 0.3, 0.2]).double().requires_grad_(),
        teacher_entropy=torch.tensor([0.5, 1.5, 1.0, 2.0]).double(), closing=torch.tensor([False, False, False, True]),
        certainty=0.5,
    )  # fmt: skip
    gain = (inputs.teacher_logprobs - inputs.logprobs).tolist()

    def factors(**values: Any) -> list[float]:
        method = tiny_method(outcome="none", distillation="kl_student_teacher", gate="all", **values)
        losses = token_losses(method, Coefficients(0.0, 1.0, 0.0), tiny_train(), inputs)
        return (losses.distillation / inputs.divergence).tolist()

    assert factors(token_gate=["sigmoid"], gate_kappa=2.0) == pytest.approx([1 / (1 + math.exp(-2 * g)) for g in gain])
    # κ → ∞ is the hard gate 1[Δ > 0].
    assert factors(token_gate=["sigmoid"], gate_kappa=1e6) == pytest.approx([float(g > 0) for g in gain])
    assert factors(token_gate=["divergence_quantile"], gate_quantile=0.5) == [1, 0, 1, 0]
    assert factors(token_gate=["teacher_entropy_quantile"], gate_quantile=0.25) == [1, 0, 0, 0]
    assert factors(token_gate=["certainty"], gate_kappa=1.0) == pytest.approx(
        [2 * math.exp(-h) for h in (0.5, 1.5, 1.0, 2.0)]
    )
    assert factors(exclude_eos=True) == [1, 1, 1, 0]
    both = factors(token_gate=["divergence_quantile", "certainty"], gate_kappa=1.0, exclude_eos=True)
    assert both == pytest.approx([2 * math.exp(-0.5), 0, 2 * math.exp(-1.0), 0])


def test_quantiles_are_those_of_the_own_response() -> None:
    responses = Responses.of(torch.tensor([3, 1, 2]))
    values = torch.tensor([3.0, 1.0, 2.0, 9.0, 5.0, 5.0])
    assert responses.at_least(values, 0.5).tolist() == [1, 0, 1, 1, 1, 1]
    order = torch.tensor([5, 2, 0, 4, 3, 1])
    assert responses.take(order).at_least(values[order], 0.5).tolist() == [1, 1, 1, 1, 1, 0]
    assert responses.at_least(torch.full((6,), math.nan), 0.5).tolist() == [0] * 6


def test_gspo_and_cispo_by_hand() -> None:
    inputs = dataclasses.replace(
        token_inputs([1.0, 1.0, -2.0], [0.0] * 3), responses=Responses.of(torch.tensor([2, 1])),
    )  # fmt: skip
    logprobs = inputs.logprobs.detach()
    log_ratios = torch.tensor([0.3, 0.1, -0.5]).double()
    inputs = dataclasses.replace(inputs, old_logprobs=logprobs - log_ratios)
    none = Coefficients(0.0, 0.0, 0.0)
    gspo = token_losses(tiny_method(outcome="gspo", clip_low=0.5, clip_high=0.5), none, tiny_train(), inputs)
    s = math.exp(0.2)
    assert gspo.outcome.tolist() == pytest.approx([-s, -s, 2 * math.exp(-0.5)])
    (found,) = torch.autograd.grad(gspo.total.sum(), inputs.logprobs)
    assert found.tolist() == pytest.approx([-s, -s, 2 * math.exp(-0.5)])
    cut = token_losses(tiny_method(outcome="gspo", clip_low=0.1, clip_high=0.1), none, tiny_train(), inputs)
    assert cut.clipped.tolist() == [True, True, True] and cut.outcome.tolist() == pytest.approx([-1.1, -1.1, 1.8])
    cispo = token_losses(tiny_method(outcome="cispo", clip_low=0.9, clip_high=0.2), none, tiny_train(), inputs)
    weights = [1.2, math.exp(0.1), math.exp(-0.5)]
    (found,) = torch.autograd.grad(cispo.total.sum(), inputs.logprobs)
    assert found.tolist() == pytest.approx([-weights[0], -weights[1], 2 * weights[2]])
    assert cispo.clipped.tolist() == [True, False, False]


def test_the_outcome_is_corrected_for_the_sampler() -> None:
    inputs = token_inputs([1.0, 1.0, -1.0], [1.0] * 3)
    apart = torch.tensor([0.2, 3.0, -1.0]).double()
    corrected = dataclasses.replace(inputs, sampler_logprobs=inputs.old_logprobs - apart)
    method, at = tiny_method(distillation="kl_student_teacher", gate="all"), Coefficients(0.0, 1.0, 0.0)
    plain = token_losses(method, at, tiny_train(), corrected)
    found = token_losses(method, at, tiny_train(sampler_correction=2.0), corrected)
    weights = torch.tensor([math.exp(0.2), 2.0, math.exp(-1.0)]).double()
    torch.testing.assert_close(found.outcome, plain.outcome * weights)
    torch.testing.assert_close(found.total - found.outcome, plain.total - plain.outcome)


def test_routed_rollouts_have_either_term() -> None:
    inputs = token_inputs([-1.0, 1.0, -1.0], [1.0, 0.0, 0.0])
    method = tiny_method(outcome_rows="undistilled", distillation="kl_student_teacher", gate="wrong")
    losses = token_losses(method, Coefficients(0.0, 1.0, 0.0), tiny_train(), inputs)
    assert (losses.outcome != 0).tolist() == [False, True, True]
    assert (losses.distillation != 0).tolist() == [True, False, False]
    at = Coefficients(0.0, 1.0, 0.0)
    assert (
        is_trained(method, at, -1.0, 1.0) and is_trained(method, at, 1.0, 0.0) and not is_trained(method, at, 0.0, 0.0)
    )
