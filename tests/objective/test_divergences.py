"""Tests every divergence: its formula by hand and against other libraries, its row kernel against autograd."""

from collections.abc import Callable
from dataclasses import dataclass, fields
import math
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from scipy.special import rel_entr, softmax
import torch
from torch import Tensor

from sdpg.models.fused_head import fused_head
from sdpg.objective.divergences import (
    DIVERGENCES,
    WORKED_P,
    WORKED_Q,
    Clipped,
    Divergence,
    Rows,
    SkewedKL,
    StudentTeacherKL,
    TeacherStudentKL,
    TopK,
    divergence_of,
)  # fmt: skip
from sdpg.params import MethodParams
from sdpg.params.method import SAMPLED
from tests.helpers.direct_head import divergence_named, example, mixed
from tests.helpers.tiny import tiny_method

LN2 = math.log(2)
KINDS: tuple[Any, ...] = tuple(DIVERGENCES)


def divergence(log_p: Tensor, log_q: Tensor, kind: str, beta: float = 0.5) -> Tensor:
    found = divergence_named(kind, beta)
    assert found is not None
    return found.value(log_p, log_q)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def logits(rows: int, vocab: int, seed: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> None:
    assert torch.autograd.gradcheck(function, at.clone().requires_grad_())


# --- the registry


def test_the_registry_and_the_parameters_name_the_same_divergences() -> None:
    names = get_args(MethodParams.model_fields["distillation"].annotation)
    assert set(names) == {"none", *DIVERGENCES, *SAMPLED}
    for kind in DIVERGENCES.values():
        assert {option.name for option in fields(kind)} <= MethodParams.model_fields.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_the_worked_example_of_each_divergence(kind: str) -> None:
    worked = DIVERGENCES[kind].worked
    assert worked
    for options, expected in worked.items():
        found = DIVERGENCES[kind](*options).value(double(*WORKED_P).log()[None], double(*WORKED_Q).log()[None])
        assert found.tolist() == pytest.approx([expected])


def test_the_options_of_a_method_reach_its_divergence() -> None:
    assert divergence_of(tiny_method(distillation="jsd", jsd_beta=0.2)) == divergence_named("jsd", 0.2)
    assert divergence_of(tiny_method(distillation="kl_student_teacher")) == divergence_named("kl_student_teacher")
    assert divergence_of(tiny_method()) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.1, 2.0, 20.0])
def test_a_row_kernel_equals_autograd_through_the_formula(kind: str, spread: float) -> None:
    log_p, log_q = (logits(6, 30, seed, spread).log_softmax(-1) for seed in (1, 2))
    found = divergence_named(kind, 0.3)
    assert found is not None
    slopes = []
    for kernel in (found.rows, lambda rows: Divergence.rows(found, rows)):
        sums = double(*[1.7] * 6).unsqueeze(1)
        rows = Rows(log_p.clone(), log_p.exp(), log_q.clone(), log_q.exp() * sums, sums)
        made = kernel(rows)
        assert torch.equal(rows.log_p, log_p) and torch.equal(rows.p, log_p.exp())
        slopes.append((made.divergence, made.of_p.unsqueeze(1) * rows.p + made.of_x * rows.log_q))
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@dataclass(frozen=True)
class Hellinger(Divergence):
    """Σ (√p - √q)², of which nobody derived a gradient."""

    def entries(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        return ((log_p / 2).exp() - (log_q / 2).exp()).square()


@pytest.mark.parametrize("memory", [1, 1 << 20])
def test_a_divergence_is_exact_in_the_head_by_its_formula_alone(memory: int) -> None:
    inputs = example()
    assert inputs.teacher is not None
    teacher = type(inputs.teacher)(inputs.teacher.tokens, inputs.teacher.hidden, divergence=Hellinger())
    hidden, weight, bias = (leaf for leaf in inputs.to(torch.float64).leaves if leaf is not None)
    teacher = type(teacher)(teacher.tokens, hidden.detach()[teacher.tokens] * 0.7, divergence=Hellinger())
    loss, values = fused_head(hidden, weight, bias, inputs.ids, mixed, memory_bytes=memory, teacher=teacher)
    found = torch.autograd.grad(loss, (hidden, weight, bias))

    log_p = (hidden @ weight.t() + bias).log_softmax(-1)
    log_q = (teacher.hidden @ weight.t() + bias).log_softmax(-1).detach()
    between = ((log_p[teacher.tokens] / 2).exp() - (log_q / 2).exp()).square().sum(-1)
    divergences = torch.zeros(len(inputs.ids), dtype=torch.float64).index_put((teacher.tokens,), between)
    torch.testing.assert_close(values.divergence, divergences.detach())
    leaves = type(values)(
        log_p[torch.arange(len(inputs.ids)), inputs.ids], -(log_p.exp() * log_p).sum(-1), divergences,
        values.teacher_logprobs, values.teacher_entropy,
    )  # fmt: skip
    expected = torch.autograd.grad(mixed(torch.arange(len(inputs.ids)), leaves).sum(), (hidden, weight, bias))
    torch.testing.assert_close(found, expected)


# --- the formulas


def independent_divergence(student: np.ndarray, teacher: np.ndarray, kind: str, beta: float) -> np.ndarray:
    """From probabilities, by scipy."""
    p, q = softmax(student, axis=-1), softmax(teacher, axis=-1)
    if kind == "kl_student_teacher":
        return rel_entr(p, q).sum(-1)
    if kind == "kl_teacher_student":
        return rel_entr(q, p).sum(-1)
    mixture = beta * q + (1 - beta) * p
    if kind == "skewed_kl":
        return rel_entr(p, mixture).sum(-1)
    return beta * rel_entr(q, mixture).sum(-1) + (1 - beta) * rel_entr(p, mixture).sum(-1)


def test_divergences_by_hand() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4)
    student, teacher = double(0.5, 0.5).log().unsqueeze(0), double(0.25, 0.75).log().unsqueeze(0)
    forward = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    backward = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert divergence(student, teacher, "kl_student_teacher").item() == pytest.approx(forward)
    assert divergence(student, teacher, "kl_teacher_student").item() == pytest.approx(backward)
    # β = 0.2: m = (0.45, 0.55)
    to_teacher = 0.25 * math.log(0.25 / 0.45) + 0.75 * math.log(0.75 / 0.55)
    to_student = 0.5 * math.log(0.5 / 0.45) + 0.5 * math.log(0.5 / 0.55)
    expected = 0.2 * to_teacher + 0.8 * to_student
    assert divergence(student, teacher, "jsd", 0.2).item() == pytest.approx(expected)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("kind", KINDS)
def test_divergences_equal_an_independent_implementation(kind: Any, beta: float) -> None:
    student, teacher = logits(7, 50, 1), logits(7, 50, 2)
    found = divergence(student.log_softmax(-1), teacher.log_softmax(-1), kind, beta)
    np.testing.assert_allclose(found, independent_divergence(student.numpy(), teacher.numpy(), kind, beta), rtol=1e-10)


def test_divergences_equal_those_of_torch() -> None:
    log_p, log_q = logits(5, 30, 3).log_softmax(-1), logits(5, 30, 4).log_softmax(-1)
    kl_div = torch.nn.functional.kl_div
    expected = kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)  # its first argument is the second of KL
    torch.testing.assert_close(divergence(log_p, log_q, "kl_student_teacher"), expected)
    expected = kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(divergence(log_p, log_q, "kl_teacher_student"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_gradcheck(kind: Any) -> None:
    teacher = logits(2, 6, 5).log_softmax(-1)
    check_gradient(lambda student: divergence(student.log_softmax(-1), teacher, kind, 0.3), logits(2, 6, 6))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_policy_has_no_divergence_from_itself(kind: Any, dtype: torch.dtype) -> None:
    log_probs = logits(20, 100, 9, 5.0).to(dtype).log_softmax(-1)
    assert divergence(log_probs, log_probs, kind).abs().max().item() <= (1e-6 if dtype == torch.float32 else 1e-15)


def test_jsd_tends_to_the_two_kls() -> None:
    # JSD_β/β → KL(q‖p) as β → 0, JSD_β/(1-β) → KL(p‖q) as β → 1
    student, teacher = logits(4, 20, 10, 0.5).log_softmax(-1), logits(4, 20, 11, 0.5).log_softmax(-1)
    small = 1e-6
    near_zero = divergence(student, teacher, "jsd", small) / small
    near_one = divergence(student, teacher, "jsd", 1 - small) / small
    torch.testing.assert_close(near_zero, divergence(student, teacher, "kl_teacher_student"), rtol=1e-4, atol=0)
    torch.testing.assert_close(near_one, divergence(student, teacher, "kl_student_teacher"), rtol=1e-4, atol=0)


def test_jsd_at_one_half_is_symmetric_and_bounded() -> None:
    student, teacher = logits(50, 20, 12, 20.0).log_softmax(-1), logits(50, 20, 13, 20.0).log_softmax(-1)
    value = divergence(student, teacher, "jsd", 0.5)
    torch.testing.assert_close(value, divergence(teacher, student, "jsd", 0.5))
    assert value.max().item() <= LN2 + 1e-12
    assert value.max().item() > 0.9 * LN2


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=12),
    st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]),
    st.sampled_from([1.0, 30.0, 1e4]),
    st.sampled_from(KINDS),
)
def test_divergences_are_not_negative_and_finite_in_float32(
    pairs: list[tuple[float, float]], apart: float, magnitude: float, kind: Any
) -> None:
    student = magnitude * torch.tensor([[a for a, _ in pairs]])
    teacher = student + apart * torch.tensor([[b for _, b in pairs]])
    value = divergence(student.log_softmax(-1), teacher.log_softmax(-1), kind, 0.5).item()
    assert math.isfinite(value)
    assert value >= -1e-6


def test_proposition_3_1() -> None:
    student, teacher = logits(5, 12, 14).requires_grad_(), logits(5, 12, 15)
    log_q = teacher.log_softmax(-1)
    (exact,) = torch.autograd.grad(
        divergence(student.log_softmax(-1), log_q, "kl_student_teacher").sum(), student, retain_graph=True
    )
    log_p = student.log_softmax(-1)
    p = log_p.detach().exp()
    kl = (p * (log_p.detach() - log_q)).sum(-1, keepdim=True)
    token_advantages = kl - (log_p.detach() - log_q)
    surrogate = -(p * token_advantages * log_p).sum()
    (of_surrogate,) = torch.autograd.grad(surrogate, student)
    torch.testing.assert_close(of_surrogate, exact)
    torch.testing.assert_close((p * token_advantages).sum(-1), torch.zeros(5, dtype=torch.float64))
    assert exact.abs().max() > 0.1


# --- bounds on a divergence's words


def test_top_k_by_hand() -> None:
    # Of (½, ¼, ⅛, ⅛) against (¼, ¼, ¼, ¼) the student's first two words, and a bucket of ¼ against ½.
    student, teacher = double(0.5, 0.25, 0.125, 0.125).log()[None], double(0.25, 0.25, 0.25, 0.25).log()[None]
    found = TopK(StudentTeacherKL(), 2, "student").value(student, teacher)
    assert found.tolist() == pytest.approx([0.5 * LN2 + 0.25 * math.log(0.5)])
    # The teacher's first word is another one.
    teacher = double(0.1, 0.2, 0.6, 0.1).log()[None]
    found = TopK(TeacherStudentKL(), 1, "teacher").value(student, teacher)
    assert found.tolist() == pytest.approx([0.6 * math.log(0.6 / 0.125) + 0.4 * math.log(0.4 / 0.875)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", ["student", "teacher"])
def test_top_k_grows_to_the_whole_divergence(kind: str, of: Any) -> None:
    log_p, log_q = (logits(5, 12, seed).log_softmax(-1) for seed in (1, 2))
    whole = divergence_named(kind, 0.3)
    assert whole is not None
    exact = whole.value(log_p, log_q)
    found = torch.stack([TopK(whole, k, of).value(log_p, log_q) for k in (1, 4, 11, 12, 500)])
    assert (found <= exact + 1e-12).all() and (found[0] < exact).all()
    torch.testing.assert_close(found[2:], exact.expand(3, -1), rtol=1e-9, atol=1e-12)
    check_gradient(lambda at: TopK(whole, 3, of).value(at.log_softmax(-1), log_q[:2]), logits(2, 12, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_bounds_each_word_and_takes_its_gradient(kind: str) -> None:
    log_p, log_q = (logits(5, 12, seed).log_softmax(-1) for seed in (1, 2))
    whole = divergence_named(kind, 0.3)
    assert whole is not None
    entries = whole.entries(log_p, log_q)
    found = Clipped(whole, 0.05)
    assert found.value(log_p, log_q).tolist() == pytest.approx(
        [sum(min(each, 0.05) for each in row) for row in entries.tolist()]
    )
    assert (entries > 0.05).any() and ((entries < 0).any() or kind == "jsd")
    leaf = log_p.clone().requires_grad_()
    found.value(leaf, log_q).sum().backward()
    assert leaf.grad is not None and bool(((leaf.grad == 0) >= (entries > 0.05)).all())
    torch.testing.assert_close(Clipped(whole, 1e9).value(log_p, log_q), whole.value(log_p, log_q))


def test_a_methods_bounds_reach_its_divergence() -> None:
    method = tiny_method(distillation="jsd", jsd_beta=0.2, top_k=7, top_k_of="teacher", entry_clip=0.05)
    whole = divergence_named("jsd", 0.2)
    assert whole is not None and divergence_of(method) == Clipped(TopK(whole, 7, "teacher"), 0.05)
    assert divergence_of(tiny_method(distillation="sampled_k2")) is None
    skewed = SkewedKL(1 - 1e-9).value(double(*WORKED_P).log()[None], double(*WORKED_Q).log()[None])
    assert skewed.tolist() == pytest.approx([LN2 / 4])
