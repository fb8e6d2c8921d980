"""Scores a model's answers on benchmarks: scores by problem, differences between models, and both as text.

Axis: P problems of a benchmark that fit a model's prompt.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sdpg.evaluation.benchmarking import ANSWERS, BenchmarkAnswers
from sdpg.params import ReportParams
from sdpg.problems.prepare import aligned, dropped_text
from sdpg.records.schemas import read_evaluations
from sdpg.results.rendering import limits, markdown_table, number, p_text, signed
from sdpg.results.statistics.comparisons import holm
from sdpg.results.statistics.estimates import (
    Array,
    Difference,
    Interval,
    ProblemCounts,
    count_correct,
    mean_interval,
    paired_difference,
    pass_at_k,
)
from sdpg.rewards.verifiers import Status


@dataclass(frozen=True)
class Score:
    """The score of a model on one benchmark in one way of decoding: sampled, or greedy."""

    mean: Interval
    """Accuracy, with its interval by problem."""
    pass_at: dict[int, float]
    """k → pass@k, for the powers of two from 2 to the number of samples."""
    length: float
    """Mean length of an answer in tokens, EOS included."""
    statuses: dict[str, float]
    """Share of scored verdict; they sum to 1."""
    counts: ProblemCounts


@dataclass(frozen=True)
class Scores:
    """The scores of a model on a benchmark; ``None`` where it was not evaluated in that way, or not at all."""

    answered: BenchmarkAnswers
    sampled: Score | None
    greedy: Score | None


@dataclass(frozen=True)
class Comparison:
    """A model minus the first one, on the problems of a benchmark that both answered."""

    benchmark: str
    model: str
    other: str
    way: str
    problems: int
    difference: Difference


def score(answered: BenchmarkAnswers, report: ReportParams) -> Scores:
    """Returns the scores of a model's answers on one benchmark, read from its folder."""
    if answered.folder is None:
        return Scores(answered, None, None)
    path = answered.folder / ANSWERS
    table = read_evaluations(path, ["method", "benchmark", "temperature", "problem_id", "status", "length"])
    counts = {greedy: group for (_, _, greedy), group in count_correct(table, str(path)).items()}
    rows = table.to_pylist()
    by_decoding = {
        greedy: _score([row for row in rows if (row["temperature"] == 0) == greedy], group, report)
        for greedy, group in counts.items()
    }
    return Scores(answered, by_decoding.get(False), by_decoding.get(True))


def _score(rows: Sequence[dict[str, Any]], counts: ProblemCounts, report: ReportParams) -> Score:
    sizes = [2**power for power in range(1, counts.samples.bit_length())]
    verdicts = Counter(row["status"] for row in rows)
    return Score(
        mean=mean_interval(counts.accuracy, report.confidence),
        pass_at={k: float(pass_at_k(counts.samples, counts.correct, k).mean()) for k in sizes},
        length=sum(row["length"] for row in rows) / len(rows),
        statuses={str(status): verdicts[status] / len(rows) for status in Status},
        counts=counts,
    )


def _on(counts: ProblemCounts, problems: Sequence[str]) -> Array:
    """Returns the accuracies of some of the problems in the given order, (P,)."""
    by_problem = dict(zip(counts.problems, counts.accuracy, strict=True))
    return np.array([by_problem[problem] for problem in problems])


def compare(scores: Sequence[Scores], report: ReportParams) -> list[Comparison]:
    """Returns every further model minus the first, paired by problem.

    Tokenizers may differ in which prompts fit, so only problems that both models answered are compared.
    """
    first = scores[0].answered.model
    base = {scored.answered.benchmark.name: scored for scored in scores if scored.answered.model is first}
    comparisons = []
    for scored in scores:
        name = scored.answered.benchmark.name
        if scored.answered.model is first:
            continue
        for way, a, b in (
            ("sampled", scored.sampled, base[name].sampled),
            ("greedy", scored.greedy, base[name].greedy),
        ):
            if a is None or b is None:
                continue
            common = sorted(set(a.counts.problems) & set(b.counts.problems))
            if common:
                difference = paired_difference(
                    _on(a.counts, common), _on(b.counts, common), report.confidence, report.resamples, report.seed
                )
                comparisons.append(
                    Comparison(name, scored.answered.model.name, first.name, way, len(common), difference)
                )  # fmt: skip
    return comparisons


Rows = list[tuple[str, ...]]


def score_rows(scores: Sequence[Scores]) -> Rows:
    """Returns the main table, header first: answers per problem and the share of right ones."""
    sizes = sorted({k for scored in scores if scored.sampled for k in scored.sampled.pass_at})
    samples = max((scored.sampled.counts.samples for scored in scores if scored.sampled), default=0)
    rows = [("benchmark", "model", "asked", f"mean@{samples}" if samples else "sampled", "interval",
             *[f"pass@{k}" for k in sizes], "greedy", "interval")]  # fmt: skip
    for scored in scores:
        benchmark, sampled, greedy = scored.answered.benchmark, scored.sampled, scored.greedy
        rows.append((
            benchmark.name, scored.answered.model.name, f"{len(benchmark.rows)} of {benchmark.problems}",
            *_cells(sampled), *[number(sampled.pass_at[k] if sampled else None) for k in sizes], *_cells(greedy),
        ))  # fmt: skip
    return rows


def _cells(score: Score | None) -> tuple[str, str]:
    return (number(score.mean.mean), limits(score.mean.low, score.mean.high)) if score else ("–", "–")


def status_rows(scores: Sequence[Scores]) -> Rows:
    """Returns the shares of verdicts, header first: one row for scored model, benchmark and way of decoding."""
    rows: Rows = [("benchmark", "model", "asked how", "tokens", *map(str, Status))]
    for scored in scores:
        for way, score in (("sampled", scored.sampled), ("greedy", scored.greedy)):
            if score:
                shares = [number(share) for share in score.statuses.values()]
                rows.append((scored.answered.benchmark.name, scored.answered.model.name, way, f"{score.length:.1f}",
                             *shares))  # fmt: skip
    return rows


def comparison_rows(comparisons: Sequence[Comparison]) -> Rows:
    """Returns the table of differences, header first."""
    rows: Rows = [("benchmark", "difference", "asked how", "problems", "mean (interval)", "p", "p, Holm")]
    adjusted = holm([c.difference.p_value for c in comparisons]).tolist()
    rows += [
        (c.benchmark, f"{c.model} − {c.other}", c.way, str(c.problems), signed(c.difference),
         p_text(c.difference.p_value), p_text(p_value)) for c, p_value in zip(comparisons, adjusted, strict=True)
    ]  # fmt: skip
    return rows


def notes(scores: Sequence[Scores], report: ReportParams) -> list[str]:
    """Returns notes on what was left out and on how to read the numbers."""
    lines = [
        f"mean: share of right answers over the problems that were asked, with the {report.confidence:.0%} interval by "
        "problem, the model being fixed; pass@k: unbiased estimate; greedy: one answer per problem."
    ]
    for scored in scores:
        benchmark = scored.answered.benchmark
        if dropped := dropped_text(benchmark.dropped):
            what = f"{benchmark.name}, {scored.answered.model.name}: left out: {dropped}."
            if not benchmark.rows:
                what += " Nothing was asked, so there is no number."
            elif (asked := len(benchmark.rows)) < benchmark.problems:
                what += f" The numbers are of {asked} of {benchmark.problems} problems, not of the whole benchmark."
            lines.append(what)
    if any(scored.answered.benchmark.dropped["student_prompt_too_long"] for scored in scores):
        lines.append("A prompt is too long beyond prompts.max_student_tokens of params.yaml.")
    return lines


def text(scores: Sequence[Scores], comparisons: Sequence[Comparison], report: ReportParams) -> str:
    """Returns all tables and notes, for a terminal."""
    tables = [score_rows(scores), status_rows(scores), *([comparison_rows(comparisons)] if comparisons else [])]
    return "\n\n".join("\n".join(part) for part in (*[aligned(rows) for rows in tables], notes(scores, report)))


def markdown(scores: Sequence[Scores], comparisons: Sequence[Comparison], report: ReportParams) -> str:
    """Returns all tables and notes as Markdown."""
    tables = [score_rows(scores), status_rows(scores), *([comparison_rows(comparisons)] if comparisons else [])]
    parts = [markdown_table(rows[0], rows[1:]) for rows in tables]
    return "\n\n".join(["# Benchmarks", *parts, "\n".join(f"- {note}" for note in notes(scores, report))]) + "\n"


def as_json(scores: Sequence[Scores], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Returns all numbers in full, and where the answers are."""

    def plain(score: Score | None) -> dict[str, Any] | None:
        if score is None:
            return None
        return {
            "samples": score.counts.samples,
            "mean": score.mean._asdict(),
            "pass_at": {str(k): value for k, value in score.pass_at.items()},
            "length": score.length,
            "statuses": score.statuses,
        }

    return {
        "scores": [
            {
                "benchmark": scored.answered.benchmark.name,
                "model": scored.answered.model.path.as_posix(),
                "problems": scored.answered.benchmark.problems,
                "asked": len(scored.answered.benchmark.rows),
                "dropped": dict(scored.answered.benchmark.dropped),
                "answers": None if scored.answered.folder is None else (scored.answered.folder / ANSWERS).as_posix(),
                "sampled": plain(scored.sampled),
                "greedy": plain(scored.greedy),
            }
            for scored in scores
        ],
        "comparisons": [asdict(c) | {"difference": c.difference._asdict()} for c in comparisons],
    }
