"""Judges answers to reasoning-gym's problems by the scorers of their tasks.

A gold answer that is a plain number needs none: the rules for numbers are stricter than those scorers. Any other names
the problem behind the answer, so that a worker process makes it again and asks its scorer. A worker imports this
module, so it must import neither torch nor transformers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
import json
import re
from typing import Any

from sdpg.errors import UserError
from sdpg.params import RewardParams
from sdpg.rewards.extraction import MAX_ANSWER_CHARACTERS
from sdpg.rewards.verifiers import Outcome, Status, Verifier
from sdpg.rewards.worker_pool import WORKER_MEMORY_BYTES, Pair, PairPool

MISSING = (
    "reasoning-gym is not installed, and the problems or the verifier reasoning_gym need it: "
    "make install-reasoning-gym; docs/reasoning_gym.md says why it is installed by itself"
)
_POSED = re.compile(r"(?s)(.*) ⟪reasoning_gym (\{.*\})⟫")


@dataclass(frozen=True)
class Posed:
    """Where a problem of reasoning-gym comes from; whoever makes it again gets the same.

    Attributes:
        task: the name of the task.
        index: the problem's place among those of its seed.
        seed: the seed of the task.
        size: how many problems were made, on which those of some tasks depend.
        threshold: the score from which an answer is right.
        settings: the settings of the task.
    """

    task: str
    index: int
    seed: int
    size: int
    threshold: float = 1.0
    settings: dict[str, Any] = field(default_factory=dict)


def with_problem(answer: str, posed: Posed) -> str:
    """Returns the gold answer that says by which problem's scorer it is judged."""
    return f"{answer} ⟪reasoning_gym {json.dumps(asdict(posed))}⟫"


def posed_gold(gold: str) -> tuple[str, Posed] | None:
    """Returns the plain answer and the problem of a gold answer; ``None`` where it names no problem."""
    match = _POSED.fullmatch(gold)
    return None if match is None else (match[1], Posed(**json.loads(match[2])))


@lru_cache(maxsize=32)
def _dataset(task: str, seed: int, size: int, settings: str) -> Any:
    import reasoning_gym  # pyright: ignore[reportMissingImports]

    return reasoning_gym.create_dataset(task, seed=seed, size=size, **json.loads(settings))


def made_again(posed: Posed) -> tuple[Any, dict[str, Any]]:
    """Returns a problem's dataset, which has its scorer, and the problem."""
    dataset = _dataset(posed.task, posed.seed, posed.size, json.dumps(posed.settings))
    return dataset, dataset[posed.index]


def judge_posed(gold: str, answer: str) -> Outcome:
    """Returns whether the scorer of a gold answer's problem gives an answer the score that makes it right.

    A scorer that raises an exception says nothing of the answer: its status is ``timeout``, with the reason.
    """
    found = posed_gold(gold)
    assert found is not None, "the caller has looked"
    posed = found[1]
    dataset, problem = made_again(posed)
    try:
        score = dataset.score_answer(answer, problem)
    # What a scorer raises on an answer that it does not expect is different for each task.
    except Exception as error:
        return Outcome(Status.TIMEOUT, f"{posed.task}: its scorer raised {type(error).__name__}")
    right = score is not None and score >= posed.threshold
    return Outcome(Status.CORRECT if right else Status.WRONG, f"{posed.task}: score {score or 0:.3g}")


def warm_gym() -> None:
    """Imports reasoning-gym, so that no answer's time limit pays for it."""
    import reasoning_gym  # noqa: F401  # pyright: ignore[reportMissingImports]


def gym_version() -> str:
    """Returns the version of reasoning-gym.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return version("reasoning-gym")
    except PackageNotFoundError:
        raise UserError(MISSING) from None


class GymVerifier(Verifier):
    """Judges reasoning-gym's problems by their scorers, and all other gold answers as math_verify does.

    Args:
        params: the ``reward`` section.

    Raises:
        UserError: if reasoning-gym is not installed.
    """

    def __init__(self, params: RewardParams) -> None:
        super().__init__(params)
        self._rules = "math_verify"
        self._gym_version = gym_version()
        self._scorers: PairPool[Outcome] = PairPool(
            judge_posed, params.workers, params.timeout, warm_gym, WORKER_MEMORY_BYTES
        )

    @property
    def version(self) -> str:
        """Returns the versions of reasoning-gym and of the rules for other gold answers."""
        return f"reasoning-gym {self._gym_version}+{super().version}"

    @property
    def failures(self) -> int:
        """Returns the number of verifications so far that ended in a time-out or a crashed worker."""
        return super().failures + self._scorers.failures

    def close(self) -> None:
        """Ends the workers; a later :meth:`score` starts new ones."""
        super().close()
        self._scorers.close()

    def outcomes(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Returns correct, wrong or timeout for each gold answer and extracted answer, and why."""
        posed = {pair: found for pair in dict.fromkeys(pairs) if (found := posed_gold(pair[0])) is not None}
        outcomes: dict[Pair, Outcome] = {}
        for pair, (plain, problem) in posed.items():
            if not pair[1] or len(pair[1]) > MAX_ANSWER_CHARACTERS:
                outcomes[pair] = Outcome(Status.WRONG, "an answer that is too long" if pair[1] else "no answer")
            elif pair[1].strip() == plain:
                outcomes[pair] = Outcome(Status.CORRECT, f"{problem.task}: the same text")
        asked = {pair: None for pair in posed if pair not in outcomes}
        for pair, outcome in self._scorers.run(asked).items():
            task = posed[pair][1].task
            outcomes[pair] = outcome or Outcome(Status.TIMEOUT, f"{task}: stopped while it was scored")
        plain = [pair for pair in pairs if pair not in posed]
        outcomes |= dict(zip(plain, super().outcomes(plain), strict=True))
        return [outcomes[pair] for pair in pairs]
