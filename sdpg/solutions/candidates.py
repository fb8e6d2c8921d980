"""Defines what a source of solutions offers, before anything is known about it, and why it may be rejected."""

from collections.abc import Sequence
from dataclasses import dataclass
import re
from typing import Protocol

from sdpg.problems.sources import Problem
from sdpg.rewards.extraction import normalise_answer

REASONS = (
    "refused",
    "no_reply",
    "empty",
    "unprintable",
    "control_tokens",
    "truncated",
    "bare_answer",
    "no_answer",
    "wrong",
    "timeout",
    "teacher_prompt_too_long",
)
"""Reasons why a candidate is rejected, in the order in which they are looked for; see docs/solutions.md."""


@dataclass(frozen=True)
class Candidate:
    """A solution that has not been checked.

    Attributes:
        text: the solution as it came.
        origin: the dataset or model that it is from, for people.
        request: the digest of the request that brought it; ``None`` for a dataset's row.
        truncated: whether the text was cut at the token limit.
        failure: the reason why there is no text at all, or ``None``.
    """

    text: str
    origin: str
    request: str | None = None
    truncated: bool = False
    failure: str | None = None


class SolutionSource(Protocol):
    """A source of solutions: a dataset, an endpoint or the local engine."""

    name: str
    rounds: int
    """How many candidates a problem may be given."""

    def find_candidates(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        """Returns the candidates of each problem in this round, best first; ``attempt`` counts rounds from 0."""
        ...

    def used(self) -> dict[str, int]:
        """Returns what the source has cost so far, as counts by name."""
        ...


def is_bare(text: str, answer: str) -> bool:
    """Returns whether a solution is the answer and nothing else."""
    return len(text) < 200 and normalise_answer(re.sub(r"\A(?:final )?answer\s*:\s*", "", text, flags=re.I)) == answer
