"""States the paper's claims, each with the measurement on our runs that decides it.

Where the paper names a step of its 400, the same fraction of our run is meant. A claim *holds* where every interval it
needs lies on its side of 0, *does not hold* where one lies wholly on the other side, and otherwise we *cannot tell*:
an interval includes 0, a method was not run, or the paper's text and figure disagree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from sdpg.results.runs import Results, Run
from sdpg.results.statistics.estimates import Array, Interval, batch_interval
from sdpg.results.tables import compare, compare_last, plus

Verdict = Literal["holds", "does not hold", "cannot tell"]

EARLY = 50 / 400
LATE = 250 / 400
SDPG = ("sdpg-ufkl", "sdpg-urkl")
FIGURE_METHODS = ("grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl")
COLLAPSED, KEPT = 0.2, 0.5
"""Entropy that falls below a fifth of its first value has collapsed, above a half it has not; these are our limits."""


SHORTEST = 8
"""With fewer steps an eighth of a run means nothing."""


@dataclass(frozen=True)
class Finding:
    """What our runs say about a claim: the verdict and the numbers behind it."""

    verdict: Verdict
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A claim of the paper."""

    id: str
    text: str
    source: str
    needs: tuple[str, ...]
    """Methods without which the claim cannot be decided."""
    measurement: str
    """How it is measured; ``{paired}`` and ``{over_steps}`` stand for the runs' own estimators."""
    measure: Callable[["Measured"], Finding]
    course: bool = True
    """Whether the claim is about the course of a run, which needs :data:`SHORTEST` steps."""
    conflict: str | None = None
    """How the paper's text and figure disagree, if they do."""


@dataclass(frozen=True)
class DecidedClaim:
    """A claim with its verdict, as the report shows it."""

    id: str
    text: str
    source: str
    measurement: str
    verdict: Verdict
    numbers: str
    why: str


Comparison = tuple[str, float, float, float]
"""The names of what was compared, the difference in the claim's direction, and its limits."""


def decide(intervals: list[tuple[float, float]], allow_equal: bool = False) -> Verdict:
    """Returns the verdict from limits of differences that the claim says are positive.

    With ``allow_equal`` the claim says that they are not negative.
    """
    if any(high < 0 or (high <= 0 and not allow_equal) for _, high in intervals):
        return "does not hold"
    if all(low > 0 or (low >= 0 and allow_equal) for low, _ in intervals):
        return "holds"
    return "cannot tell"


def _named(name: str, difference: Interval) -> Comparison:
    return name, difference.mean, difference.low, difference.high


def _compare_all(comparisons: list[Comparison], allow_equal: bool = False) -> Finding:
    numbers = "; ".join(f"{name} {plus(mean)} ({plus(low)} to {plus(high)})" for name, mean, low, high in comparisons)
    return Finding(decide([(low, high) for *_, low, high in comparisons], allow_equal), numbers)


class Measured(Protocol):
    """The runs on which claims are measured: from one base (:class:`OneBase`), or from several."""

    @property
    def paired(self) -> str:
        """Returns in words how differences of accuracy are estimated."""
        ...

    @property
    def over_steps(self) -> str:
        """Returns in words how differences of a training metric are estimated."""
        ...

    @property
    def every(self) -> Sequence[Results]:
        """Returns the results of each base."""
        ...

    def last_difference(self, a: str, b: str, benchmark: str) -> Interval:
        """Returns Last of a minus Last of b."""
        ...

    def pooled_difference(self, a: str, at: int, b: str, other: int) -> Interval:
        """Returns the accuracy of a at a step minus that of b at another, over all benchmarks."""
        ...

    def series_difference(self, name: str, a: str, b: str, start: float) -> Interval:
        """Returns a training metric of a minus that of b, from a fraction of the run on."""
        ...


@dataclass(frozen=True)
class OneBase:
    """Runs from one base, on which what is found is conditional."""

    results: Results
    paired: str = "paired difference by problem, seeds averaged"
    over_steps: str = "interval over steps in 5 batches"

    @property
    def every(self) -> Sequence[Results]:
        """Returns the results of the base."""
        return [self.results]

    def last_difference(self, a: str, b: str, benchmark: str) -> Interval:
        """Returns Last of a minus Last of b, by problem."""
        return Interval(*compare_last(self.results, a, b, benchmark)[:3])

    def pooled_difference(self, a: str, at: int, b: str, other: int) -> Interval:
        """Returns the difference at two steps over the problems of all benchmarks."""
        found = compare(self.results, self.results.at_step(a, at), self.results.at_step(b, other))
        return Interval(*found[:3])

    def series_difference(self, name: str, a: str, b: str, start: float) -> Interval:
        """Returns the difference over steps, as :func:`batch_interval` does."""
        ours, theirs = (window(self.results, method, name, start) for method in (a, b))
        shortest = min(len(ours), len(theirs))
        return batch_interval(ours[-shortest:] - theirs[-shortest:], self.results.params.report.confidence)


def total_steps(measured: Measured) -> int:
    """Returns the length of the runs in steps, by their last evaluation."""
    return min(run.last_step for run in _all_runs(measured))


def evaluation_step(measured: Measured, fraction: float) -> int:
    """Returns the step of the first evaluation, after the base's, at or after this fraction of the run."""
    common = set.intersection(*({int(step) for step in run.curves["step"] if step > 0} for run in _all_runs(measured)))
    return min(step for step in common if step >= fraction * total_steps(measured) or step == max(common))


def _all_runs(measured: Measured) -> list[Run]:
    return [run for results in measured.every for runs in results.runs.values() for run in runs]


def window(results: Results, method: str, name: str, start: float, end: float = 1.0) -> Array:
    """Returns a training metric over a part of the run, seeds averaged, at least two steps of it."""
    values = results.metric(method, name)
    first = min(int(start * len(values)), len(values) - 2)
    return values[first : max(first + 2, round(end * len(values)))]


def _titles(measured: Measured, *methods: str) -> list[str]:
    return [measured.every[0].title(method) for method in methods]


def _last_everywhere(
    measured: Measured, pairs: list[tuple[str, str]], sign: int = 1, allow_equal: bool = False
) -> Finding:
    """Compares Last of a minus b on every benchmark; ``sign`` is -1 where the claim says that a is below b."""
    comparisons: list[Comparison] = []
    for a, b in pairs:
        upper, under = _titles(measured, *((a, b) if sign > 0 else (b, a)))
        for benchmark, title in measured.every[0].benchmarks.items():
            difference = measured.last_difference(a, b, benchmark)
            low, high = sorted((sign * difference.low, sign * difference.high))
            comparisons.append((f"{upper} − {under}, {title}:", sign * difference.mean, low, high))
    return _compare_all(comparisons, allow_equal)


def _pooled(measured: Measured, pairs: list[tuple[str, str]], step: int) -> Finding:
    comparisons: list[Comparison] = []
    for a, b in pairs:
        ours, theirs = _titles(measured, a, b)
        name = f"step {step}, {ours} − {theirs}, all benchmarks:"
        comparisons.append(_named(name, measured.pooled_difference(a, step, b, step)))
    return _compare_all(comparisons)


def _early_lead(measured: Measured) -> Finding:
    return _pooled(measured, [(method, "grpo") for method in SDPG], evaluation_step(measured, EARLY))


def _rlsd_entropy(measured: Measured) -> Finding:
    ratios = []
    for run in (run for results in measured.every for run in results.runs["rlsd"]):
        entropy = run.metrics["entropy"]
        width = max(1, len(entropy) // 20)
        at = max(width, round(LATE * len(entropy)))
        ratios.append(float(np.mean(entropy[at - width : at]) / np.mean(entropy[:width])))
    verdict: Verdict = "cannot tell"
    if max(ratios) < COLLAPSED:
        verdict = "holds"
    elif min(ratios) > KEPT:
        verdict = "does not hold"
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return Finding(verdict, f"entropy at {LATE:.1%} of the run ÷ entropy at its start, per seed: {shown}")


def _highest_entropy(measured: Measured) -> Finding:
    comparisons: list[Comparison] = []
    for other in [method for method in FIGURE_METHODS if method in measured.every[0].runs and method != "sdpg-ufkl"]:
        ours, theirs = _titles(measured, "sdpg-ufkl", other)
        difference = measured.series_difference("entropy", "sdpg-ufkl", other, 0.5)
        comparisons.append(_named(f"{ours} − {theirs}:", difference))
    return _compare_all(comparisons)


def _opcd_collapse(measured: Measured) -> Finding:
    before = evaluation_step(measured, LATE)
    after = total_steps(measured)
    fall = measured.pooled_difference("opcd", before, "opcd", after)
    width = 1 - LATE
    late, early = (
        np.mean([window(results, "opcd", "length", *part).mean() for results in measured.every])
        for part in ((LATE, 1.0), (LATE - width, LATE))
    )
    difference = _compare_all([_named(f"accuracy at step {before} − at step {after}, all benchmarks:", fall)])
    lengths = f"mean length {early:.1f} tokens in the {width:.1%} of the run before it, {late:.1f} after"
    return Finding(difference.verdict, f"{difference.numbers}; {lengths}")


def _alpha_zero(measured: Measured) -> Finding:
    ours, full = _titles(measured, "alpha0", "sdpg-ufkl")
    return _compare_all([
        _named(f"length, {full} − {ours}:", measured.series_difference("length", "sdpg-ufkl", "alpha0", 0.5)),
        _named(f"entropy, {ours} − {full}:", measured.series_difference("entropy", "alpha0", "sdpg-ufkl", 0.5)),
    ])  # fmt: skip


def _beta_zero(measured: Measured) -> Finding:
    return _pooled(measured, [(method, "beta0") for method in SDPG], evaluation_step(measured, EARLY))


CLAIMS = (
    Claim("last-over-grpo", "SDPG-UFKL and SDPG-URKL beat GRPO on every benchmark, Last", "Tables 1 and 2",
          ("grpo", *SDPG), "Last, {paired}, every benchmark above 0",
          lambda measured: _last_everywhere(measured, [(method, "grpo") for method in SDPG]),
          course=False),
    Claim("last-over-rlsd", "SDPG-UFKL and SDPG-URKL are at least as good as RLSD on every benchmark, Last",
          "Tables 1 and 2", ("rlsd", *SDPG), "Last, {paired}, every benchmark at or above 0",
          lambda measured: _last_everywhere(measured, [(method, "rlsd") for method in SDPG], allow_equal=True),
          course=False),
    Claim("rlsd-over-grpo", "RLSD beats GRPO on every benchmark, Last", "Tables 1 and 2", ("grpo", "rlsd"),
          "Last, {paired}, every benchmark above 0",
          lambda measured: _last_everywhere(measured, [("rlsd", "grpo")]), course=False),
    Claim("opcd-below-grpo", "OPCD ends below GRPO on every benchmark, Last", "Table 2", ("grpo", "opcd"),
          "Last of GRPO minus Last of OPCD, {paired}, every benchmark above 0",
          lambda measured: _last_everywhere(measured, [("opcd", "grpo")], sign=-1), course=False),
    Claim("early-lead", "SDPG's lead over GRPO opens within 50 of 400 steps", "text and figures 3 and 6",
          ("grpo", *SDPG), "first evaluation at or after an eighth of the run, {paired}, benchmarks pooled",
          _early_lead),
    Claim("rlsd-entropy", "RLSD's entropy collapses towards 0 by step 250 of 400", "text and figures 3 and 6",
          ("rlsd",), f"entropy before 62.5% of the run ÷ at its start: under {COLLAPSED} collapsed, over {KEPT} not",
          _rlsd_entropy),
    Claim("ufkl-entropy", "SDPG-UFKL keeps the highest entropy (of the methods in figures 3 and 6)",
          "text and figures 3 and 6", ("grpo", "rlsd", "sdpg-urkl", "sdpg-ufkl"),
          "second half of the run: difference of entropy to each other method, {over_steps}",
          _highest_entropy),
    Claim("opcd-collapse", "OPCD collapses in accuracy and length after step 250 of 400", "text", ("opcd",),
          "accuracy at 62.5% of the run minus at its end, {paired}, benchmarks pooled; mean length",
          _opcd_collapse,
          conflict="the text says after step 250; in the figure the length falls steadily from about step 180 and "
                   "AIME24 holds until about 310–350"),
    Claim("alpha0", "α = 0 shortens responses and raises entropy", "text and figure 5", ("sdpg-ufkl", "alpha0"),
          "second half of the run, against SDPG-UFKL: difference, {over_steps}, both above 0",
          _alpha_zero),
    Claim("beta0", "β = 0 loses the early lead", "text", ("beta0", *SDPG),
          "first evaluation at or after an eighth of the run, {paired}, benchmarks pooled", _beta_zero,
          conflict="the text says so; in figure 5 β = 0 is at or above SDPG-URKL for most of steps 50–200"),
)  # fmt: skip


def decide_claim(claim: Claim, measured: Measured) -> DecidedClaim:
    """Returns the verdict on one claim from our runs."""
    missing = [method for method in claim.needs if method not in measured.every[0].runs]
    if missing:
        finding, why = Finding("cannot tell", "—"), f"not run: {', '.join(missing)}"
    elif claim.course and total_steps(measured) < SHORTEST:
        finding, why = Finding("cannot tell", "—"), f"the runs are shorter than {SHORTEST} steps"
    else:
        finding = claim.measure(measured)
        why = {
            "holds": "every interval lies on the claim's side of 0",
            "does not hold": "an interval lies wholly on the other side of 0",
            "cannot tell": "an interval includes 0",
        }[finding.verdict]
        if claim.measure is _rlsd_entropy:
            why = "by the thresholds" if finding.verdict != "cannot tell" else "between the thresholds, or seeds differ"
    if claim.conflict:
        found = f"the text's version, measured here: {finding.verdict}" if finding.numbers != "—" else why
        finding = Finding("cannot tell", finding.numbers)
        why = f"the paper's text and figure disagree: {claim.conflict} ({found})"
    measurement = claim.measurement.format(paired=measured.paired, over_steps=measured.over_steps)
    return DecidedClaim(claim.id, claim.text, claim.source, measurement, finding.verdict, finding.numbers, why)


def decide_claims(measured: Measured) -> list[DecidedClaim]:
    """Returns the verdicts on all claims, in the order of the report."""
    return [decide_claim(claim, measured) for claim in CLAIMS]
