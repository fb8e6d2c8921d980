"""Computes what stands behind an accuracy: standard errors, votes and lengths, and how answers ended.

Axes: S seeds, P problems, n answers per problem and seed. The module imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from sdpg.params import ReportParams
from sdpg.results.statistics.at_k import majority_at_k
from sdpg.results.statistics.estimates import (
    Interval,
    ProblemCounts,
    accuracy_matrix,
    standard_errors,
    two_way_interval,
)
from sdpg.results.statistics.summaries import EvaluationSummary


@dataclass(frozen=True)
class Evidence:
    """Evidence behind the accuracy of one policy, or of one method's policies over seeds, on one benchmark."""

    error_problems: float | None
    """Standard error of the accuracy with another set of problems (clustered by problem), for fixed policies."""
    error_samples: float | None
    """Standard error of the accuracy with new answers to the same problems."""
    joint: Interval | None
    """Interval over other problems and other training seeds, jointly; from two seeds up."""
    majority: float
    """maj@n, the accuracy of the commonest of the n answers to a problem."""
    majority_of: int
    length: float
    """Mean number of tokens of an answer."""
    truncated: float | None
    """Share of answers cut at the token limit; ``None`` where the records are too old to say it."""
    statuses: dict[str, float]
    """Share of each verdict that occurs."""


def pooled(counts: Sequence[ProblemCounts]) -> ProblemCounts:
    """Returns the seeds' answers to each problem put together."""
    accuracy_matrix(counts)  # Raises where the problems differ.
    return ProblemCounts(
        counts[0].problems, np.sum([each.correct for each in counts], axis=0), sum(group.samples for group in counts)
    )


def gather_evidence(evaluations: Sequence[EvaluationSummary], report: ReportParams) -> Evidence:
    """Returns the evidence from one evaluation per seed."""
    counts = [evaluation.counts for evaluation in evaluations]
    by_sample = [standard_errors(group).by_sample for group in counts]
    known = [error for error in by_sample if error is not None]
    votes = min(group.samples for group in counts)
    cut = [evaluation.truncated for evaluation in evaluations if evaluation.truncated is not None]
    statuses = sorted({status for evaluation in evaluations for status in evaluation.status_shares})
    return Evidence(
        error_problems=standard_errors(pooled(counts)).by_problem,
        # Answers of different seeds are independent: the variance of a mean of S means.
        error_samples=math.hypot(*known) / len(known) if len(known) == len(by_sample) else None,
        joint=two_way_interval(accuracy_matrix(counts), report.confidence, report.resamples, report.seed),
        majority=float(np.mean([majority_at_k(evaluation.answers, votes).mean() for evaluation in evaluations])),
        majority_of=votes,
        length=float(np.mean([evaluation.mean_length for evaluation in evaluations])),
        truncated=None if len(cut) < len(evaluations) else float(np.mean(cut)),
        statuses={
            status: float(np.mean([evaluation.status_shares.get(status, 0.0) for evaluation in evaluations]))
            for status in statuses
        },
    )
