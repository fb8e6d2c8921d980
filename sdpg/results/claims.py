"""States the paper's claims, each with the measurement on our runs that decides it.

Where the paper names a step of its 400, the same fraction of our run is meant. A claim *holds* where every interval it
needs lies on its side of 0, *does not hold* where one lies wholly on the other side, and otherwise we *cannot tell*:
an interval includes 0, a method was not run, or the paper's text and figure disagree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sdpg.results.runs import Results
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
    measure: Callable[[Results], Finding]
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


def _compare_all(comparisons: list[Comparison], allow_equal: bool = False) -> Finding:
    numbers = "; ".join(f"{name} {plus(mean)} ({plus(low)} to {plus(high)})" for name, mean, low, high in comparisons)
    return Finding(decide([(low, high) for *_, low, high in comparisons], allow_equal), numbers)


def total_steps(results: Results) -> int:
    """Returns the length of the runs in steps, by their last evaluation."""
    return min(run.last_step for runs in results.runs.values() for run in runs)


def evaluation_step(results: Results, fraction: float) -> int:
    """Returns the step of the first evaluation, after the base's, at or after this fraction of the run."""
    common = set.intersection(
        *({int(step) for step in run.curves["step"] if step > 0} for runs in results.runs.values() for run in runs)
    )
    return min(step for step in common if step >= fraction * total_steps(results) or step == max(common))


def _window(results: Results, method: str, name: str, start: float, end: float = 1.0) -> Array:
    """Returns a training metric over a part of the run, at least two steps of it."""
    values = results.metric(method, name)
    first = min(int(start * len(values)), len(values) - 2)
    return values[first : max(first + 2, round(end * len(values)))]


def _series_difference(results: Results, name: str, a: str, b: str, start: float) -> Interval:
    ours, theirs = (_window(results, method, name, start) for method in (a, b))
    shortest = min(len(ours), len(theirs))
    return batch_interval(ours[-shortest:] - theirs[-shortest:], results.params.report.confidence)


def _last_everywhere(
    results: Results, pairs: list[tuple[str, str]], sign: int = 1, allow_equal: bool = False
) -> Finding:
    """Compares Last of a minus b on every benchmark; ``sign`` is -1 where the claim says that a is below b."""
    comparisons: list[Comparison] = []
    for a, b in pairs:
        for benchmark, title in results.benchmarks.items():
            difference = compare_last(results, a, b, benchmark)
            low, high = sorted((sign * difference.low, sign * difference.high))
            upper, under = (a, b) if sign > 0 else (b, a)
            name = f"{results.title(upper)} − {results.title(under)}, {title}:"
            comparisons.append((name, sign * difference.mean, low, high))
    return _compare_all(comparisons, allow_equal)


def _pooled(results: Results, pairs: list[tuple[str, str]], step: int) -> Finding:
    comparisons: list[Comparison] = []
    for a, b in pairs:
        difference = compare(results, results.at_step(a, step), results.at_step(b, step))
        name = f"step {step}, {results.title(a)} − {results.title(b)}, all benchmarks:"
        comparisons.append((name, difference.mean, difference.low, difference.high))
    return _compare_all(comparisons)


def _early_lead(results: Results) -> Finding:
    return _pooled(results, [(method, "grpo") for method in SDPG], evaluation_step(results, EARLY))


def _rlsd_entropy(results: Results) -> Finding:
    ratios = []
    for run in results.runs["rlsd"]:
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


def _highest_entropy(results: Results) -> Finding:
    others = [method for method in FIGURE_METHODS if method in results.runs and method != "sdpg-ufkl"]
    comparisons: list[Comparison] = []
    for other in others:
        difference = _series_difference(results, "entropy", "sdpg-ufkl", other, 0.5)
        name = f"{results.title('sdpg-ufkl')} − {results.title(other)}:"
        comparisons.append((name, difference.mean, difference.low, difference.high))
    return _compare_all(comparisons)


def _opcd_collapse(results: Results) -> Finding:
    before = evaluation_step(results, LATE)
    after = total_steps(results)
    fall = compare(results, results.at_step("opcd", before), results.at_step("opcd", after))
    width = 1 - LATE
    late = _window(results, "opcd", "length", LATE)
    early = _window(results, "opcd", "length", LATE - width, LATE)
    difference = _compare_all(
        [(f"accuracy at step {before} − at step {after}, all benchmarks:", fall.mean, fall.low, fall.high)]
    )
    lengths = f"mean length {early.mean():.1f} tokens in the {width:.1%} of the run before it, {late.mean():.1f} after"
    return Finding(difference.verdict, f"{difference.numbers}; {lengths}")


def _alpha_zero(results: Results) -> Finding:
    shorter = _series_difference(results, "length", "sdpg-ufkl", "alpha0", 0.5)
    livelier = _series_difference(results, "entropy", "alpha0", "sdpg-ufkl", 0.5)
    ours, full = results.title("alpha0"), results.title("sdpg-ufkl")
    return _compare_all([
        (f"length, {full} − {ours}:", shorter.mean, shorter.low, shorter.high),
        (f"entropy, {ours} − {full}:", livelier.mean, livelier.low, livelier.high),
    ])  # fmt: skip


def _beta_zero(results: Results) -> Finding:
    return _pooled(results, [(method, "beta0") for method in SDPG], evaluation_step(results, EARLY))


_PAIRED = "paired difference by problem, seeds averaged"

CLAIMS = (
    Claim("last-over-grpo", "SDPG-UFKL and SDPG-URKL beat GRPO on every benchmark, Last", "Tables 1 and 2",
          ("grpo", *SDPG), f"Last, {_PAIRED}, every benchmark above 0",
          lambda results: _last_everywhere(results, [(method, "grpo") for method in SDPG]),
          course=False),
    Claim("last-over-rlsd", "SDPG-UFKL and SDPG-URKL are at least as good as RLSD on every benchmark, Last",
          "Tables 1 and 2", ("rlsd", *SDPG), f"Last, {_PAIRED}, every benchmark at or above 0",
          lambda results: _last_everywhere(results, [(method, "rlsd") for method in SDPG], allow_equal=True),
          course=False),
    Claim("rlsd-over-grpo", "RLSD beats GRPO on every benchmark, Last", "Tables 1 and 2", ("grpo", "rlsd"),
          f"Last, {_PAIRED}, every benchmark above 0",
          lambda results: _last_everywhere(results, [("rlsd", "grpo")]), course=False),
    Claim("opcd-below-grpo", "OPCD ends below GRPO on every benchmark, Last", "Table 2", ("grpo", "opcd"),
          f"Last of GRPO minus Last of OPCD, {_PAIRED}, every benchmark above 0",
          lambda results: _last_everywhere(results, [("opcd", "grpo")], sign=-1), course=False),
    Claim("early-lead", "SDPG's lead over GRPO opens within 50 of 400 steps", "text and figures 3 and 6",
          ("grpo", *SDPG), f"first evaluation at or after an eighth of the run, {_PAIRED}, benchmarks pooled",
          _early_lead),
    Claim("rlsd-entropy", "RLSD's entropy collapses towards 0 by step 250 of 400", "text and figures 3 and 6",
          ("rlsd",), f"entropy before 62.5% of the run ÷ at its start: under {COLLAPSED} collapsed, over {KEPT} not",
          _rlsd_entropy),
    Claim("ufkl-entropy", "SDPG-UFKL keeps the highest entropy (of the methods in figures 3 and 6)",
          "text and figures 3 and 6", ("grpo", "rlsd", "sdpg-urkl", "sdpg-ufkl"),
          "second half of the run: difference of entropy to each other method, interval over steps in 5 batches",
          _highest_entropy),
    Claim("opcd-collapse", "OPCD collapses in accuracy and length after step 250 of 400", "text", ("opcd",),
          f"accuracy at 62.5% of the run minus at its end, {_PAIRED}, benchmarks pooled; mean length",
          _opcd_collapse,
          conflict="the text says after step 250; in the figure the length falls steadily from about step 180 and "
                   "AIME24 holds until about 310–350"),
    Claim("alpha0", "α = 0 shortens responses and raises entropy", "text and figure 5", ("sdpg-ufkl", "alpha0"),
          "second half of the run, against SDPG-UFKL: difference over steps in 5 batches, both above 0",
          _alpha_zero),
    Claim("beta0", "β = 0 loses the early lead", "text", ("beta0", *SDPG),
          f"first evaluation at or after an eighth of the run, {_PAIRED}, benchmarks pooled", _beta_zero,
          conflict="the text says so; in figure 5 β = 0 is at or above SDPG-URKL for most of steps 50–200"),
)  # fmt: skip


def decide_claim(claim: Claim, results: Results) -> DecidedClaim:
    """Returns the verdict on one claim from our runs."""
    missing = [method for method in claim.needs if method not in results.runs]
    if missing:
        finding, why = Finding("cannot tell", "—"), f"not run: {', '.join(missing)}"
    elif claim.course and total_steps(results) < SHORTEST:
        finding, why = Finding("cannot tell", "—"), f"the runs are shorter than {SHORTEST} steps"
    else:
        finding = claim.measure(results)
        why = {
            "holds": "every interval lies on the claim's side of 0",
            "does not hold": "an interval lies wholly on the other side of 0",
            "cannot tell": "an interval includes 0",
        }[finding.verdict]
        if claim.measure is _rlsd_entropy:
            why = "by the thresholds" if finding.verdict != "cannot tell" else "between the thresholds, or seeds differ"
    if claim.conflict:
        measured = f"the text's version, measured here: {finding.verdict}" if finding.numbers != "—" else why
        finding = Finding("cannot tell", finding.numbers)
        why = f"the paper's text and figure disagree: {claim.conflict} ({measured})"
    return DecidedClaim(claim.id, claim.text, claim.source, claim.measurement, finding.verdict, finding.numbers, why)


def decide_claims(results: Results) -> list[DecidedClaim]:
    """Returns the verdicts on all claims, in the order of the report."""
    return [decide_claim(claim, results) for claim in CLAIMS]
