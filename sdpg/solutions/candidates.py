"""What a way to solutions offers, before anything is known about it, and why it may be rejected."""

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
"""Why a candidate is rejected, in the order in which it is looked for; see docs/solutions.md."""


@dataclass(frozen=True)
class Candidate:
    """A solution that has not been checked.

    Attributes:
        text: as it came.
        origin: the dataset or model that it is from, for people.
        request: digest of what was asked; ``None`` for a dataset's row.
        truncated: it was cut at the token limit.
        failure: why there is no text at all, or ``None``.
    """

    text: str
    origin: str
    request: str | None = None
    truncated: bool = False
    failure: str | None = None


class Way(Protocol):
    """Where solutions may come from."""

    name: str
    rounds: int
    """How often a problem may be asked."""

    def ask(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        """The candidates of each problem in this round, best first; ``attempt`` counts rounds from 0."""
        ...

    def used(self) -> dict[str, int]:
        """What it has cost so far, as counts by name."""
        ...


def is_bare(text: str, answer: str) -> bool:
    """Whether a solution is the answer and nothing else."""
    return len(text) < 200 and normalise_answer(re.sub(r"\A(?:final )?answer\s*:\s*", "", text, flags=re.I)) == answer
