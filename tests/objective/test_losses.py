"""Tests the terms of the loss: numbers by hand, gradients, and where terms agree with one another."""

from collections.abc import Callable
import math
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
import pytest
import torch
from torch import Tensor

from sdpg.objective.losses import (
    ReferenceKind,
    clipped_surrogate,
    clipped_weight,
    importance_ratio,
    reference_term,
    reinforce,
    rlsd_weights,
)

LN2 = math.log(2)
REFERENCE_KINDS: tuple[Any, ...] = get_args(ReferenceKind)


def double(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def logits(rows: int, vocab: int, seed: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(values: Tensor, leaf: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(values.sum(), leaf)
    return found.tolist()


def check_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> None:
    assert torch.autograd.gradcheck(function, at.clone().requires_grad_())


# --- the ratio


def test_importance_ratio_and_its_clamp() -> None:
    logprobs = double(math.log(0.3), -1.0, -1.0, -9.0, grad=True)
    old = double(math.log(0.2), -1.0, -9.0, -1.0)
    assert importance_ratio(logprobs, old).tolist() == pytest.approx([1.5, 1, math.exp(8), math.exp(-8)])
    clamped = importance_ratio(logprobs, old, clamp=2.0)
    assert clamped.tolist() == pytest.approx([1.5, 1, math.exp(2), math.exp(-2)])
    # ∂ρ/∂log π = ρ inside the clamp, nothing outside
    assert gradient(clamped, logprobs) == pytest.approx([1.5, 1, 0, 0])


def test_importance_ratio_gradcheck() -> None:
    old = double(-1.3, -0.2)
    check_gradient(lambda logprobs: importance_ratio(logprobs, old, 20.0), double(-1.0, -0.5))


# --- L_out


def test_reinforce_by_hand() -> None:
    logprobs = double(-0.5, -2.0, -3.0, grad=True)
    loss = reinforce(logprobs, double(2.0, -1.0, 0.0))
    assert loss.tolist() == [1.0, -2.0, 0.0]
    assert gradient(loss, logprobs) == [-2.0, 1.0, 0.0]


def test_ppo_clips_only_where_the_ratio_has_moved_the_way_the_advantage_pushes() -> None:
    # ε_l = 0.2, ε_h = 0.28
    cases = [  # ρ, A, ℓ, ∂ℓ/∂log π
        (1.5, 1.0, -1.28, 0.0),
        (1.2, 1.0, -1.2, -1.2),
        (0.5, 1.0, -0.5, -0.5),
        (0.5, -1.0, 0.8, 0.0),
        (0.9, -1.0, 0.9, 0.9),
        (1.5, -1.0, 1.5, 1.5),
        (1.5, 2.0, -2.56, 0.0),
        (1.5, 0.0, 0.0, 0.0),
    ]
    ratio, advantages, values, slopes = (list(column) for column in zip(*cases, strict=True))
    logprobs = double(*map(math.log, ratio), grad=True)
    loss = clipped_surrogate(logprobs.exp(), double(*advantages), 0.2, 0.28)
    assert loss.tolist() == pytest.approx(values)
    assert gradient(loss, logprobs) == pytest.approx(slopes)


def test_dual_clip_bounds_negative_advantages_only() -> None:
    cases = [  # ρ, A, ℓ with c = 3, ∂ℓ/∂log π
        (5.0, -1.0, 3.0, 0.0),
        (2.0, -1.0, 2.0, 2.0),
        (5.0, -0.5, 1.5, 0.0),
        (0.1, -1.0, 0.8, 0.0),
        (5.0, 1.0, -1.2, 0.0),
    ]
    ratio, advantages, values, slopes = (list(column) for column in zip(*cases, strict=True))
    logprobs = double(*map(math.log, ratio), grad=True)
    loss = clipped_surrogate(logprobs.exp(), double(*advantages), 0.2, 0.2, 3.0)
    assert loss.tolist() == pytest.approx(values)
    assert gradient(loss, logprobs) == pytest.approx(slopes)


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_without_extras_the_surrogate_is_that_of_grpo(log_ratio: float, advantage: float) -> None:
    ratio = math.exp(log_ratio)
    expected = -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    assert clipped_surrogate(double(ratio), double(advantage), 0.2, 0.2).item() == pytest.approx(expected)


def test_clipped_surrogate_gradcheck() -> None:
    advantages = double(1.0, 1.0, -1.0, -1.0, -1.0, 0.7)
    check_gradient(
        lambda logprobs: clipped_surrogate(logprobs.exp(), advantages, 0.2, 0.28, 3.0),
        double(0.5, 0.1, 0.1, -0.9, 1.5, -1.0),
    )


def test_clipped_weight_keeps_a_gradient_on_clipped_tokens() -> None:
    # A = 1, ρ = 1.5, ε_h = 0.28: ℓ_clip = -1.28 weights log π; PPO's own gradient is 0 there.
    logprobs = double(-0.7, grad=True)
    old = double(-0.7 - math.log(1.5))
    surrogate = clipped_surrogate(importance_ratio(logprobs, old), double(1.0), 0.2, 0.28)
    loss = clipped_weight(logprobs, surrogate)
    assert loss.item() == pytest.approx(-1.28 * -0.7)
    assert gradient(loss, logprobs) == pytest.approx([-1.28])


def test_clipped_weight_has_no_gradient_through_the_weight() -> None:
    # Inside the clip range differentiating ρ as well would give A·ρ·(log π + 1) instead of A·ρ.
    logprobs = double(-0.7, grad=True)
    surrogate = clipped_surrogate(importance_ratio(logprobs, double(-0.8)), double(1.0), 0.2, 0.2)
    assert gradient(clipped_weight(logprobs, surrogate), logprobs) == pytest.approx([-math.exp(0.1)])


def test_on_policy_all_outcome_terms_have_the_gradient_of_reinforce() -> None:
    advantages = double(1.3, -0.4, 0.0)
    logprobs = double(-0.5, -1.0, -2.0, grad=True)
    expected = gradient(reinforce(logprobs, advantages), logprobs)
    ratio = importance_ratio(logprobs, logprobs.detach())
    surrogate = clipped_surrogate(ratio, advantages, 0.2, 0.28, 10.0)
    assert gradient(surrogate, logprobs) == pytest.approx(expected)
    ratio = importance_ratio(logprobs, logprobs.detach())
    surrogate = clipped_surrogate(ratio, advantages, 0.2, 0.28, 10.0)
    assert gradient(clipped_weight(logprobs, surrogate), logprobs) == pytest.approx(expected)


# --- L_K


def test_reference_terms_by_hand() -> None:
    # w = 2, so that log w = ln 2
    logprobs, ref_logprobs = double(math.log(0.5)), double(math.log(0.25))
    expected = {
        "ufkl": 0.5 + LN2,
        "urkl": 0.5 * LN2**2,
        "fkl": 0.5,
        "rkl": 0.5 * (LN2 + 1) ** 2,
        "k1": LN2,
        "k3": 0.5 - 1 + LN2,
    }
    found = {kind: reference_term(logprobs, ref_logprobs, kind).item() for kind in REFERENCE_KINDS}
    assert found == pytest.approx(expected)


def test_reference_terms_where_the_policies_are_equal() -> None:
    at = double(-1.5, grad=True)
    values = {kind: reference_term(at, at.detach(), kind).item() for kind in REFERENCE_KINDS}
    assert values == {"ufkl": 1.0, "urkl": 0.0, "fkl": 1.0, "rkl": 0.5, "k1": 0.0, "k3": 0.0}
    # Per sample: those of UFKL and URKL vanish, those of FKL and RKL do not.
    slopes = {kind: gradient(reference_term(at, at.detach(), kind), at)[0] for kind in REFERENCE_KINDS}
    assert slopes == {"ufkl": 0.0, "urkl": 0.0, "fkl": -1.0, "rkl": 1.0, "k1": 1.0, "k3": 0.0}


@pytest.mark.parametrize("kind", REFERENCE_KINDS)
def test_reference_term_gradcheck(kind: Any) -> None:
    ref_logprobs = double(-1.0, -2.0, -0.1)
    check_gradient(lambda logprobs: reference_term(logprobs, ref_logprobs, kind), double(-1.5, -0.4, -0.1))


@pytest.mark.parametrize(
    ("kind", "forward"), [("ufkl", True), ("fkl", True), ("k3", True), ("urkl", False), ("rkl", False)]
)
def test_expected_gradients_are_those_of_the_divergences(kind: Any, forward: bool) -> None:
    """At a fixed prefix and in expectation over y ∼ π_θ, so UFKL ≡ FKL and URKL ≡ RKL there.

    (k3 as a loss has the expected gradient of the forward divergence, being UFKL - 1.)
    """
    student = logits(1, 9, 16)[0].requires_grad_()
    log_ref = logits(1, 9, 17)[0].log_softmax(-1)
    log_p = student.log_softmax(-1)
    exact = (log_ref.exp() * (log_ref - log_p)).sum() if forward else (log_p.exp() * (log_p - log_ref)).sum()
    (expected,) = torch.autograd.grad(exact, student, retain_graph=True)
    sampled = (log_p.detach().exp() * reference_term(log_p, log_ref, kind)).sum()
    (found,) = torch.autograd.grad(sampled, student)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0.05


def test_k1_as_a_loss_has_no_expected_gradient() -> None:
    student = logits(1, 9, 18)[0].requires_grad_()
    log_p, log_ref = student.log_softmax(-1), logits(1, 9, 19)[0].log_softmax(-1)
    (found,) = torch.autograd.grad((log_p.detach().exp() * reference_term(log_p, log_ref, "k1")).sum(), student)
    assert found.abs().max() < 1e-15


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_estimate_the_reverse_kl(kind: Any) -> None:
    log_p, log_ref = logits(1, 9, 20)[0].log_softmax(-1), logits(1, 9, 21)[0].log_softmax(-1)
    expected = (log_p.exp() * (log_p - log_ref)).sum()
    torch.testing.assert_close((log_p.exp() * reference_term(log_p, log_ref, kind)).sum(), expected)


@given(st.floats(-20, 20), st.floats(-1, 1), st.sampled_from([1e-8, 1e-6, 1e-4, 1e-2, 1.0, 10.0]))
def test_k3_is_never_negative(logprob: float, shift: float, scale: float) -> None:
    logprobs = torch.tensor([logprob])
    assert reference_term(logprobs, logprobs + scale * shift, "k3").item() >= 0


# --- RLSD


def test_rlsd_weights_by_hand() -> None:
    # λ = 0.5, ε_w = 0.2
    gain = [math.log(1.1), math.log(1.1), math.log(3), math.log(3), math.log(0.3), math.log(0.3), 0.7]
    advantages = double(2.0, -2.0, 1.0, -1.0, 1.0, -1.0, 0.0)
    old = double(*[-1.0] * 7)
    weights = rlsd_weights(advantages, old, old + double(*gain), 0.5, 0.2)
    assert weights.tolist() == pytest.approx([1.05, 0.5 + 0.5 / 1.1, 1.1, 0.9, 0.9, 1.1, 1.0])


def test_rlsd_with_lambda_zero_weighs_nothing() -> None:
    weights = rlsd_weights(double(1.0, -1.0), double(-1.0, -2.0), double(-3.0, -0.1), 0.0, 0.2)
    assert weights.tolist() == [1.0, 1.0]


def test_rlsd_with_lambda_one_is_the_clipped_evidence() -> None:
    weights = rlsd_weights(double(1.0, 1.0), double(-1.0, -1.0), double(-0.95, 4.0), 1.0, 0.2)
    assert weights.tolist() == pytest.approx([math.exp(0.05), 1.2])


def test_rlsd_weights_carry_no_gradient() -> None:
    logprobs = double(-1.0, grad=True)
    weights = rlsd_weights(double(1.0), logprobs, double(-0.95, grad=True), 0.5, 0.2)
    assert not weights.requires_grad
