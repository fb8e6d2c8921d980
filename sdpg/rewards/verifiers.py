"""Verifies rewards: extracts a response's final answer, compares it with the gold answer, names what happened."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Protocol

from sdpg.params import RewardParams
from sdpg.rewards.extraction import (
    MAX_ANSWER_CHARACTERS,
    MAX_NESTING,
    STRING_MATCH_WINDOW,
    balanced,
    extract_answer_line,
    extract_boxed,
    is_integer,
    nesting,
    normalise_answer,
    normalise_string,
    rational,
    without_spacing,
)
from sdpg.rewards.math_verify_pool import (
    MATH_VERIFY_MEMORY_BYTES,
    every_side_equal,
    math_verify_equal,
    warm_math_verify,
)
from sdpg.rewards.refusals import exact_part, refusal, stated_number
from sdpg.rewards.worker_pool import Pair, PairPool

RULES_VERSION = "5"
"""Version of the rules, raised when extraction, :func:`normalise_answer`, a refusal or math-verify's use changes."""
STRING_MATCH_VERSION = "1"
"""Version of string_match, raised whenever a rule of :func:`normalise_string` or its extraction changes."""
CACHE_SIZE = 65_536
"""The number of verified (gold, answer) pairs that are remembered across calls."""


class Status(StrEnum):
    """The outcome of verifying one response."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The response ended by itself without an answer in the required form."""
    TRUNCATED = "truncated"
    """The response was cut at the token limit and has no answer. An answer found in a cut response is verified."""
    TIMEOUT = "timeout"
    """Verifying took too long or broke its worker: the verdict is unknown, and the reward is that of a wrong answer."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one response."""

    status: Status
    extracted_answer: str | None
    """The answer as the response wrote it, trimmed; ``None`` where there is none."""
    reward: float


class Scorer(Protocol):
    """The part of a verifier that training and evaluation use; see :class:`Verifier`."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]: ...


class Verifier:
    """Scores responses with the configured verifier; a context manager, as it may hold worker processes.

    math_verify decides in this order: equal normalised strings are equal; two whole numbers that differ are different;
    an answer that :func:`sdpg.rewards.refusals.refusal` names is wrong; what differs in spacing alone is equal; two
    rational numbers are compared exactly; math-verify decides the rest, each distinct pair once, in a worker that is
    killed at ``params.timeout``. The other verifiers are parts of that, or the public code's rule; see
    docs/verifiers.md.

    Args:
        params: the ``reward`` section.
        verify: ``(gold, answer) → equal``, run in the workers instead of math-verify; must be importable by name, from
            a module free of torch.
    """

    def __init__(self, params: RewardParams, verify: Callable[[str, str], bool] | None = None):
        self.params = params
        asked = math_verify_equal if params.verifier == "math_verify_only" else every_side_equal
        if verify:
            self._pool = PairPool(verify, params.workers, params.timeout)
        else:
            self._pool = PairPool(asked, params.workers, params.timeout, warm_math_verify, MATH_VERIFY_MEMORY_BYTES)
        self._cache: OrderedDict[Pair, Status] = OrderedDict()

    @property
    def name(self) -> str:
        """Returns the verifier's name, for records."""
        return self.params.verifier_name

    @property
    def version(self) -> str:
        """Returns the versions of math-verify and of our rules, or of our rules alone where math-verify is not used."""
        match self.name:
            case "string_match":
                return STRING_MATCH_VERSION
            case "exact":
                return RULES_VERSION
        return f"{version('math-verify')}+rules.{RULES_VERSION}"

    @property
    def failures(self) -> int:
        """Returns the number of verifications so far that ended in a time-out or a crashed worker."""
        return self._pool.failures

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers; a later :meth:`score` starts new ones."""
        self._pool.close()

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        """Returns one verdict per response, in order; ``truncated`` tells which responses hit the token limit."""
        answers = [self._extract(completion) for completion in completions]
        pairs = [(gold, answer or "") for gold, answer in zip(golds, answers, strict=True)]
        verdicts = []
        for answer, status, cut in zip(answers, self.compare(pairs), truncated, strict=True):
            if answer is None:
                status = Status.TRUNCATED if cut else Status.NO_ANSWER
            reward = self.params.correct if status is Status.CORRECT else self.params.wrong
            verdicts.append(Verdict(status, answer, reward))
        return verdicts

    def compare(self, pairs: Sequence[Pair]) -> list[Status]:
        """Returns correct, wrong or timeout for each gold answer and extracted answer, as they were written."""
        normalise = normalise_string if self.name == "string_match" else normalise_answer
        normal = [
            (normalise(gold), normalise(answer)) if len(answer) <= MAX_ANSWER_CHARACTERS else None
            for gold, answer in pairs
        ]
        statuses = self._compare_distinct(dict.fromkeys(pair for pair in normal if pair))
        return [statuses[pair] if pair else Status.WRONG for pair in normal]

    def _extract(self, text: str) -> str | None:
        if self.name == "string_match":
            text = text[-STRING_MATCH_WINDOW:]
        if self.params.answer_format == "answer_line":
            answer = extract_answer_line(text)
            return extract_boxed(answer or "") or answer
        answer = extract_boxed(text)
        if answer is None and self.name == "string_match":
            answer = extract_answer_line(text)
        return answer or None

    def _compare_distinct(self, pairs: Iterable[Pair]) -> dict[Pair, Status]:
        statuses: dict[Pair, Status] = {}
        hard = []
        for pair in pairs:
            status = self.decide(*pair) or self._cache.get(pair)
            if status is None:
                hard.append(pair)
            else:
                statuses[pair] = status
                if pair in self._cache:
                    self._cache.move_to_end(pair)
        for pair, equal in self._pool.run(hard).items():
            if equal is None:
                statuses[pair] = Status.TIMEOUT  # not remembered: it may have been the machine's fault
            else:
                statuses[pair] = self._cache[pair] = Status.CORRECT if equal else Status.WRONG
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return statuses

    def decide(self, gold: str, answer: str) -> Status | None:
        """Returns the verdict where math-verify is not needed, else ``None``."""
        # An unbalanced answer could close the box in which math-verify gets it and open another.
        readable = bool(answer) and balanced(answer) and nesting(answer) <= MAX_NESTING
        if self.name == "math_verify_only":
            return None if readable else Status.WRONG
        if gold == answer and answer:
            return Status.CORRECT
        strings_alone = self.name in ("exact", "string_match")
        if strings_alone or not readable or (is_integer(gold) and is_integer(answer)) or refusal(gold, answer):
            return Status.WRONG
        if without_spacing(gold) == without_spacing(answer):
            return Status.CORRECT
        return self._decide_exactly(gold, answer)

    def _decide_exactly(self, gold: str, answer: str) -> Status | None:
        """Returns the verdict on two rational numbers, except unequal decimals: math-verify lets those be rounded."""
        stated = normalise_answer(stated_number(exact_part(gold, answer)))
        wanted, given = rational(gold), rational(stated)
        if wanted is None or given is None or (wanted != given and "." in gold + stated):
            return None
        return Status.CORRECT if wanted == given else Status.WRONG
