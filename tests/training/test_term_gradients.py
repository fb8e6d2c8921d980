"""Tests that the terms' gradients add up to the whole gradient, and their norms and cosine."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdpg.objective.coefficients import Coefficients
from sdpg.training.diagnostics import TERM_GRADIENTS, single_terms, term_gradients
from sdpg.training.update import Task, accumulate_gradients
from tests.helpers.tiny import MAX_TOKENS, gradients, tiny_experience, tiny_method, tiny_policies, tiny_train

AT = Coefficients(alpha=0.3, beta=0.7, rlsd_lambda=0.0, entropy_bonus=0.1)
EVERY_TERM: dict[str, Any] = {"distillation": "kl_student_teacher", "reference": "urkl", "entropy_bonus": 0.1}


def task(at: Coefficients = AT, **values: Any) -> Task:
    policies = tiny_policies(torch.float64)
    return Task(policies, tiny_experience(), tiny_method(**values), at, tiny_train(), MAX_TOKENS, Path("unused.json"))


def gradient(one: Task) -> torch.Tensor:
    one.policies.student.zero_grad(set_to_none=True)
    accumulate_gradients(one, range(12))
    return gradients(one.policies.student)


def test_the_terms_add_up_to_the_whole_gradient() -> None:
    whole = task(**EVERY_TERM)
    parts = {name: gradient(single) for name, single in single_terms(whole).items()}
    assert list(parts) == ["outcome", "distillation", "reference", "entropy"]
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), gradient(whole))


def test_norms_and_cosine_are_those_of_the_terms() -> None:
    whole = task(**EVERY_TERM)
    parts = {name: gradient(single) for name, single in single_terms(whole).items()}
    found = term_gradients(whole, range(12))
    assert list(found) == list(TERM_GRADIENTS)
    for name, part in parts.items():
        assert found[f"grad_norm_{name}"] == pytest.approx(part.norm().item())
    cosine = torch.nn.functional.cosine_similarity(parts["outcome"], parts["distillation"], dim=0).item()
    assert found["grad_cosine_outcome_distillation"] == pytest.approx(cosine)
    assert -1 < cosine < 1
    assert all(parameter.grad is None for parameter in whole.policies.student.parameters())


def test_without_an_outcome_term_there_is_no_cosine() -> None:
    found = term_gradients(task(outcome="none", distillation="kl_student_teacher"), range(12))
    assert (found["grad_norm_distillation"] or 0) > 0
    assert found["grad_norm_outcome"] is None
    assert found["grad_cosine_outcome_distillation"] is None


def test_terms_that_are_not_at_work_have_no_norm() -> None:
    nothing = Coefficients(0.0, 0.0, 0.0)
    found = term_gradients(task(nothing, **EVERY_TERM), range(12))
    assert found["grad_norm_outcome"] is not None
    assert [name for name in TERM_GRADIENTS if found[name] is None] == list(TERM_GRADIENTS[1:])
    in_reward = task(AT, reference="k3", reference_in="reward")
    assert "reference" not in single_terms(in_reward)


def test_a_gradient_of_zero_has_no_cosine() -> None:
    policies = tiny_policies(torch.float64)
    uniform = tiny_experience([[1.0] * 4], gate_kind="all")
    method = tiny_method(distillation="kl_student_teacher", gate="all")
    found = term_gradients(Task(policies, uniform, method, AT, tiny_train(), MAX_TOKENS, Path("unused.json")), range(4))
    assert found["grad_norm_outcome"] == 0
    assert (found["grad_norm_distillation"] or 0) > 0
    assert found["grad_cosine_outcome_distillation"] is None
