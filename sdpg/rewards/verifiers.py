"""Verifies rewards: extracts a response's final answer, compares it with the gold answer, names what happened."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Protocol

from sdpg.params import RewardParams
from sdpg.rewards.answers.arithmetic import TooHardError
from sdpg.rewards.answers.judging import judge, judge_hard, read_gold
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
)
from sdpg.rewards.math_verify_pool import MATH_VERIFY_MEMORY_BYTES, math_verify_equal, warm_math_verify
from sdpg.rewards.worker_pool import Pair, PairPool

RULES_VERSION = "6"
"""Version of the rules, raised when extraction, normalisation, a kind's rules or math-verify's use changes."""
STRING_MATCH_VERSION = "2"
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
    reason: str = field(default="", compare=False)
    """Why: the gold answer's kind and the rule that decided; empty where the verifier gives none."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of comparing a gold answer with an answer, and why."""

    status: Status
    reason: str


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
    :func:`sdpg.rewards.answers.judging.judge` reads both answers and compares within the gold answer's kind; what
    bounded exact arithmetic does not tell, each distinct pair once, a worker does that is killed at ``params.timeout``.
    The other verifiers are parts of that, or the public code's rule; see docs/verifiers.md.

    Args:
        params: the ``reward`` section.
        verify: ``(gold, answer) → equal``, run in the workers on whatever strings do not tell, instead of the rules;
            must be importable by name, from a module free of torch.
    """

    def __init__(self, params: RewardParams, verify: Callable[[str, str], bool] | None = None):
        self.params = params
        self._rules = params.verifier_name
        self._asks = verify is not None or params.verifier == "math_verify_only"
        asked = verify or (math_verify_equal if self._asks else judge_hard)
        self._pool: PairPool[Any] = (
            PairPool(asked, params.workers, params.timeout)
            if verify
            else PairPool(asked, params.workers, params.timeout, warm_math_verify, MATH_VERIFY_MEMORY_BYTES)
        )
        self._cache: OrderedDict[Pair, Outcome] = OrderedDict()

    @property
    def name(self) -> str:
        """Returns the verifier's name, for records."""
        return self.params.verifier_name

    @property
    def version(self) -> str:
        """Returns the versions of math-verify and of our rules, or of our rules alone where math-verify is not used."""
        match self._rules:
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
        for answer, outcome, cut in zip(answers, self.outcomes(pairs), truncated, strict=True):
            status, reason = outcome.status, outcome.reason
            if answer is None:
                status, reason = (Status.TRUNCATED if cut else Status.NO_ANSWER), "no answer"
            reward = self.params.correct if status is Status.CORRECT else self.params.wrong
            verdicts.append(Verdict(status, answer, reward, reason))
        return verdicts

    def compare(self, pairs: Sequence[Pair]) -> list[Status]:
        """Returns correct, wrong or timeout for each gold answer and extracted answer, as they were written."""
        return [outcome.status for outcome in self.outcomes(pairs)]

    def outcomes(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Returns correct, wrong or timeout for each gold answer and extracted answer, and why."""
        short = [pair for pair in pairs if len(pair[1]) <= MAX_ANSWER_CHARACTERS]
        found = self._compare_distinct(dict.fromkeys(short))
        return [found.get(pair, Outcome(Status.WRONG, "an answer that is too long")) for pair in pairs]

    def _extract(self, text: str) -> str | None:
        if self._rules == "string_match":
            text = text[-STRING_MATCH_WINDOW:]
        if self.params.answer_format == "answer_line":
            answer = extract_answer_line(text)
            return extract_boxed(answer or "") or answer
        answer = extract_boxed(text)
        if answer is None and self._rules == "string_match":
            answer = extract_answer_line(text)
        return answer or None

    def _compare_distinct(self, pairs: Iterable[Pair]) -> dict[Pair, Outcome]:
        outcomes: dict[Pair, Outcome] = {}
        hard: dict[Pair, list[Pair]] = {}
        for pair in pairs:
            outcome = self._cache.get(pair) or self.decide(*pair)
            if outcome is None:
                # A verifier that is given strings gets them without their packaging, each pair once.
                asked = (normalise_answer(pair[0]), normalise_answer(pair[1])) if self._asks else pair
                hard.setdefault(asked, []).append(pair)
                continue
            outcomes[pair] = self._cache[pair] = outcome
            self._cache.move_to_end(pair)
        for asked, found in self._pool.run(hard).items():
            for pair in hard[asked]:
                if found is None:
                    # Not remembered: it may have been the machine's fault.
                    outcomes[pair] = Outcome(Status.TIMEOUT, f"{self._kind(pair[0])}: stopped while it was compared")
                else:
                    outcomes[pair] = self._cache[pair] = self._outcome(found)
        while len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)
        return outcomes

    def _outcome(self, found: Any) -> Outcome:
        if isinstance(found, bool):
            return Outcome(_STATUS[found], f"{self._rules}: {'equal' if found else 'unequal'}")
        return Outcome(_STATUS[found.correct], found.reason)

    def _kind(self, gold: str) -> str:
        return read_gold(gold).kind if self._rules == "math_verify" else self._rules

    def decide(self, gold: str, answer: str) -> Outcome | None:
        """Returns the verdict where no worker is needed, else ``None``."""
        normalise = normalise_string if self._rules == "string_match" else normalise_answer
        wanted, given = normalise(gold), normalise(answer)
        # An unbalanced answer could close the box in which math-verify gets it and open another.
        readable = bool(given) and balanced(answer) and nesting(answer) <= MAX_NESTING
        if self._rules == "math_verify_only":
            return None if readable else Outcome(Status.WRONG, "not readable")
        if wanted == given and given:
            return Outcome(Status.CORRECT, f"{self._kind(gold)}: the same text")
        if self._rules in ("exact", "string_match"):
            return Outcome(Status.WRONG, f"{self._kind(gold)}: another text")
        if not readable:
            return Outcome(Status.WRONG, "not readable: empty, unbalanced, or nested too deeply")
        if is_integer(wanted) and is_integer(given):
            return Outcome(Status.WRONG, "integer: another value")
        if self._asks:
            return None
        try:
            return self._outcome(judge(gold, answer))
        except TooHardError:
            return None


_STATUS = {True: Status.CORRECT, False: Status.WRONG}
