"""Tests the numbers of benchmarks, from fabricated answers."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sdpg.evaluation.benchmarking import Benchmark, BenchmarkAnswers, ModelFolder
from sdpg.params import ReportParams
from sdpg.records.schemas import EVALUATION_SCHEMA, write_evaluations
from sdpg.results.benchmark_scores import compare, markdown, score, text

REPORT = ReportParams(resamples=200)


def row(problem: str, sample: int, status: str, length: int, temperature: float = 1.0) -> dict[str, Any]:
    fixed = dict.fromkeys(EVALUATION_SCHEMA.names, "") | {"method": "m", "benchmark": "b", "seed": 0, "step": 0}
    return fixed | {"problem_id": problem, "sample": sample, "status": status, "length": length, "reward": 0.0,
                    "temperature": temperature, "truncated": status == "truncated"}  # fmt: skip


def fabricated(folder: Path, name: str, sampled: dict[str, list[str]], greedy: dict[str, str]) -> BenchmarkAnswers:
    rows = [
        row(problem, sample, status, 10 * (sample + 1))
        for problem, statuses in sampled.items()
        for sample, status in enumerate(statuses)
    ]
    rows += [row(problem, 0, status, 7, 0.0) for problem, status in greedy.items()]
    write_evaluations(folder / name / "answers.parquet", rows)
    asked: list[Any] = list(sampled or greedy)
    model = ModelFolder(Path("models") / name, name, None, "")  # pyright: ignore[reportArgumentType]
    return BenchmarkAnswers(model, Benchmark("b", asked, len(asked), Counter()), folder / name)


def test_the_numbers_by_hand(tmp_path: Path) -> None:
    sampled = {"p": ["correct", "wrong", "wrong", "truncated"], "q": ["correct", "wrong", "no_answer", "correct"]}
    scores = score(fabricated(tmp_path, "one", sampled, {"p": "wrong", "q": "correct"}), REPORT)
    assert scores.sampled is not None and scores.greedy is not None
    assert scores.sampled.mean.mean == (1 / 4 + 2 / 4) / 2
    # Of the 6 pairs of answers, 3 of p and 5 of q hold a right one.
    assert scores.sampled.pass_at == {2: pytest.approx((3 / 6 + 5 / 6) / 2), 4: 1.0}
    assert scores.sampled.length == (10 + 20 + 30 + 40) / 4
    assert scores.sampled.statuses == {
        "correct": 3 / 8, "wrong": 3 / 8, "no_answer": 1 / 8, "truncated": 1 / 8, "timeout": 0.0,
    }  # fmt: skip
    assert (scores.greedy.mean.mean, scores.greedy.pass_at, scores.greedy.length) == (0.5, {}, 7)
    assert scores.sampled.mean.low <= 0.375 <= scores.sampled.mean.high


def test_models_are_compared_on_the_problems_that_both_were_asked(tmp_path: Path) -> None:
    right, wrong = ["correct", "correct"], ["wrong", "wrong"]
    one = fabricated(tmp_path, "one", {"p": right, "q": wrong, "r": wrong}, {"p": "wrong", "q": "wrong", "r": "wrong"})
    half = ["correct", "wrong"]
    two = fabricated(tmp_path, "two", {"s": right, "r": right, "q": half}, {"s": "wrong", "r": "correct", "q": "wrong"})
    scores = [score(one, REPORT), score(two, REPORT)]
    found = compare(scores, REPORT)
    assert [(c.model, c.other, c.way, c.problems) for c in found] == [
        ("two", "one", "sampled", 2), ("two", "one", "greedy", 2)
    ]  # fmt: skip
    # On q: 1/2 − 0; on r: 1 − 0; p and s were asked of one model only.
    assert [c.difference.mean for c in found] == [0.75, 0.5]
    assert "two − one" in text(scores, found, REPORT) and "+0.750" in markdown(scores, found, REPORT)
