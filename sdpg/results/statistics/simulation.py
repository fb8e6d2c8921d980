"""Simulates how often the intervals hold the truth, on populations of problems whose truth is known.

Axes: S seeds, P problems, n answers per problem. A problem's difficulty is the chance p that an answer to it is right,
drawn from a Beta distribution with density at both ends: most problems are nearly always or nearly never solved. The
truth that an interval must hold is the mean of p over the *population* of problems (and of seeds), not over the P that
were drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import integrate

from sdpg.results.statistics.estimates import Interval, mean_interval, paired_difference, two_way_interval
from sdpg.results.statistics.replication import replicated_difference
from sdpg.seeds import derive_seed

Array = NDArray[np.float64]

CONFIDENCE = 0.95
LOWEST, HIGHEST = 0.92, 0.97
"""Bounds between which the share of intervals that hold the truth must be."""
HIGHEST_OF_FEW = 0.98
"""The upper bound for intervals over two or three bases: so few tell their own spread so badly that an interval which
never holds too little holds a little too much elsewhere."""
RESAMPLES = 1_000
"""Draws of the two-way bootstrap; its closed-form parts and the other intervals need none."""

LEVEL = 0.5
"""Standard deviation, in log-odds, by which bases make all methods better or worse."""


class Population(NamedTuple):
    """Difficulties drawn from Beta(mean·concentration, (1 - mean)·concentration), two-peaked if both are below 1."""

    mean: float
    concentration: float

    @property
    def shape(self) -> tuple[float, float]:
        """Returns the two parameters of the Beta distribution."""
        return self.mean * self.concentration, (1 - self.mean) * self.concentration

    def draw(self, rng: np.random.Generator, problems: int) -> Array:
        """Returns the difficulties of so many problems, (P,)."""
        return rng.beta(*self.shape, problems)

    def moved_mean(self, shift: float, spread: float) -> float:
        """Returns the mean of σ(logit p + δ) over the population and δ ~ N(shift, spread²), by quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        return float(sum(
            weight / math.sqrt(2 * math.pi) * self._moved_mean(math.exp(shift + spread * node))
            for node, weight in zip(nodes, weights, strict=True)
        ))  # fmt: skip

    def _moved_mean(self, odds: float) -> float:
        a, b = self.shape
        normaliser = math.gamma(a) * math.gamma(b) / math.gamma(a + b)
        # The weight takes the density's poles at 0 and 1: p^(a-1) (1-p)^(b-1).
        moved, _ = integrate.quad(
            lambda p: p * odds / (1 - p + p * odds), 0, 1, weight="alg", wvar=(a - 1, b - 1), epsabs=1e-12
        )
        return moved / normaliser


def moved(difficulties: Array, shift: Array | float) -> Array:
    """Returns σ(logit p + shift), the difficulties after a change of their log-odds."""
    odds = np.exp(shift)
    return difficulties * odds / (1 - difficulties + difficulties * odds)


@dataclass(frozen=True)
class Case:
    """One interval on one population."""

    interval: str
    population: str
    problems: int
    samples: int
    truth: float
    once: Callable[[np.random.Generator], Interval]
    """A function that draws problems and answers, and returns the interval."""
    judged: bool = True
    """Whether the coverage must be between :data:`LOWEST` and ``highest``; otherwise it is only shown."""
    highest: float = HIGHEST


@dataclass(frozen=True)
class Coverage:
    """The simulated coverage of a case."""

    interval: str
    population: str
    problems: int
    samples: int
    truth: float
    repeats: int
    coverage: float
    monte_carlo_error: float
    """Standard error of ``coverage``, √(c(1-c)/repeats)."""
    truth_below: float
    truth_above: float
    """Shares of repeats with the truth below the lower limit, and above the upper."""
    mean_width: float
    judged: bool
    highest: float = HIGHEST

    @property
    def verdict(self) -> str:
        """Returns ``ok``, ``outside``, or ``not judged``."""
        if not self.judged:
            return "not judged"
        return "ok" if LOWEST <= self.coverage <= self.highest else "outside"


def _mean_case(population: Population, problems: int, samples: int) -> Case:
    def once(rng: np.random.Generator) -> Interval:
        correct = rng.binomial(samples, population.draw(rng, problems))
        return mean_interval(correct / samples, CONFIDENCE)

    return Case("mean_interval", _named(population), problems, samples, population.mean, once)


def _mixture_case(low: Population, high: Population, mean: float, problems: int, samples: int) -> Case:
    share = (mean - low.mean) / (high.mean - low.mean)

    def once(rng: np.random.Generator) -> Interval:
        easy = rng.random(problems) < share
        difficulties = np.where(easy, high.draw(rng, problems), low.draw(rng, problems))
        return mean_interval(rng.binomial(samples, difficulties) / samples, CONFIDENCE)

    name = f"mean {mean:g}: {share:.1%} of problems {_named(high)}, the rest {_named(low)}"
    return Case("mean_interval", name, problems, samples, mean, once, judged=False)


def _paired_case(
    population: Population, shift: float, spread: float, problems: int, samples: int, judged: bool = True
) -> Case:
    """b has the population's difficulties; a's log-odds are those of b plus N(shift, spread²), problem by problem."""

    def once(rng: np.random.Generator) -> Interval:
        b = population.draw(rng, problems)
        a = moved(b, rng.normal(shift, spread, problems))
        found = paired_difference(
            rng.binomial(samples, a) / samples, rng.binomial(samples, b) / samples, CONFIDENCE, resamples=1
        )
        return Interval(found.mean, found.low, found.high)

    name = f"{_named(population)}; a ahead by N({shift:g}, {spread:g}²) in log-odds"
    truth = population.moved_mean(shift, spread) - population.mean
    return Case("paired_difference", name, problems, samples, truth, once, judged)


def _two_way_case(
    population: Population, seed_spread: float, cell_spread: float, seeds: int, problems: int, samples: int
) -> Case:
    """Log-odds are the problem's plus N(0, seed_spread²) of the seed plus N(0, cell_spread²) of both together."""

    def once(rng: np.random.Generator) -> Interval:
        shift = rng.normal(0, seed_spread, (seeds, 1)) + rng.normal(0, cell_spread, (seeds, problems))
        solved = moved(population.draw(rng, problems), shift)
        matrix = rng.binomial(samples, solved) / samples
        found = two_way_interval(matrix, CONFIDENCE, RESAMPLES, seed=int(rng.integers(2**32)))
        assert found is not None
        return found

    name = f"{_named(population)}; {seeds} seeds, ±{seed_spread:g} each, ±{cell_spread:g} per problem, in log-odds"
    truth = population.moved_mean(0.0, math.hypot(seed_spread, cell_spread))
    return Case("two_way_interval", name, problems, samples, truth, once)


def _replicated_case(
    population: Population, shift: float, spreads: tuple[float, float, float], bases: int, seeds: int,
    problems: int = 60, samples: int = 8,
) -> Case:  # fmt: skip
    """A method and another from the same bases: each base moves both by N(0, :data:`LEVEL`²) in log-odds.

    Args:
        population: the difficulties.
        shift: the method's mean lead in log-odds.
        spreads: standard deviations of the lead between bases, of each run of both, and of the lead between problems.
        bases: the number of bases.
        seeds: training seeds of each base.
        problems: the number of problems.
        samples: answers per problem and seed.
    """
    of_base, of_seed, of_problem = spreads

    def once(rng: np.random.Generator) -> Interval:
        difficulties, level = population.draw(rng, problems), rng.normal(0, LEVEL, (bases, 1, 1))
        lead = shift + rng.normal(0, of_base, (bases, 1, 1)) + rng.normal(0, of_problem, problems)
        ours, theirs = (
            moved(difficulties, level + more + rng.normal(0, of_seed, (bases, seeds, 1))) for more in (lead, 0.0)
        )
        accuracies = rng.binomial(samples, ours) / samples - rng.binomial(samples, theirs) / samples
        return Interval(*replicated_difference(accuracies.mean(axis=1), CONFIDENCE)[:3])

    name = (f"{_named(population)}; {bases} bases × {seeds} seeds; a ahead by {shift:g}, ±{of_base:g} by base, "
            f"±{of_seed:g} by seed, ±{of_problem:g} by problem")  # fmt: skip
    truth = population.moved_mean(shift, math.hypot(LEVEL, of_base, of_seed, of_problem))
    truth -= population.moved_mean(0.0, math.hypot(LEVEL, of_seed))
    return Case("replicated_difference", name, problems, samples, truth, once, highest=HIGHEST_OF_FEW)


def _named(population: Population) -> str:
    a, b = population.shape
    return f"Beta({a:.3g}, {b:.3g})"


def cases() -> list[Case]:
    """Returns every case, in the order of the table."""
    means = (0.05, 0.3, 0.8)
    two_peaks = [Population(mean, concentration) for concentration in (0.5, 1.0) for mean in means]
    return [
        *[_mean_case(population, 30, 32) for population in two_peaks],
        *[_paired_case(Population(mean, 1.0), shift, 0.5, 30, 32) for mean in (0.3, 0.8) for shift in (0.0, 0.5, 1.0)],
        _paired_case(Population(0.05, 1.0), 1.0, 0.5, 100, 32),
        *[_two_way_case(Population(mean, 1.0), 0.3, 0.3, seeds, 30, 32) for seeds in (2, 3) for mean in means],
        _two_way_case(Population(0.3, 1.0), 1.0, 0.5, 3, 30, 32),
        *[
            _replicated_case(Population(mean, 1.0), shift, spreads, bases, seeds)
            for bases, seeds in ((3, 3), (2, 2))
            for mean in (0.1, 0.3)
            for shift, spreads in ((0.0, (0.0, 0.1, 0.3)), (0.5, (0.1, 0.1, 0.5)), (0.5, (0.3, 0.1, 0.5)))
        ],
        _mixture_case(Population(0.0244, 20.5), Population(0.714, 7.0), 0.05, 30, 32),
        _paired_case(Population(0.05, 1.0), 1.0, 0.5, 30, 32, judged=False),
    ]


def simulate(case: Case, repeats: int, seed: int = 0) -> Coverage:
    """Draws the case so many times and returns its coverage; the same ``seed`` gives the same result."""
    rng = np.random.default_rng(derive_seed(seed, case.interval, case.population, case.problems))
    found = np.array([case.once(rng) for _ in range(repeats)])
    below, above = case.truth < found[:, 1], case.truth > found[:, 2]
    coverage = 1 - float((below | above).mean())
    return Coverage(
        case.interval, case.population, case.problems, case.samples, case.truth, repeats, coverage,
        monte_carlo_error=math.sqrt(coverage * (1 - coverage) / repeats),
        truth_below=float(below.mean()), truth_above=float(above.mean()),
        mean_width=float((found[:, 2] - found[:, 1]).mean()), judged=case.judged, highest=case.highest,
    )  # fmt: skip


def coverage_table(found: list[Coverage]) -> str:
    """Returns the coverage as a Markdown table, one row per case."""
    lines = [
        "| interval | difficulties | problems × samples | true value | holds it | ± | truth below / above | "
        "mean width | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.interval} | {row.population} | {row.problems} × {row.samples} | {row.truth:.4f} | {row.coverage:.1%} "
        f"| {row.monte_carlo_error:.1%} | {row.truth_below:.1%} / {row.truth_above:.1%} | {row.mean_width:.3f} "
        f"| {row.verdict} |"
        for row in found
    ]
    return "\n".join(lines)
