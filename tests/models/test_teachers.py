"""Tests the weights of a teacher of its own by hand, at their limits, and in the passes that read them."""

import copy
from typing import Any

import pytest
import torch

from sdpg.models.adapters import OtherAdapter
from sdpg.models.loading import trainable
from sdpg.models.passes import Policies
from sdpg.models.ranks import SOLO
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.coefficients import Coefficients, keeps_teacher_weights
from sdpg.training.diagnostics import diagnose
from tests.helpers.adapted import adapted_model, adapted_policies
from tests.helpers.plain_update import run
from tests.helpers.tiny import counted_passes, tiny_experience, tiny_method, tiny_policies, tiny_train, with_teacher
from tests.models.test_lora import base_logits, logits

KL: dict[str, Any] = {"distillation": "kl_student_teacher", "gate": "all"}


def line(values: list[float]) -> torch.nn.Linear:
    """A model of two weights."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.load_state_dict({"weight": torch.tensor([values])})
    return model


def teacher_of(student: torch.nn.Linear, accuracy: float = 0.5, **values: Any) -> TeacherWeights:
    model = copy.deepcopy(student).requires_grad_(False)
    return TeacherWeights(tiny_method(**KL, **values), student, model, accuracy)


def values_of(teacher: TeacherWeights) -> list[float]:
    return teacher.weights["weight"].flatten().tolist()


def test_the_moving_average_by_hand() -> None:
    student = line([1.0, 3.0])
    teacher = teacher_of(student, teacher="ema", teacher_rate=0.25)
    assert teacher.metrics(1, SOLO) == {"teacher_distance": 0.0, "teacher_age": None}
    student.load_state_dict({"weight": torch.tensor([[2.0, 1.0]])})
    teacher.advance(1, None)
    # 3/4 of (1, 3) and 1/4 of (2, 1).
    assert values_of(teacher) == [1.25, 2.5]
    student.load_state_dict({"weight": torch.tensor([[4.0, -3.0]])})
    # (2.75, -5.5) against (4, -3), of length 5.
    assert teacher.metrics(2, SOLO)["teacher_distance"] == pytest.approx((2.75**2 + 5.5**2) ** 0.5 / 5)
    teacher.advance(2, 1.0)
    assert values_of(teacher) == [1.9375, 1.125]
    assert values_of(teacher) == teacher.model.weight.flatten().tolist()
    assert not teacher.model.weight.requires_grad and student.weight.tolist() == [[4.0, -3.0]]


def test_snapshots_and_their_age() -> None:
    student = line([0.0, 1.0])
    teacher = teacher_of(student, teacher="snapshot", teacher_every=3)
    read = []
    for step in range(1, 9):
        read.append((values_of(teacher)[0], teacher.metrics(step, SOLO)["teacher_age"]))
        student.load_state_dict({"weight": torch.tensor([[float(step), 1.0]])})
        teacher.advance(step, None)
    assert read == [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2), (6, 0), (6, 1)]


def test_the_gate_opens_for_a_validation_accuracy_that_no_evaluation_had_before() -> None:
    student = line([0.0, 0.0])
    teacher = teacher_of(student, 0.5, teacher="gated")
    refreshed = []
    for step, accuracy in enumerate([None, 0.5, 0.4, 0.6, None, 0.6, 0.55, 0.7], start=1):
        student.load_state_dict({"weight": torch.tensor([[float(step), 1.0]])})
        teacher.advance(step, accuracy)
        refreshed.append(values_of(teacher)[0])
    assert refreshed == [0, 0, 0, 4, 4, 4, 4, 8]
    assert teacher.state() == {"refreshed": 8, "best": 0.7}


@pytest.mark.parametrize(("rate", "every"), [(1.0, 1), (0.0, 2)])
def test_at_their_limits_the_teachers_have_the_bits_of_student_or_base(rate: float, every: int) -> None:
    torch.manual_seed(0)
    student, base = (torch.nn.Linear(50, 40, bias=False) for _ in range(2))
    # Sums with these lose digits.
    student.weight.data *= 10.0 ** torch.linspace(-9, 9, 50)
    expected = (student if rate else base).weight.clone()
    for method in (
        tiny_method(**KL, teacher="ema", teacher_rate=rate), tiny_method(**KL, teacher="snapshot", teacher_every=every)
    ):  # fmt: skip
        teacher = TeacherWeights(method, student, copy.deepcopy(base).requires_grad_(False), 0.0)
        teacher.advance(1, None)
        assert torch.equal(teacher.weights["weight"], expected)


def test_which_methods_keep_weights() -> None:
    kept = {
        name: keeps_teacher_weights(tiny_method(**KL, teacher=name))
        for name in ("current", "reference", "ema", "snapshot", "gated")
    }
    assert [name for name in kept if kept[name]] == ["ema", "snapshot", "gated"]
    assert not keeps_teacher_weights(tiny_method())
    assert keeps_teacher_weights(tiny_method(outcome="ppo_clip", token_weighting="rlsd", teacher="snapshot"))


@pytest.mark.parametrize(
    ("values", "unused"),
    [
        ({**KL, "teacher": "snapshot", "teacher_rate": 0.5}, "teacher_rate"),
        ({**KL, "teacher": "ema", "teacher_every": 5}, "teacher_every"),
        ({**KL, "teacher": "gated", "teacher_every": 5}, "teacher_every"),
        ({**KL, "teacher_rate": 1.0}, "teacher_rate"),
        ({"teacher": "ema", "teacher_rate": 1.0}, "teacher, teacher_rate"),
    ],
)
def test_a_key_that_the_teacher_does_not_use_is_an_error(values: dict[str, Any], unused: str) -> None:
    with pytest.raises(ValueError, match=f"Value error, {unused} would have no effect"):
        tiny_method(**values)


# --- in the passes


def moved(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable(model):
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def with_average(policies: Policies) -> tuple[Policies, Any]:
    """Policies whose teacher is neither student nor reference, and a method that reads it."""
    method = tiny_method(**KL, teacher="ema", teacher_rate=0.4, token_weighting="rlsd")
    with_teacher(policies, method)
    moved(policies.student, 1)
    policies.advance_teacher(1, None)
    moved(policies.student, 2)
    return policies, method


def test_losses_and_records_read_the_teachers_own_weights() -> None:
    policies, method = with_average(tiny_policies())
    weights = policies.teacher_weights
    assert weights is not None and policies.teacher(method) is weights.model
    as_reference = method.model_copy(update={"teacher": "reference"})
    apart = copy.copy(policies)
    apart.reference = copy.deepcopy(weights.model)
    at, experience = Coefficients(alpha=0.0, beta=0.7, rlsd_lambda=0.4), tiny_experience(gate_kind="all")
    found, expected = (
        run(one, experience, each, at, tiny_train()) for one, each in ((policies, method), (apart, as_reference))
    )
    assert found[0] == expected[0] and torch.equal(found[1], expected[1])
    for other in ("current", "reference"):
        different = run(policies, experience, method.model_copy(update={"teacher": other}), at, tiny_train())
        assert abs(different[0] - found[0]) > 1e-4
    diagnosed, as_there = (
        diagnose(one, experience, [1, 5, 9], each, tiny_train())
        for one, each in ((policies, method), (apart, as_reference))
    )
    for name in ("teacher_logprob", "kl_to_teacher"):
        assert diagnosed[name].lists() == as_there[name].lists()


def test_an_adapters_teacher_is_the_base_with_its_own_values() -> None:
    policies, method = with_average(adapted_policies(torch.float32))
    weights = policies.teacher_weights
    assert weights is not None and isinstance(weights.model, OtherAdapter)
    before = {name: parameter.clone() for name, parameter in policies.student.named_parameters()}
    flags = [parameter.requires_grad for parameter in policies.student.parameters()]
    apart = adapted_model(torch.float32)
    assert weights.weights.keys() == {name for name, p in apart.named_parameters() if p.requires_grad}
    apart.load_state_dict(weights.weights, strict=False)
    expected, ours = logits(apart), logits(policies.student)
    with counted_passes(policies.student) as passes:
        assert torch.equal(logits(weights.model), expected)
    assert [one.with_gradient for one in passes.seen] == [False]
    assert (expected - ours).abs().max() > 1e-2 and (expected - base_logits(torch.float32)).abs().max() > 1e-2
    with pytest.raises(IndexError):
        weights.model(input_ids=torch.tensor([[10_000]]))
    assert torch.equal(logits(policies.student), ours) and torch.equal(logits(weights.model), expected)
    assert [parameter.requires_grad for parameter in policies.student.parameters()] == flags
    assert all(torch.equal(before[name], parameter) for name, parameter in policies.student.named_parameters())
    # As a model that lies apart, whose head is another object with the same weight.
    at, experience = Coefficients(alpha=0.0, beta=0.7, rlsd_lambda=0.4), tiny_experience(gate_kind="all")
    found = run(policies, experience, method, at, tiny_train())
    policies.reference = apart.requires_grad_(False)
    reference = run(policies, experience, method.model_copy(update={"teacher": "reference"}), at, tiny_train())
    assert found[0] == reference[0] and torch.equal(found[1], reference[1])
