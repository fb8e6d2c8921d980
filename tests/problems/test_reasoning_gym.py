"""Tests reasoning-gym's problems and scorers, where the package is installed: make install-reasoning-gym."""

from importlib.util import find_spec
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.params import ReasoningGymSource, RewardParams, load_params, parse_params
from sdpg.problems.prompts import render_teacher
from sdpg.problems.sources import PosedProblem, ProblemSet, load_problems
from sdpg.rewards.gym import GymVerifier, Posed, judge_posed, posed_gold, with_problem
from sdpg.rewards.own import make_verifier
from sdpg.rewards.verifiers import Status

installed = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
PARAMS = RewardParams(verifier="reasoning_gym", timeout=20.0)


def load(tasks: dict[str, Any], count: int = 6, name: str = "train", solved: bool = False, **more: Any) -> ProblemSet:
    source = ReasoningGymSource(kind="reasoning_gym", tasks=tasks, count=count, **more)
    return load_problems(source, name, load_params().data, needs_solution=solved)


def tree(**reward: Any) -> Any:
    found = load_params().model_dump()
    found["methods"] = {"grpo": {"title": "GRPO", "outcome": "reinforce"}}
    found["run"]["methods"] = ["grpo"]
    found["data"]["benchmarks"] = {
        "gym": {"title": "Gym", "source": {"kind": "reasoning_gym", "tasks": {"gsm_symbolic": {}}, "count": 4}}
    }
    found["reward"] |= reward
    return found


def test_the_verifier_that_can_judge_is_named() -> None:
    with pytest.raises(UserError, match=r"reward\.verifier is math_verify, which cannot judge .* reasoning_gym"):
        parse_params(tree())
    assert parse_params(tree(verifier="reasoning_gym")).reward.verifier_name == "reasoning_gym"


def test_a_gold_answer_names_its_problem() -> None:
    posed = Posed("a task", 3, 7, 10, 0.5, {"size": [1, 2]})
    assert posed_gold(with_problem("x ⟪y⟫\n{z}", posed)) == ("x ⟪y⟫\n{z}", posed)
    assert posed_gold("204") is None


@pytest.mark.skipif(find_spec("reasoning_gym") is not None, reason="reasoning-gym is installed")
def test_without_the_package_the_remedy_is_named() -> None:
    for use in (lambda: load({"gsm_symbolic": {}}), lambda: make_verifier(PARAMS)):
        with pytest.raises(UserError, match="make install-reasoning-gym"):
            use()


@installed
def test_symbolic_problems_have_worked_solutions_and_plain_golds() -> None:
    found = load({"gsm_symbolic": {}}, 40, solved=True)
    assert len(found.problems) + found.dropped.total() == 40 and len(found.problems) > 30
    for one in found.problems:
        assert one.solution and "####" not in one.solution and one.source == "reasoning_gym/gsm_symbolic"
        float(one.answer)
    assert found == load({"gsm_symbolic": {}}, 40, solved=True)
    texts = {one.problem for one in found.problems}
    assert not texts & {one.problem for one in load({"gsm_symbolic": {}}, 40, "test").problems}
    assert not texts & {one.problem for one in load({"gsm_symbolic": {}}, 40, seed=1).problems}


@installed
def test_verdicts_are_the_rules_for_numbers_and_the_scorers_for_the_rest() -> None:
    problems = load({"gsm_symbolic": {}, "countdown": {}, "letter_jumble": {}}, 9).problems
    assert {one.id.rpartition("-")[0] for one in problems} == {
        "train-gsm_symbolic", "train-countdown", "train-letter_jumble",
    }  # fmt: skip
    number, third = problems[1], problems[5]
    assert isinstance(third, PosedProblem) and third.id == "train-countdown-2"
    shown = render_teacher(load_params().prompts.model_copy(update={"hint": "answer"}), third)
    assert shown is not None and third.plain_answer in shown and "⟪" not in shown
    jumble = problems[7]
    assert isinstance(jumble, PosedProblem)
    reordered = f"0 + {third.plain_answer}"
    asked = [
        (number.answer, number.answer, "correct"), (number.answer, f"-{number.answer}", "wrong"),
        (third.answer, third.plain_answer, "correct"), (third.answer, reordered, "wrong"),
        (third.answer, "1", "wrong"), (jumble.answer, jumble.plain_answer, "correct"),
        # Of some scorers a part of the answer has part of the marks.
        (jumble.answer, jumble.plain_answer[:-1], "wrong"), (r"\frac{1}{2}", "0.5", "correct"),
    ]  # fmt: skip
    with make_verifier(PARAMS) as verifier:
        assert isinstance(verifier, GymVerifier) and verifier.version.startswith("reasoning-gym 0.1.")
        verdicts = verifier.score([rf"\boxed{{{answer}}}" for _, answer, _ in asked], [gold for gold, _, _ in asked],
                                  [False] * len(asked))  # fmt: skip
        assert [verdict.status for verdict in verdicts] == [status for _, _, status in asked]
        assert verdicts[3].reason.startswith("countdown: score ")
        [nothing, cut, long] = verifier.score(["none", "none", rf"\boxed{{{'9' * 1500}}}"], [third.answer] * 3,
                                              [False, True, False])  # fmt: skip
        assert [one.status for one in (nothing, cut, long)] == ["no_answer", "truncated", "wrong"]


@installed
def test_partial_scores_are_thresholded_and_a_scorer_that_raises_is_a_status() -> None:
    gold = with_problem("x", Posed("gsm_symbolic", 0, 3, 4, 0.01))
    assert judge_posed(gold, "123456").status == Status.CORRECT  # .01 for any number
    gold = with_problem("x", Posed("gsm_symbolic", 0, 3, 4))
    assert judge_posed(gold, "123456").status == Status.WRONG
    gold = with_problem("x", Posed("prime_factorization", 0, 3, 4))
    found = judge_posed(gold, "x")
    assert (found.status, found.reason) == (Status.TIMEOUT, "prime_factorization: its scorer raised ValueError")


@installed
def test_hostile_answers_earn_nothing() -> None:
    tasks = {"countdown": {}, "prime_factorization": {}, "sudoku": {}, "zebra_puzzles": {}, "spell_backward": {}}
    problems = load(tasks, 5).problems
    hostile = ["", "{" * 400, "9" * 900, "__import__('os')", "1/0", "[[1]", "\x00", "ß" * 300, "9**9**9**9", "None"]
    with make_verifier(RewardParams(verifier="reasoning_gym", timeout=1.0)) as verifier:
        golds = [one.answer for one in problems for _ in hostile]
        texts = [rf"\boxed{{{answer}}}" for _ in problems for answer in hostile]
        found = verifier.score(texts, golds, [False] * len(golds))
    assert len(found) == 50 and not [one for one in found if one.status is Status.CORRECT]


@installed
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"no_such": {}}, r"data\.train\.tasks\.no_such: reasoning-gym has no such task; there are: .*countdown"),
        ({"countdown": {"sizes": 3}}, r"tasks\.countdown is \{'sizes': 3\}, of which reasoning-gym says TypeError"),
        ({"countdown": {"min_numbers": -1}}, "says AssertionError"),
        ({"game_of_life_halting": {}}, r"its scorer gives 1 to 'x', where '\w+' is right .*leave the task out"),
    ],
)
def test_tasks_that_cannot_be_used_are_named(tasks: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(tasks)


@installed
def test_problems_without_an_answer_are_counted() -> None:
    assert dict(load({"graph_color": {}}, 3).dropped) == {"no_answer": 3}
