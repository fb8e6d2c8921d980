import pyarrow as pa
import pytest

from sdpg.errors import UserError
from sdpg.records.schemas import EVALUATION_SCHEMA
from sdpg.results.statistics.at_k import majority_at_k
from sdpg.results.statistics.summaries import COLUMNS, summarise

ROWS = [
    # problem_id, sample, status, extracted_answer, length, truncated, temperature
    ("b", 1, "wrong", "8", 20, True, 1.0),
    ("b", 0, "correct", " 7", 10, False, 1.0),
    ("a", 0, "truncated", None, 60, True, 1.0),
    ("a", 1, "no_answer", None, 30, False, 1.0),
    ("a", 0, "timeout", "9^{9^9}", 50, False, 0.0),
    ("b", 0, "correct", "7", 15, False, 0.0),
]


def table(rows: list[tuple[str, int, str, str | None, int, bool | None, float]]) -> pa.Table:
    names = ("problem_id", "sample", "status", "extracted_answer", "length", "truncated", "temperature")
    return pa.Table.from_pylist(
        [{"method": "m", "benchmark": "x", **dict(zip(names, row, strict=True))} for row in rows]
    )


def test_a_summary_per_method_benchmark_and_decoding() -> None:
    found = summarise(table(ROWS), "here")
    assert set(found) == {("m", "x", False), ("m", "x", True)}
    sampled = found["m", "x", False]
    assert sampled.counts.problems == ("a", "b")
    assert sampled.counts.correct.tolist() == [0, 1]
    assert sampled.answers == (((None, False), (None, False)), (("7", True), ("8", False)))
    assert sampled.mean_length == 30
    assert sampled.status_shares == {"correct": 0.25, "no_answer": 0.25, "truncated": 0.25, "wrong": 0.25}
    # The wrong one was cut as well, after its answer.
    assert sampled.truncated == 0.5
    greedy = found["m", "x", True]
    assert greedy.truncated == 0
    assert greedy.answers == ((("9^{9^9}", False),), (("7", True),))
    assert majority_at_k(sampled.answers, 1) == pytest.approx(sampled.counts.accuracy)


def test_records_too_old_to_tell_every_cut_give_no_share() -> None:
    rows = [(*row[:5], True if row[2] == "truncated" else None, row[6]) for row in ROWS]
    found = summarise(table(rows), "here")
    assert [found["m", "x", greedy].truncated for greedy in (False, True)] == [None, None]


def test_wrong_answers_vote_together_in_their_canonical_form() -> None:
    rows = [("a", i, "wrong", says, 1, False, 1.0) for i, says in enumerate(["1,234", "1234"])]
    rows += [("a", i, "correct", "5", 1, False, 1.0) for i in (2, 3)]
    apart, together = (
        summarise(table(rows), "here", canonical)["m", "x", False].answers
        for canonical in (str.strip, lambda text: text.replace(",", ""))
    )
    assert majority_at_k(apart, 4) == pytest.approx([1.0])
    assert majority_at_k(together, 4) == pytest.approx([0.5])


def test_a_sample_twice_and_an_incomplete_evaluation_are_said() -> None:
    with pytest.raises(UserError, match=r"here: problem a of x has sample 0 twice"):
        summarise(table([ROWS[2], ROWS[2], ROWS[0], ROWS[1]]), "here")
    with pytest.raises(UserError, match=r"here.*between 1 and 2 answers"):
        summarise(table(ROWS[:3]), "here")


def test_columns_are_those_of_evaluation_rows() -> None:
    assert set(COLUMNS) <= set(EVALUATION_SCHEMA.names)
