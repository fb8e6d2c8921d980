"""Tests the tiny world: right answers, the two kinds of mistakes, and held-out problems that stay held out."""

import operator
from pathlib import Path
import random
import re

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sdpg.errors import UserError
from sdpg.params import SyntheticSource, load_params
from sdpg.problems.prompts import render_student, render_teacher
from sdpg.problems.sources import MisledProblem, load_problems
from sdpg.problems.synthetic import FAMILIES, SLIPS, Chain, Step, draw_chain, draw_chains, without_carry

CALCULATE = {"+": operator.add, "-": operator.sub, "*": operator.mul}
CHAIN = Chain("carry-3", 17, (Step("+", 5), Step("-", 4), Step("*", 2)))


def test_a_chain_written_out() -> None:
    assert CHAIN.problem == "17 a+5 b-4 c*2"
    assert CHAIN.solution == "a=22 b=18 c=36 \\boxed{36}"
    assert CHAIN.answer == "36"


@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 10**6))
def test_every_problem_is_solved_by_its_solution(family: str, seed: int) -> None:
    chain = draw_chain(family, random.Random(seed))
    start, *steps = chain.problem.split()
    values = [int(start)]
    for step in steps:
        values.append(CALCULATE[step[1]](values[-1], int(step[2:])))
    assert all(0 <= value <= FAMILIES[family].largest for value in values)
    assert chain.answer == str(values[-1])
    assert [int(value) for value in re.findall(r"=(\d+)", chain.solution)] == values[1:]
    assert len(steps) in FAMILIES[family].lengths
    assert all(value >= FAMILIES[family].doubled for step, value in zip(steps, values, strict=False) if "*" in step)
    carries = sum(step.endswith("*2") and value % 10 >= 5 for step, value in zip(steps, values, strict=False))
    assert carries == FAMILIES[family].doublings == sum(step.endswith("*2") for step in steps)


def test_the_misconception_forgets_the_carry() -> None:
    assert [without_carry(value) for value in (27, 15, 9, 12)] == [44, 20, 8, 24]
    assert CHAIN.work(random.Random(0), 0.0, 1.0) == "a=22 b=18 c=26 \\boxed{26}"


def test_slips_are_as_frequent_as_asked_and_later_steps_follow_from_them() -> None:
    rng = random.Random(0)
    step, count = Chain("chain-2", 20, (Step("+", 5), Step("+", 2))), 4000
    texts = [re.findall(r"=(\d+)", step.work(rng, 0.25)) for _ in range(count)]
    slips = [int(first) - 25 for first, _ in texts]
    assert set(slips) == {0, *SLIPS}
    assert abs(sum(slip != 0 for slip in slips) / count - 0.25) < 0.03
    assert all(int(second) - int(first) - 2 in {0, *SLIPS} for first, second in texts)


def test_problems_are_different_and_leave_out_the_held_out_ones() -> None:
    held_out = draw_chains({"chain-3": 1}, 50, seed=1)
    texts = frozenset(chain.problem for chain in held_out)
    drawn = draw_chains({"chain-3": 1, "carry-3": 1}, 500, seed=2, exclude=texts)
    assert len({chain.problem for chain in drawn} | texts) == 550
    assert draw_chains({"chain-3": 1}, 50, seed=1) == held_out


def test_a_family_that_is_unknown_or_too_small_is_named() -> None:
    with pytest.raises(UserError, match="'chain-99' does not exist; there are: digit-2, chain-2"):
        draw_chains({"chain-99": 1}, 1, 0)
    with pytest.raises(UserError, match="fewer than 1000 different problems"):
        draw_chains({"carry-1": 1}, 1000, 0)


def test_wrong_hints_are_as_frequent_as_asked_and_lead_to_the_answer_they_name() -> None:
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    source = params.data.train
    assert isinstance(source, SyntheticSource) and source.wrong_hints == 0
    right, some = (
        load_problems(source.model_copy(update={"wrong_hints": share, "count": 600}), "train", params.data).problems
        for share in (0.0, 0.3)
    )
    assert [(p.problem, p.answer) for p in right] == [(p.problem, p.answer) for p in some], "the same problems"
    misled = [(before, after) for before, after in zip(right, some, strict=True) if isinstance(after, MisledProblem)]
    assert 0.25 < len(misled) / 600 < 0.35
    for before, after in misled:
        assert after.wrong_answer != after.answer and after.solution.endswith(f"boxed{{{after.wrong_answer}}}")
        teacher, student = render_teacher(params.prompts, after), render_student(params.prompts, after)
        assert teacher is not None and f"the answer is {after.wrong_answer}. Solution: {after.solution}" in teacher
        assert student == render_student(params.prompts, before)
    # A doubling with carry is answered as the misconception answers it.
    chain = Chain("carry-1", 18, (Step("*", 2),))
    assert chain.mistaken(random.Random(0)) == ("26", "a=26 \\boxed{26}")
