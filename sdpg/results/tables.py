"""Computes the numbers of the tables, from runs to rows.

Last is the last in-training evaluation, Best the maximum of the same series (biased upwards by selection on the test
set), Selected the step with the highest validation accuracy (the earliest of equals). The series begins with the base
at step 0. Larger samples of the final policy are another evaluation and have a table of their own.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sdpg.errors import UserError
from sdpg.records.schemas import BASE, VALIDATION
from sdpg.results.runs import BASE_TEACHER, Results
from sdpg.results.statistics.at_k import pass_at_k
from sdpg.results.statistics.comparisons import holm, needed_sizes
from sdpg.results.statistics.estimates import (
    Array,
    Difference,
    Interval,
    ProblemCounts,
    accuracy_matrix,
    mean_interval,
    paired_difference,
    seed_interval,
)
from sdpg.results.statistics.evidence import Evidence, gather_evidence
from sdpg.results.statistics.intervals import FEWEST_DEVIATING
from sdpg.results.statistics.summaries import EvaluationSummary

BASELINE = "grpo"
BASE_GREEDY = "base-greedy"


@dataclass(frozen=True)
class MainRow:
    """A method on a benchmark: in-training evaluations, averaged over seeds."""

    method: str
    title: str
    benchmark: str
    benchmark_title: str
    last: float
    ci_low: float
    ci_high: float
    """Limits of ``last`` by problem, conditional on the trained policies."""
    last_step: int
    best: float
    best_steps: list[int]
    """One step per seed."""
    selected: float
    selected_steps: list[int]
    problems: int
    samples: int
    """Samples per problem and seed."""
    seeds: int
    """Number of seeds; 0 for the base, which is not trained here per seed."""
    seed_spread: str
    seed_low: float | None
    seed_high: float | None
    """Limits of the t interval of ``last`` over seeds, from three seeds up."""
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    difference_p: float | None
    """``last`` minus GRPO's, paired by problem; null for GRPO itself, for the base, and where GRPO was not run."""
    difference_p_holm: float | None
    """The p-value, adjusted for the number of comparisons in the table."""
    needed: str | None
    """How many problems or samples would tell the two apart, in words; null where there are too few to say."""
    evidence: Evidence
    """Evidence behind ``last``."""


@dataclass(frozen=True)
class FinalRow:
    """Larger samples of a final policy, or of the base, on a benchmark."""

    method: str
    title: str
    benchmark: str
    benchmark_title: str
    mean: float
    mean_low: float
    mean_high: float
    """Limits of mean@n at the evaluation temperature."""
    pass_at: dict[int, Interval]
    greedy: float | None
    greedy_low: float | None
    greedy_high: float | None
    gain: Difference | None
    """Difference to the base at the evaluation temperature, paired by problem."""
    greedy_gain: Difference | None
    """Difference to the base's greedy answers, paired by problem."""
    problems: int
    samples: int
    seeds: int
    evidence: Evidence
    """Evidence behind ``mean``."""


def plus(value: float) -> str:
    """Returns three decimals with a sign, the minus as wide as the plus."""
    return f"{value:+.3f}".replace("-", "−")


def _interval(results: Results, values: Array) -> Interval:
    return mean_interval(values, results.params.report.confidence)


def compare(results: Results, a: Array, b: Array) -> Difference:
    """Returns a - b by problem, with the confidence, resamples and seed of the report."""
    report = results.params.report
    return paired_difference(a, b, report.confidence, report.resamples, report.seed)


def compare_last(results: Results, method: str, other: str, benchmark: str) -> Difference:
    """Returns Last of ``method`` minus Last of ``other``, by problem, seeds averaged first.

    Raises:
        UserError: if the two were evaluated on different problems.
    """
    ours, theirs = results.last(method, benchmark), results.last(other, benchmark)
    _same_problems(benchmark, method, ours[0], other, theirs[0])
    return compare(results, accuracy_matrix(ours).mean(axis=0), accuracy_matrix(theirs).mean(axis=0))


def _same_problems(benchmark: str, method: str, ours: ProblemCounts, other: str, theirs: ProblemCounts) -> None:
    if ours.problems != theirs.problems:
        raise UserError(f"{method} and {other} were evaluated on different problems of {benchmark!r}: run the stages "
                        "train, evaluate and base again, so that they can be compared by problem")  # fmt: skip


def spread_words(seeds: int, interval: Interval | None) -> str:
    """Returns the column of the spread over seeds: a t interval from three seeds up, otherwise how many there are."""
    if interval is None:
        return "one seed" if seeds == 1 else f"{seeds} seeds"
    return f"{interval.low:.3f}–{interval.high:.3f}"


def _base_main_row(results: Results, benchmark: str, greedy: bool) -> MainRow:
    answers = results.base[BASE, benchmark, greedy]
    counts = answers.counts
    last = _interval(results, counts.accuracy)
    temperature = results.params.evaluation.temperature
    return MainRow(
        method=BASE_GREEDY if greedy else BASE,
        title="Base, greedy" if greedy else f"Base, temperature {temperature:g}",
        benchmark=benchmark,
        benchmark_title=results.benchmarks[benchmark],
        last=last.mean, ci_low=last.low, ci_high=last.high, last_step=0,
        best=last.mean, best_steps=[0], selected=last.mean, selected_steps=[0],
        problems=len(counts.problems), samples=counts.samples, seeds=0,
        seed_spread="–", seed_low=None, seed_high=None,
        difference=None, difference_low=None, difference_high=None, difference_p=None, difference_p_holm=None,
        needed=None, evidence=gather_evidence([answers], results.params.report),
    )  # fmt: skip


def _method_main_row(results: Results, method: str, benchmark: str) -> MainRow:
    runs = results.runs[method]
    answers = results.last_answers(method, benchmark)
    counts = [each.counts for each in answers]
    matrix = accuracy_matrix(counts)
    lasts = [float(run.curves[benchmark][-1]) for run in runs]
    for run, last, measured in zip(runs, lasts, matrix.mean(axis=1), strict=True):
        if abs(last - measured) > 1e-3:
            raise UserError(f"{run.folder}: curves.csv ends with {last:.4f} on {benchmark!r}, but its evaluation rows "
                            f"give {measured:.4f}: run the stage train@{method}-{run.seed} again")  # fmt: skip
    last = _interval(results, matrix.mean(axis=0))
    best = [int(np.argmax(run.curves[benchmark])) for run in runs]
    # argmax takes the first of equals: the earliest step.
    selected = [int(np.argmax(run.curves[VALIDATION])) for run in runs]
    seeds = seed_interval(lasts, results.params.report.confidence)
    difference = needed = None
    if BASELINE in results.runs and method != BASELINE:
        difference = compare_last(results, method, BASELINE, benchmark)
        needed = _needed(results, counts, results.last(BASELINE, benchmark))
    return MainRow(
        method=method,
        title=results.title(method),
        benchmark=benchmark,
        benchmark_title=results.benchmarks[benchmark],
        last=last.mean, ci_low=last.low, ci_high=last.high, last_step=runs[0].last_step,
        best=float(np.mean([run.curves[benchmark][at] for run, at in zip(runs, best, strict=True)])),
        best_steps=[int(run.curves["step"][at]) for run, at in zip(runs, best, strict=True)],
        selected=float(np.mean([run.curves[benchmark][at] for run, at in zip(runs, selected, strict=True)])),
        selected_steps=[int(run.curves["step"][at]) for run, at in zip(runs, selected, strict=True)],
        problems=matrix.shape[1], samples=counts[0].samples, seeds=len(runs),
        seed_spread=spread_words(len(runs), seeds),
        seed_low=seeds.low if seeds else None, seed_high=seeds.high if seeds else None,
        difference=difference.mean if difference else None,
        difference_low=difference.low if difference else None,
        difference_high=difference.high if difference else None,
        difference_p=difference.p_value if difference else None,
        difference_p_holm=None,
        needed=needed, evidence=gather_evidence(answers, results.params.report),
    )  # fmt: skip


def _needed(results: Results, ours: list[ProblemCounts], theirs: list[ProblemCounts]) -> str | None:
    """Returns the needed sizes in words; None where there are too few problems or samples."""
    fewest = min(each.samples for each in ours)
    if len(ours[0].problems) < FEWEST_DEVIATING or fewest < 2 or {each.samples for each in theirs} != {fewest}:
        return None
    return needed_sizes(ours, theirs, results.params.report.confidence).words()


def _adjusted(rows: list[MainRow]) -> list[MainRow]:
    """Returns the rows with the p-values of their differences adjusted for how many there are."""
    places = [at for at, row in enumerate(rows) if row.difference_p is not None]
    adjusted = holm([rows[at].difference_p or 0.0 for at in places])
    rows = list(rows)
    for at, p_value in zip(places, adjusted.tolist(), strict=True):
        rows[at] = replace(rows[at], difference_p_holm=p_value)
    return rows


def main_rows(results: Results) -> list[MainRow]:
    """Returns the main table: per benchmark the base at temperature and greedy, then each method in the run's order.

    Where the base was not evaluated, it has no row.
    """
    rows = []
    for benchmark in results.benchmarks:
        rows += [
            _base_main_row(results, benchmark, greedy)
            for greedy in (False, True) if (BASE, benchmark, greedy) in results.base
        ]  # fmt: skip
        rows += [_method_main_row(results, method, benchmark) for method in results.runs]
    return _adjusted(rows)


def pass_sizes(samples: int) -> list[int]:
    """Returns 1, 2, 4, … and the number of samples itself."""
    return sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})


def _final_row(
    results: Results, method: str, title: str, benchmark: str,
    evaluations: list[EvaluationSummary], greedy_evaluations: list[EvaluationSummary], gains: bool, seeds: int,
) -> FinalRow:  # fmt: skip
    sampled, greedy = ([each.counts for each in group] for group in (evaluations, greedy_evaluations))
    accuracy = accuracy_matrix(sampled).mean(axis=0)
    mean = _interval(results, accuracy)
    samples = min(counts.samples for counts in sampled)
    pass_at = {
        k: _interval(results, np.mean([pass_at_k(counts.samples, counts.correct, k) for counts in sampled], axis=0))
        for k in pass_sizes(samples)
    }
    greedy_accuracy = accuracy_matrix(greedy).mean(axis=0) if greedy else None
    greedy_mean = _interval(results, greedy_accuracy) if greedy_accuracy is not None else None
    gain = greedy_gain = None
    if gains:
        base, base_greedy = (results.base[BASE, benchmark, flag].counts for flag in (False, True))
        _same_problems(benchmark, method, sampled[0], "the base", base)
        gain = compare(results, accuracy, base.accuracy)
        if greedy_accuracy is not None:
            _same_problems(benchmark, method, greedy[0], "the base (greedy)", base_greedy)
            greedy_gain = compare(results, greedy_accuracy, base_greedy.accuracy)
    return FinalRow(
        method=method, title=title, benchmark=benchmark, benchmark_title=results.benchmarks[benchmark],
        mean=mean.mean, mean_low=mean.low, mean_high=mean.high, pass_at=pass_at,
        greedy=greedy_mean.mean if greedy_mean else None,
        greedy_low=greedy_mean.low if greedy_mean else None,
        greedy_high=greedy_mean.high if greedy_mean else None,
        gain=gain, greedy_gain=greedy_gain,
        problems=len(sampled[0].problems), samples=samples, seeds=seeds,
        evidence=gather_evidence(evaluations, results.params.report),
    )  # fmt: skip


def final_rows(results: Results) -> list[FinalRow]:
    """Returns 'Final policy, larger samples': per benchmark the base, the base as teacher, then each method."""
    rows = []
    for benchmark in results.benchmarks:
        for method, title in ((BASE, "Base"), (BASE_TEACHER, "Base as teacher")):
            sampled, greedy = (results.base.get((method, benchmark, flag)) for flag in (False, True))
            if sampled:
                rows.append(_final_row(results, method, title, benchmark, [sampled], [greedy] if greedy else [],
                                       gains=False, seeds=0))  # fmt: skip
        for method, runs in results.runs.items():
            rows.append(_final_row(results, method, results.title(method), benchmark,
                                   [run.final[benchmark, False] for run in runs],
                                   [run.final[benchmark, True] for run in runs],
                                   gains=(BASE, benchmark, False) in results.base, seeds=len(runs)))  # fmt: skip
    return rows


def greedy_headline(rows: list[FinalRow], confidence: float) -> str:
    """Returns whether any method answers better than the base where both are greedy: learning, not only sharpening."""
    gains = [(row, row.greedy_gain) for row in rows if row.greedy_gain]

    def listed(chosen: list[tuple[FinalRow, Difference]]) -> str:
        return "; ".join(
            f"{row.title} on {row.benchmark_title} ({plus(gain.mean)}, {plus(gain.low)} to {plus(gain.high)})"
            for row, gain in chosen
        )

    better = [(row, gain) for row, gain in gains if gain.low > 0]
    worse = [(row, gain) for row, gain in gains if gain.high < 0]
    how = f"{confidence:.0%} interval of the paired gain over the base, {len(gains)} comparisons, not corrected,"
    if better:
        text = f"Greedy accuracy improves ({how} above 0) for {listed(better)}."
    else:
        text = (f"No method improves greedy accuracy on any benchmark (nowhere is the {how} above 0): gains at "
                "temperature may be sharpening of what the base already prefers, rather than learning.")  # fmt: skip
    return text + (f" It falls for {listed(worse)}." if worse else "")


def main_json(rows: list[MainRow]) -> list[dict[str, Any]]:
    """Returns the rows as plain dictionaries."""
    return [asdict(row) | {"evidence": evidence_json(row.evidence)} for row in rows]


def final_json(rows: list[FinalRow]) -> list[dict[str, Any]]:
    """Returns the rows as plain dictionaries; intervals and differences become dictionaries too."""
    plain = []
    for row in rows:
        values = {name: getattr(row, name) for name in row.__dataclass_fields__}
        values["pass_at"] = {str(k): interval._asdict() for k, interval in row.pass_at.items()}
        for name in ("gain", "greedy_gain"):
            values[name] = values[name]._asdict() if values[name] else None
        plain.append(values | {"evidence": evidence_json(row.evidence)})
    return plain


def evidence_json(evidence: Evidence) -> dict[str, Any]:
    """Returns the evidence as a plain dictionary."""
    return asdict(evidence) | {"joint": evidence.joint._asdict() if evidence.joint else None}
