"""Fills in missing solutions: problems without one go through the sources in order, and the outcomes are counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdpg.problems.sources import Problem
from sdpg.solutions.candidates import REASONS, Candidate, SolutionSource, is_bare

if TYPE_CHECKING:
    # Checker needs a tokenizer, whose import takes seconds; a wrong option is reported before.
    from sdpg.solutions.checking import Checker

GIVEN = "source"
"""The source of a solution that was there already; it is kept as it is, and its answer is not verified."""


@dataclass(frozen=True)
class Solution:
    """A checked solution and where it is from."""

    text: str
    source: str
    origin: str
    request: str | None


@dataclass
class Filled:
    """The problems in their order, the solutions by problem id, and counts."""

    problems: Sequence[Problem]
    solutions: dict[str, Solution] = field(default_factory=dict)
    rejected: dict[str, Counter[str]] = field(default_factory=dict)
    """Source → reason → number of rejected candidates."""
    not_asked: Counter[str] = field(default_factory=Counter)
    """Reason → number of problems without a solution that no source was asked about."""
    used: dict[str, dict[str, int]] = field(default_factory=dict)
    """Source → what it has cost."""

    @property
    def sources(self) -> Counter[str]:
        """Returns source → number of problems that have their solution from it."""
        return Counter(solution.source for solution in self.solutions.values())

    @property
    def missing(self) -> int:
        """Returns the number of problems that still have no solution."""
        return len(self.problems) - len(self.solutions)

    def rows(self, verifier: str, verifier_version: str, settings: str) -> list[dict[str, Any]]:
        """Returns one row per problem, with or without solution, as the result's file holds them."""
        return [self._row(problem, verifier, verifier_version, settings) for problem in self.problems]

    def _row(self, problem: Problem, verifier: str, version: str, settings: str) -> dict[str, Any]:
        solution = self.solutions.get(problem.id)
        checked = solution is not None and solution.source != GIVEN
        return {
            "id": problem.id,
            "problem": problem.problem,
            "answer": problem.answer,
            "solution": None if solution is None else solution.text,
            "source": problem.source,
            "solution_way": None if solution is None else solution.source,
            "solution_from": None if solution is None else solution.origin,
            "solution_request": None if solution is None else solution.request,
            "verifier": verifier if checked else None,
            "verifier_version": version if checked else None,
            "settings": settings,
        }

    def summary(self) -> dict[str, Any]:
        """Returns the counts, ready for JSON."""
        sources = self.sources
        return {
            "problems": len(self.problems),
            "had_one": sources[GIVEN],
            "filled": {source: sources[source] for source in self.used},
            "missing": self.missing,
            "not_asked": dict(self.not_asked),
            "rejected": {
                source: {reason: counts[reason] for reason in REASONS if counts[reason]}
                for source, counts in self.rejected.items()
            },
            "used": self.used,
        }


def fill(
    problems: Sequence[Problem], sources: Sequence[SolutionSource], checker: "Checker", keep: str, limit: int | None
) -> Filled:
    """Looks for solutions of the problems that have none.

    Args:
        problems: the problems, whose ids are distinct.
        sources: the sources in the order in which they are asked; a later one is asked about what is still missing.
        checker: the checker that decides what is accepted.
        keep: which right candidate of a source is taken, ``first`` or ``shortest``.
        limit: how many problems without a solution are asked about; the first ones are taken.
    """
    filled = Filled(problems)
    waiting = []
    for problem in problems:
        if problem.solution and not is_bare(problem.solution, problem.answer):
            filled.solutions[problem.id] = Solution(problem.solution, GIVEN, problem.source, None)
        elif not checker.usable(problem):
            filled.not_asked["student_prompt_too_long"] += 1
        elif limit is not None and len(waiting) == limit:
            filled.not_asked["over_limit"] += 1
        else:
            waiting.append(problem)
    for source in sources:
        solutions = _search(waiting, source, checker, keep, filled.rejected.setdefault(source.name, Counter()))
        filled.solutions |= solutions
        filled.used[source.name] = source.used()
        waiting = [problem for problem in waiting if problem.id not in solutions]
    return filled


def _search(
    problems: Sequence[Problem], source: SolutionSource, checker: "Checker", keep: str, rejected: Counter[str]
) -> dict[str, Solution]:
    best: dict[str, Solution] = {}
    for attempt in range(source.rounds):
        waiting = [problem for problem in problems if keep == "shortest" or problem.id not in best]
        if not waiting:
            break
        offered = source.find_candidates(waiting, attempt)
        pairs = [(problem, candidate) for problem, offers in zip(waiting, offered, strict=True) for candidate in offers]
        for (problem, candidate), checked in zip(pairs, checker.check(pairs), strict=True):
            if checked.reason is not None:
                rejected[checked.reason] += 1
            elif _better(checked.text, best.get(problem.id), keep):
                best[problem.id] = _solution(checked.text, source, candidate)
    return best


def _better(text: str, known: Solution | None, keep: str) -> bool:
    return known is None or (keep == "shortest" and len(text) < len(known.text))


def _solution(text: str, source: SolutionSource, candidate: Candidate) -> Solution:
    return Solution(text, source.name, candidate.origin, candidate.request)
