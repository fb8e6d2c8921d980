from dataclasses import replace
import math

import numpy as np
import pytest

from sdpg.errors import UserError
from sdpg.params import ReportParams
from sdpg.results.statistics.estimates import ProblemCounts
from sdpg.results.statistics.evidence import gather_evidence, pooled
from sdpg.results.statistics.summaries import EvaluationSummary

REPORT = ReportParams(resamples=200)
NAMES = ("a", "b", "c")


def summary(solved: list[int], samples: int, length: float, truncated: float, **shares: float) -> EvaluationSummary:
    """Every wrong answer says "7"."""
    counts = ProblemCounts(NAMES, np.array(solved), samples)
    answers = tuple(((("1", True),) * right + (("7", False),) * (samples - right)) for right in solved)
    return EvaluationSummary(counts, answers, length, truncated, dict(sorted(shares.items())))


ONE = summary([4, 2, 0], 4, 30.0, 0.25, correct=0.5, wrong=0.5)
TWO = summary([4, 4, 1], 4, 50.0, 0.0, correct=0.75, timeout=0.25)


def test_one_seed_by_hand() -> None:
    found = gather_evidence([ONE], REPORT)
    # Accuracies 1, 1/2, 0: standard deviation 1/2. One answer's variance: 0, 1/4·4/3, 0.
    assert found.error_problems == pytest.approx(0.5 / math.sqrt(3))
    assert found.error_samples == pytest.approx(math.sqrt(0.25 / 3) / 3)
    # Of two votes each, half of the ties are won.
    assert (found.majority, found.majority_of) == (pytest.approx(0.5), 4)
    assert (found.length, found.truncated, found.joint) == (30.0, 0.25, None)
    assert found.statuses == {"correct": 0.5, "wrong": 0.5}


def test_two_seeds_by_hand() -> None:
    found = gather_evidence([ONE, TWO], REPORT)
    means = np.array([1.0, 0.75, 1 / 8])
    assert found.error_problems == pytest.approx(means.std(ddof=1) / math.sqrt(3))
    # The second seed's: 1/4·3/4/3 of its last problem. The variance of the mean of both is a quarter of their sum.
    variances = [0.25 / 3 / 9, 3 / 16 / 3 / 9]
    assert found.error_samples == pytest.approx(math.sqrt(sum(variances)) / 2)
    assert found.majority == pytest.approx((0.5 + 2 / 3) / 2)
    assert (found.length, found.truncated) == (40.0, 0.125)
    assert found.statuses == {"correct": 0.625, "timeout": 0.125, "wrong": 0.25}
    assert found.joint is not None
    assert found.joint.mean == pytest.approx(0.625)
    assert found.joint.low < 0.625 < found.joint.high


def test_one_seed_without_a_share_of_cut_answers_leaves_none_for_all() -> None:
    assert gather_evidence([ONE, replace(TWO, truncated=None)], REPORT).truncated is None


def test_one_answer_per_problem_has_no_sampling_error() -> None:
    assert gather_evidence([summary([1, 0, 1], 1, 1.0, 0.0, correct=2 / 3, wrong=1 / 3)], REPORT).error_samples is None


def test_pooled_seeds_need_the_same_problems() -> None:
    assert pooled([ONE.counts, TWO.counts]).correct.tolist() == [8, 6, 1]
    assert pooled([ONE.counts, TWO.counts]).samples == 8
    with pytest.raises(UserError, match="different problems"):
        pooled([ONE.counts, ProblemCounts(("a", "b", "d"), np.array([1, 1, 1]), 4)])
