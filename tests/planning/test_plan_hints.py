"""Tests that the planner counts teacher prompts that hold a response, and the pass under a wrong hint."""

from typing import Any

import pytest

from sdpg.params import MethodParams
from sdpg.planning.memory import Layout
from sdpg.planning.plan import planned_params
from sdpg.planning.shapes import KNOWN
from sdpg.planning.traffic import micro_batch_rounds, run_traffic
from sdpg.planning.work import Assumptions, forward_flops, head_flops, method_work

PARAMS, SHAPE = planned_params("qwen3-4b"), KNOWN["Qwen/Qwen3-4B"]
ASSUMED = Assumptions(gate_rate=0.25, mixed_rate=0.5)
ROWS = 400 * 128 * 8
OWN = {"mine": {"kind": "import", "path": "a:b", "coefficient": 1.0, "reads_teacher": True}}


def method(**changes: Any) -> MethodParams:
    values = {"title": "x", "outcome": "none", "distillation": "kl_student_teacher", "gate": "all", "beta": 1.0}
    return MethodParams(**{**values, "beta_warmup": 0.0, "beta_decay": 0.0, **changes})


def teacher_of(**changes: Any) -> float:
    return method_work(SHAPE, PARAMS, method(**changes), ASSUMED, 1000).teacher


def test_a_sibling_makes_the_teachers_prompt_as_long_as_a_response() -> None:
    # Prompts of 900 tokens, or of the student's 200 and a response of 1000; then the response itself.
    assert teacher_of() == pytest.approx(ROWS * forward_flops(SHAPE, 1900, 1900))
    for hint in ("sibling", "wrong_sibling"):
        assert teacher_of(hint=hint) == pytest.approx(ROWS * forward_flops(SHAPE, 2200, 2200))
    assert teacher_of(hint="feedback") == teacher_of()
    # A sibling that does not fit is not shown.
    prompts = PARAMS.prompts.model_copy(update={"max_teacher_tokens": 1100})
    short = PARAMS.model_copy(update={"prompts": prompts})
    work = method_work(SHAPE, short, method(hint="sibling"), ASSUMED, 1000)
    assert work.teacher == pytest.approx(ROWS * forward_flops(SHAPE, 2100, 2100))


def test_the_pass_under_a_wrong_hint_is_counted_at_its_own_length() -> None:
    plain, responses, answers = (
        method_work(SHAPE, PARAMS, method(terms=OWN, **contrast), ASSUMED, 1000)
        for contrast in ({}, {"contrast_hint": "wrong_sibling"}, {"contrast_hint": "wrong_answer"})
    )
    assert responses.teacher - plain.teacher == pytest.approx(ROWS * forward_flops(SHAPE, 2200, 2200))
    assert answers.teacher - plain.teacher == pytest.approx(ROWS * forward_flops(SHAPE, 1900, 1900))
    assert responses.head - plain.head == answers.head - plain.head == pytest.approx(ROWS * head_flops(SHAPE, 1000))
    assert responses.student == plain.student


def test_shards_are_gathered_for_that_pass_too() -> None:
    layout = Layout(8, "fsdp2")
    plain, contrast = (
        run_traffic(SHAPE, PARAMS, method(terms=OWN, **contrast), layout, ASSUMED, 1000)
        for contrast in ({}, {"contrast_hint": "wrong_sibling"})
    )
    budget = PARAMS.train.tokens_per_micro_batch
    assert contrast.gathers - plain.gathers == 400 * micro_batch_rounds(128 * 8, 2200, budget, 8) > 0
    assert contrast.rounds == plain.rounds
