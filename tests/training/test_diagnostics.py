"""Tests the diagnostic pass: what it records is exact whatever the method distils, and how far off top-k is."""

import dataclasses
from typing import Any

import pytest
import torch

from sdpg.training.diagnostics import diagnose
from tests.helpers.tiny import tiny_experience, tiny_method, tiny_policies, tiny_train
from tests.training.test_top_tokens import by_hand

ROWS = list(range(12))
RIVALS = {
    "kl_student_teacher": lambda p, q: p * (p / q).log(),
    "kl_teacher_student": lambda p, q: q * (q / p).log(),
}


def kept(p: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """The probabilities of some words, and that of all others together."""
    some = p.gather(-1, words)
    return torch.cat([some, 1 - some.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("distillation", RIVALS)
@pytest.mark.parametrize("of", ["student", "teacher"])
def test_the_error_of_top_k_is_that_against_all_words(distillation: Any, of: Any) -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    plain = tiny_method(distillation=distillation, teacher="reference")
    cut = tiny_method(distillation=distillation, teacher="reference", top_k=3, top_k_of=of, entry_clip=0.001)
    found, exact = (diagnose(policies, experience, ROWS, method, tiny_train()) for method in (cut, plain))
    assert "top_k_error" not in exact
    # A clip of .001 a word leaves nothing of the divergence: the record has all of it.
    assert found["kl_to_teacher"].lists() == exact["kl_to_teacher"].lists()
    for row, errors in found["top_k_error"].lists().items():
        response = experience.responses[row]
        p = by_hand(policies.student, experience.student_prompts[row], response, 1.0).exp()
        q = by_hand(policies.reference, experience.teacher_prompts[row], response, 1.0).exp()
        words = (p if of == "student" else q).topk(3).indices
        whole = RIVALS[distillation](p, q).sum(-1)
        few = RIVALS[distillation](kept(p, words), kept(q, words)).sum(-1)
        assert errors == pytest.approx((few - whole).tolist(), abs=1e-6)
        assert max(errors) < 0 and max(map(abs, errors)) > 1e-4


def test_a_rollout_without_a_hint_has_no_error() -> None:
    experience = tiny_experience()
    prompts = [[] if row in (2, 7) else prompt for row, prompt in enumerate(experience.teacher_prompts)]
    method = tiny_method(distillation="jsd", teacher="current", top_k=2)
    unhinted = dataclasses.replace(experience, teacher_prompts=prompts)
    found = diagnose(tiny_policies(torch.float64), unhinted, ROWS, method, tiny_train())
    assert found["top_k_error"].rows == [row for row in ROWS if row not in (2, 7)]
