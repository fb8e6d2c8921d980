"""Finds where exact match and math-verify disagree: both verify each distinct pair of gold answer and answer."""

from collections.abc import Mapping
from dataclasses import dataclass

from sdpg.params import RewardParams
from sdpg.rewards.verifiers import Outcome, Status, Verifier
from sdpg.rewards.worker_pool import Pair


@dataclass(frozen=True)
class Disagreement:
    """A pair on which exact match says one thing and math-verify another, or does not answer."""

    gold: str
    answer: str
    """The answer as extracted."""
    count: int
    """The number of answers with this pair."""
    exact: Status
    """The verdict by normalised strings alone."""
    math_verify: Status
    """The verdict by math-verify alone."""
    verdict: Status
    """The verdict of the verifier that combines both."""
    reason: str
    """Why the verdict is what it is: the gold answer's kind and the rule that decided."""


@dataclass(frozen=True)
class Audit:
    """The outcome of comparing all pairs."""

    pairs: int
    answers: int
    disagreements: list[Disagreement]
    """Disagreements, the commonest first."""
    timeouts: list[Disagreement]
    """Pairs on which math-verify was stopped; they are not in ``disagreements``."""

    def summary(self) -> str:
        """Returns one sentence for people."""
        differing = sum(pair.count for pair in self.disagreements)
        kinds = [
            ("equal by exact match alone", Status.CORRECT, None),
            ("equal by math-verify alone and accepted", Status.WRONG, Status.CORRECT),
            ("equal by math-verify alone and refused by a rule", Status.WRONG, Status.WRONG),
            ("equal by math-verify alone, the verdict timed out", Status.WRONG, Status.TIMEOUT),
        ]
        parts = []
        for words, exact, verdict in kinds:
            count = sum(pair.exact is exact and verdict in (None, pair.verdict) for pair in self.disagreements)
            if count:
                parts.append(f"{count:,} {words}")
        return (
            f"audit: exact match and math-verify disagree on {len(self.disagreements):,} of {self.pairs:,} distinct "
            f"pairs ({differing:,} of {self.answers:,} answers){': ' if parts else ''}{', '.join(parts)}; "
            f"math-verify was stopped on {len(self.timeouts):,}"
        )


def audit(params: RewardParams, pairs: Mapping[Pair, int]) -> Audit:
    """Verifies every pair by both, which costs a call of math-verify for each, integers included.

    Args:
        params: the reward section, of which time limit and workers are read, but not ``verifier``.
        pairs: (gold, extracted answer) → number of answers that have it.
    """
    outcomes: dict[str, list[Outcome]] = {}
    for name in ("exact", "math_verify_only", "math_verify"):
        with Verifier(params.model_copy(update={"verifier": name})) as verifier:
            outcomes[name] = verifier.outcomes(list(pairs))
    disagreements, timeouts = [], []
    for pair, exact, math_verify, verdict in zip(pairs, *outcomes.values(), strict=True):
        if exact.status is not math_verify.status:
            gold, answer = pair
            disagreement = Disagreement(
                gold, answer, pairs[pair], exact.status, math_verify.status, verdict.status, verdict.reason
            )
            (timeouts if math_verify.status is Status.TIMEOUT else disagreements).append(disagreement)
    for each in (disagreements, timeouts):
        each.sort(key=lambda pair: -pair.count)
    return Audit(len(pairs), sum(pairs.values()), disagreements, timeouts)


def listed(audit: Audit, most: int) -> str:
    """Returns the summary and the first pairs, one per line; long answers are cut."""
    lines = [audit.summary()]
    for pair in (shown := [*audit.disagreements, *audit.timeouts])[:most]:
        lines.append(
            f"  {pair.count:>5} × gold {pair.gold[:60]!r}, answer {pair.answer[:60]!r}: exact match {pair.exact}, "
            f"math-verify {pair.math_verify}, verdict {pair.verdict} ({pair.reason})"
        )
    if len(shown) > most:
        lines.append(f"  … and {len(shown) - most:,} more")
    return "\n".join(lines)
