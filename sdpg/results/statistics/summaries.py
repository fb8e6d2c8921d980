"""Turns evaluation rows into what the statistics need, per method, benchmark and way of decoding, without torch."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from sdpg.errors import UserError
from sdpg.results.statistics.at_k import Answer
from sdpg.results.statistics.estimates import ProblemCounts, count_correct

COLUMNS = [
    "method",
    "benchmark",
    "problem_id",
    "sample",
    "status",
    "extracted_answer",
    "length",
    "truncated",
    "temperature",
]
"""Columns of :data:`sdpg.records.schemas.EVALUATION_SCHEMA` that :func:`summarise` reads."""

Row = tuple[Answer, str, int, bool | None]
"""An answer, its status, its length, and whether it was cut (``None`` where that is not known)."""


@dataclass(frozen=True)
class EvaluationSummary:
    """One method's answers to one benchmark."""

    counts: ProblemCounts
    answers: tuple[tuple[Answer, ...], ...]
    """Answers per problem of ``counts``, in order of samples, for :func:`~.at_k.majority_at_k`."""
    mean_length: float
    """Mean length of an answer in tokens."""
    truncated: float | None
    """Share of answers that were cut at the token limit, whether or not they held an answer by then; ``None`` where the
    records are too old to say it of each."""
    status_shares: dict[str, float]
    """Share of each status that occurs, in order of names."""


def summarise(
    table: pa.Table, source: str, canonical: Callable[[str], str] = str.strip
) -> dict[tuple[str, str, bool], EvaluationSummary]:
    """Groups evaluation rows by (method, benchmark, greedy or not), as
    :func:`sdpg.results.statistics.estimates.count_correct` does.

    Args:
        table: rows with :data:`COLUMNS`, of one seed and step.
        source: the name of the table in errors.
        canonical: a normal form; wrong answers vote together where it makes them equal. Pass the verifier's form,
            so that "1,234" and "1234" are one answer.

    Raises:
        UserError: if the problems of a group have different numbers of answers, or one has a sample twice.
    """
    counts = count_correct(table, source)
    columns = [table.column(name).to_pylist() for name in COLUMNS]
    groups: dict[tuple[str, str, bool], dict[tuple[str, int], Row]] = {key: {} for key in counts}
    for method, benchmark, problem, sample, status, extracted, length, cut, temperature in zip(*columns, strict=True):
        rows = groups[method, benchmark, temperature == 0]
        if (problem, sample) in rows:
            raise UserError(f"{source}: problem {problem} of {benchmark} has sample {sample} twice: the file holds "
                            "several evaluations; run the stage that writes it again")  # fmt: skip
        says = None if extracted is None else canonical(extracted)
        rows[problem, sample] = ((says, status == "correct"), status, length, cut)
    return {key: _summary(counts[key], rows) for key, rows in groups.items()}


def _summary(counts: ProblemCounts, rows: dict[tuple[str, int], Row]) -> EvaluationSummary:
    answers: dict[str, list[Answer]] = {problem: [] for problem in counts.problems}
    for (problem, _), (answer, *_) in sorted(rows.items(), key=lambda row: row[0]):
        answers[problem].append(answer)
    statuses = Counter(status for _, status, _, _ in rows.values())
    cuts = [cut for *_, cut in rows.values()]
    return EvaluationSummary(
        counts,
        answers=tuple(tuple(given) for given in answers.values()),
        mean_length=sum(length for _, _, length, _ in rows.values()) / len(rows),
        truncated=None if None in cuts else sum(filter(None, cuts)) / len(rows),
        status_shares={status: statuses[status] / len(rows) for status in sorted(statuses)},
    )
