"""Makes problems of reasoning-gym: questions, answers, and worked solutions where a task has them."""

from collections import Counter
from collections.abc import Callable
import re
from typing import Any

from sdpg.errors import UserError
from sdpg.params import ReasoningGymSource
from sdpg.problems.sources import PosedProblem, Problem, ProblemSet, text_key
from sdpg.rewards.gym import Posed, gym_version, made_again, with_problem
from sdpg.seeds import derive_seed

PLAIN = re.compile(r"-?\d+(\.\d+)?")
"""Answers that the rules for numbers judge; the scorers of some tasks take -5 for 5."""
NONSENSE = ("x", "")
"""Answers to which no scorer may give full marks."""


def gym_problems(source: ReasoningGymSource, where: str, name: str, seed: int, needs_solution: bool) -> ProblemSet:
    """Makes the problems of a source; equal settings give equal problems.

    Args:
        source: the source.
        where: its name in errors.
        name: ``train`` or a benchmark's name, which has other problems than the same settings under another name.
        seed: the seed of the data.
        needs_solution: whether problems without a worked solution are dropped.

    Raises:
        UserError: if the package is missing, there is no such task, it does not take the settings, or its scorer gives
            full marks to nonsense, or not to its own answer.
    """
    gym_version()
    kept: dict[str, Problem] = {}
    dropped: Counter[str] = Counter()
    for number, (task, settings) in enumerate(source.tasks.items()):
        size = source.count // len(source.tasks) + (number < source.count % len(source.tasks))
        task_seed = derive_seed(seed, "reasoning_gym", name, task, source.seed) % 2**31
        for index in range(size):
            posed = Posed(task, index, task_seed, size, source.threshold, settings)
            place = f"{where}.tasks.{task}"
            dataset, entry = _made(posed, place)
            answer, solution = entry["answer"], _solution(entry)
            key = text_key(entry["question"])
            if not isinstance(answer, str) or not answer.strip():
                dropped["no_answer"] += 1
            elif needs_solution and not solution:
                dropped["no_solution"] += 1
            elif key in kept:
                dropped["duplicate"] += 1
            else:
                answer = answer.strip()
                origin = f"reasoning_gym/{task}"
                values = f"{name}-{task}-{index}", entry["question"].strip()
                if PLAIN.fullmatch(answer):
                    kept[key] = Problem(*values, answer, solution, origin)
                else:
                    _check_scorer(dataset.score_answer, entry, answer, posed, place)
                    kept[key] = PosedProblem(*values, with_problem(answer, posed), solution, origin, answer)
    return ProblemSet(list(kept.values()), source.count, dropped)


def _made(posed: Posed, place: str) -> tuple[Any, dict[str, Any]]:
    from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]

    if posed.task not in DATASETS:
        raise UserError(f"{place}: reasoning-gym has no such task; there are: {', '.join(sorted(DATASETS))}")
    try:
        return made_again(posed)
    # A task's settings are checked by assertions, and by whatever its code raises.
    except Exception as error:
        raise UserError(
            f"{place} is {posed.settings}, of which reasoning-gym says {type(error).__name__}: {error}. Correct the "
            f"settings; {DATASETS[posed.task][1].__name__} of reasoning-gym has them"
        ) from None


def _solution(entry: dict[str, Any]) -> str:
    """Returns the worked solution, without the answer behind it; empty where the task has none."""
    return str(entry.get("answer_cot") or entry["metadata"].get("answer_cot") or "").rpartition("####")[0].strip()


def _check_scorer(
    score: Callable[[str, dict[str, Any]], float | None], entry: dict[str, Any], answer: str, posed: Posed, place: str
) -> None:
    for given, right in ((answer, True), *((text, False) for text in NONSENSE if text != answer)):
        try:
            found = score(given, entry) or 0.0
        # An answer that makes a scorer raise gets no marks, and a status of its own later.
        except Exception:
            found = 0.0
        if (found >= posed.threshold) != right:
            raise UserError(
                f"{place}: its scorer gives {found:g} to {given!r}, where {answer!r} is right (threshold "
                f"{posed.threshold:g}), so that it could not judge: leave the task out, or change the threshold"
            )
