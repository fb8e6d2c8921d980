"""Adjusts several comparisons at once, and computes what sizes would tell two methods apart. No torch is imported.

Axes: P problems, n answers per problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from sdpg.results.statistics.estimates import ProblemCounts
from sdpg.results.statistics.intervals import FEWEST_DEVIATING

Array = NDArray[np.float64]


def holm(p_values: ArrayLike) -> Array:
    """Returns p-values adjusted for their number by Holm's step-down method (1979), in the given order.

    With p_(1) ≤ … ≤ p_(m), the adjusted p_(i) is the largest of (m - j + 1)·p_(j) over j ≤ i, at most 1. If adjusted
    values under 5% are called significant, one of them is wrong with a probability of at most 5%, in whatever way the
    comparisons depend on each other.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.arange(len(values), 0, -1) * values[order]))
    return adjusted


LIKE_NORMAL = 100_000
"""From this number of problems on, the normal distribution replaces the t distribution."""


@dataclass(frozen=True)
class NeededSizes:
    """The sizes that would find a difference as large as the observed one, were it the true one."""

    difference: float
    """The mean over problems of a - b, as observed."""
    between_variance: float
    """τ², the variance of the difference between problems, with sampling removed."""
    sampling_variance: float
    """ω², the variance of the difference between an answer of a and one of b to the same problem, averaged."""
    problems: int
    samples: int
    """Samples per problem, of all seeds together, as they were compared."""
    confidence: float
    power: float
    detectable: float
    """The smallest true difference that this many problems and samples find with that power."""
    needed_problems: int | None
    """Problems needed at so many samples per problem; ``None`` where the observed difference is 0."""
    needed_samples: int | None
    """Samples needed per problem at so many problems; ``None`` where no number suffices."""
    seeds: int = 1
    """The number of seeds on each side whose answers were compared."""

    def words(self) -> str:
        """Returns a sentence for readers of the report."""
        aim = f"be found at {self.confidence:.0%} confidence with probability {self.power:.0%}"
        shown = f"{self.difference:+.3f}".replace("-", "−")
        each = "each" if self.seeds == 1 else f"each over {self.seeds} seeds"
        if self.needed_problems is None:
            return (f"The observed difference is 0; a true one of {self.detectable:.3f} would {aim} with these "
                    f"{self.problems} problems and {self.samples} samples {each}.")  # fmt: skip
        if self.needed_samples is not None and self.needed_samples <= self.samples:
            return (f"A true difference of {shown} would {aim} with these {self.problems} problems and "
                    f"{self.samples} samples {each}; so would any from {self.detectable:.3f} up.")  # fmt: skip
        more = f"or {self.needed_samples} samples for each of these {self.problems}"
        if self.needed_samples is None:
            more = (f"no number of samples suffices for these {self.problems} problems, as the difference itself "
                    "changes too much from problem to problem")  # fmt: skip
        return (f"For a true difference of {shown} to {aim}, it takes {self.needed_problems} problems with "
                f"{self.samples} samples {each}; {more}.")  # fmt: skip


def _noncentrality(problems: int, confidence: float, power: float) -> float:
    """Returns λ_P, the number of standard errors of a true difference that a two-sided paired t test finds."""
    critical = stats.t.ppf((1 + confidence) / 2, problems - 1)
    return float(special.nctdtrinc(problems - 1, 1 - power, critical))


def sizes_for(
    difference: float,
    between_variance: float,
    sampling_variance: float,
    problems: int,
    samples: int,
    confidence: float,
    power: float = 0.8,
) -> NeededSizes:
    """Returns the sizes that find a difference whose variances are known.

    The standard error of the mean of P problems with n samples is √((τ² + ω²/n)/P), τ² between problems and ω² of
    sampling. A paired t test finds a true difference δ of λ_P standard errors (the noncentrality at this power). So P
    grows until P·δ² ≥ λ_P²(τ² + ω²/n), and at given P, n = ω²/(P·δ²/λ_P² - τ²), where that is positive. At least six
    problems are needed, as for any finding.
    """
    here = _noncentrality(problems, confidence, power)
    variance = between_variance + sampling_variance / samples
    needed_problems = needed_samples = None
    if difference != 0:
        normal = stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(power)
        needed_problems = max(FEWEST_DEVIATING, math.floor(normal**2 * variance / difference**2))
        while (
            needed_problems < LIKE_NORMAL
            and needed_problems * difference**2 < _noncentrality(needed_problems, confidence, power) ** 2 * variance
        ):
            needed_problems += 1
        allowed = problems * difference**2 / here**2 - between_variance
        if allowed > 0:
            needed_samples = max(1, math.ceil(sampling_variance / allowed))
    return NeededSizes(
        difference, between_variance, sampling_variance, problems, samples, confidence, power,
        detectable=here * math.sqrt(variance / problems),
        needed_problems=needed_problems, needed_samples=needed_samples,
    )  # fmt: skip


def needed_sizes(
    a: Sequence[ProblemCounts], b: Sequence[ProblemCounts], confidence: float, power: float = 0.8
) -> NeededSizes:
    """Returns how many problems, or samples per problem, would tell a from b, from their answers to the same problems.

    It takes :func:`sizes_for` the observed difference D̄, as if it were the true one; where D̄ is uncertain, so are
    these sizes. D_i is the difference of the accuracies over all S seeds and their n samples each. Its variance over
    problems is τ² + ω²/(Sn): ω² is the mean over problems and seeds of (p_a(1-p_a) + p_b(1-p_b))·n/(n-1), which more
    samples of the same policies would shrink, and τ² = max(0, s²_D - ω²/(Sn)), which keeps what differs between seeds.
    Args:
        a: the counts of one side, one entry per seed.
        b: the counts of the other side, with as many entries.

    Raises:
        ValueError: if problems, samples or seeds differ, or there are fewer than two samples or six problems.
    """
    problems, n, seeds = len(a[0].problems), a[0].samples, len(a)
    if len({(each.problems, each.samples) for each in (*a, *b)}) > 1 or len(b) != seeds:
        raise ValueError("the same problems with equally many samples and seeds are needed")
    if n < 2 or problems < FEWEST_DEVIATING:
        raise ValueError(f"two samples and {FEWEST_DEVIATING} problems are needed, not {n} and {problems}")
    more = np.sum([each.correct for each in a], axis=0) - np.sum([each.correct for each in b], axis=0)
    one_answer = [each.accuracy * (1 - each.accuracy) for each in (*a, *b)]
    sampling = float(np.mean(one_answer) * 2 * n / (n - 1))
    between = max(0.0, float((more / (n * seeds)).var(ddof=1)) - sampling / (n * seeds))
    # D̄ is computed from whole numbers, so that a tie is exactly 0.
    difference = int(more.sum()) / (n * seeds * problems)
    return replace(sizes_for(difference, between, sampling, problems, n * seeds, confidence, power), seeds=seeds)
