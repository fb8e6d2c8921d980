"""The work itself: problems without a solution go through the ways in order, and what comes of each is counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdpg.problems.sources import Problem
from sdpg.solutions.candidates import REASONS, Candidate, Way, is_bare

if TYPE_CHECKING:
    # It needs a tokenizer, whose import takes seconds; a wrong option is said before.
    from sdpg.solutions.checking import Checker

HAD = "source"
"""The way of a solution that was there already; it is left as it is, and nothing is said about its answer."""


@dataclass(frozen=True)
class Solution:
    """A checked solution and where it is from."""

    text: str
    way: str
    origin: str
    request: str | None


@dataclass
class Filled:
    """Problems in their order, solutions by problem id, and counts."""

    problems: Sequence[Problem]
    solutions: dict[str, Solution] = field(default_factory=dict)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    """Way → reason → candidates."""
    not_asked: Counter[str] = field(default_factory=Counter)
    """Reason → problems without a solution that no way was asked about."""
    used: dict[str, dict[str, int]] = field(default_factory=dict)
    """Way → what it has cost."""

    @property
    def ways(self) -> Counter[str]:
        """Way → problems that have their solution from it."""
        return Counter(solution.way for solution in self.solutions.values())

    @property
    def missing(self) -> int:
        """Problems that still have no solution."""
        return len(self.problems) - len(self.solutions)

    def rows(self, verifier: str, verifier_version: str, settings: str) -> list[dict[str, Any]]:
        """One row per problem, with or without solution, as the result's file holds them."""
        return [self._row(problem, verifier, verifier_version, settings) for problem in self.problems]

    def _row(self, problem: Problem, verifier: str, version: str, settings: str) -> dict[str, Any]:
        solution = self.solutions.get(problem.id)
        checked = solution is not None and solution.way != HAD
        return {
            "id": problem.id,
            "problem": problem.problem,
            "answer": problem.answer,
            "solution": None if solution is None else solution.text,
            "source": problem.source,
            "solution_way": None if solution is None else solution.way,
            "solution_from": None if solution is None else solution.origin,
            "solution_request": None if solution is None else solution.request,
            "verifier": verifier if checked else None,
            "verifier_version": version if checked else None,
            "settings": settings,
        }

    def summary(self) -> dict[str, Any]:
        """Counts, ready for JSON."""
        ways = self.ways
        return {
            "problems": len(self.problems),
            "had_one": ways[HAD],
            "filled": {way: ways[way] for way in self.used},
            "missing": self.missing,
            "not_asked": dict(self.not_asked),
            "rejected": {
                way: {reason: counts[reason] for reason in REASONS if counts[reason]}
                for way, counts in self.rejected.items()
            },
            "used": self.used,
        }


def fill(problems: Sequence[Problem], ways: Sequence[Way], checker: "Checker", keep: str, limit: int | None) -> Filled:
    """Looks for solutions of the problems that have none.

    Args:
        problems: distinct ids.
        ways: asked in this order; a later one only about what is still missing.
        checker: decides what is accepted.
        keep: ``first`` or ``shortest`` right candidate of a way.
        limit: ask about the first so many of those without a solution.
    """
    filled = Filled(problems)
    waiting = []
    for problem in problems:
        if problem.solution and not is_bare(problem.solution, problem.answer):
            filled.solutions[problem.id] = Solution(problem.solution, HAD, problem.source, None)
        elif not checker.usable(problem):
            filled.not_asked["student_prompt_too_long"] += 1
        elif limit is not None and len(waiting) == limit:
            filled.not_asked["over_limit"] += 1
        else:
            waiting.append(problem)
    for way in ways:
        found = _search(waiting, way, checker, keep, filled.rejected.setdefault(way.name, Counter()))
        filled.solutions |= found
        filled.used[way.name] = way.used()
        waiting = [problem for problem in waiting if problem.id not in found]
    return filled


def _search(
    problems: Sequence[Problem], way: Way, checker: "Checker", keep: str, rejected: Counter[str]
) -> dict[str, Solution]:
    best: dict[str, Solution] = {}
    for attempt in range(way.rounds):
        asked = [problem for problem in problems if keep == "shortest" or problem.id not in best]
        if not asked:
            break
        offered = way.ask(asked, attempt)
        pairs = [(problem, one) for problem, many in zip(asked, offered, strict=True) for one in many]
        for (problem, candidate), checked in zip(pairs, checker.check(pairs), strict=True):
            if checked.reason is not None:
                rejected[checked.reason] += 1
            elif _better(checked.text, best.get(problem.id), keep):
                best[problem.id] = _solution(checked.text, way, candidate)
    return best


def _better(text: str, known: Solution | None, keep: str) -> bool:
    return known is None or (keep == "shortest" and len(text) < len(known.text))


def _solution(text: str, way: Way, candidate: Candidate) -> Solution:
    return Solution(text, way.name, candidate.origin, candidate.request)
