from collections import Counter
from itertools import combinations
import math

import numpy as np
import pytest

from sdpg.results.statistics.at_k import Answer, best_at_k, majority_at_k, pass_at_every_k, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_pass_at_k_equals_enumeration(n: int) -> None:
    for c in range(n + 1):
        answers = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            draws = list(combinations(answers, k))
            brute = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(n, c, k) == pytest.approx(brute, abs=1e-14)


def test_pass_at_k_is_vectorised_stable_and_pass_at_1_is_the_mean() -> None:
    correct = np.array([0, 1, 16, 9999, 10_000])
    assert pass_at_k(10_000, correct, 1) == pytest.approx(correct / 10_000)
    exact = 1 - math.comb(9984, 5000) / math.comb(10_000, 5000)
    assert pass_at_k(10_000, correct, 5000)[2] == pytest.approx(exact, abs=1e-12)
    assert pass_at_k(np.array([2, 4]), np.array([1, 1]), 2) == pytest.approx([1.0, 0.5])


def test_pass_at_k_refuses_more_draws_than_answers() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, [1, 2], 5)


def test_pass_at_every_k_is_pass_at_each_k() -> None:
    correct = np.array([0, 1, 5, 31, 32])
    found = pass_at_every_k(32, correct)
    assert found.shape == (5, 32)
    for k in range(1, 33):
        assert found[:, k - 1] == pytest.approx(pass_at_k(32, correct, k), abs=1e-14)
        exact = [1 - math.comb(32 - c, k) / math.comb(32, k) for c in correct.tolist()]
        assert found[:, k - 1] == pytest.approx(exact, abs=1e-14)


def test_pass_at_every_k_of_thousands_of_answers() -> None:
    found = pass_at_every_k(10_000, [1])
    assert found[0] == pytest.approx(np.arange(1, 10_001) / 10_000, abs=1e-11)  # one right answer is among k of n: k/n


def test_best_at_k_by_hand() -> None:
    # Of 1, 2, 4 two are drawn: the best is 2, 4, 4.
    assert best_at_k([[4.0, 1.0, 2.0]], 2) == pytest.approx([10 / 3])
    assert best_at_k([[4.0, 1.0, 2.0]], 1) == pytest.approx([7 / 3])
    assert best_at_k([[4.0, 1.0, 2.0]], 3) == pytest.approx([4.0])


def test_best_at_k_equals_enumeration() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 7)).round(1)
    for k in range(1, 8):
        brute = [np.mean([max(draw) for draw in combinations(row, k)]) for row in scores.tolist()]
        assert best_at_k(scores, k) == pytest.approx(brute, abs=1e-13)


def test_best_at_k_of_right_and_wrong_is_pass_at_k() -> None:
    scores = np.random.default_rng(0).random((6, 32)) < np.linspace(0, 1, 6)[:, None]
    for k in (1, 2, 8, 31, 32):
        assert best_at_k(scores, k) == pytest.approx(pass_at_k(32, scores.sum(axis=1), k), abs=1e-13)
    with pytest.raises(ValueError, match="best@33"):
        best_at_k(scores, 33)


def brute_majority(answers: list[Answer], k: int) -> float:
    """Every draw of k; right answers are one class, answers of nothing cast no vote, ties are shared."""
    won = []
    for draw in combinations(answers, k):
        votes = Counter("right" if right else f"wrong {says}" for says, right in draw if right or says is not None)
        leading = [name for name, count in votes.items() if count == max(votes.values())]
        won.append(("right" in leading) / len(leading) if leading else 0.0)
    return float(np.mean(won))


def test_majority_by_hand() -> None:
    right, one, two, silent = ("7", True), ("1", False), ("2", False), (None, False)
    # Two of three drawn: 7 and 7 wins; 7 and 1, twice, ties.
    assert majority_at_k([[right, right, one]], 2) == pytest.approx([(1 + 0.5 + 0.5) / 3])
    # All drawn: 7 has two votes against one.
    assert majority_at_k([[right, right, one]], 3) == pytest.approx([1.0])
    # A three-way tie.
    assert majority_at_k([[right, one, two]], 3) == pytest.approx([1 / 3])
    # Silence casts no vote: of three pairs, 7 wins with each silent one, and is not there in the third.
    assert majority_at_k([[right, silent, silent]], 2) == pytest.approx([2 / 3])
    assert majority_at_k([[silent, silent], [one, one]], 2) == pytest.approx([0.0, 0.0])


def test_right_answers_vote_together_however_they_are_written() -> None:
    answers = [("1/2", True), ("0.5", True), ("3", False), ("3", False), ("4", False)]
    assert majority_at_k([answers], 5) == pytest.approx([0.5])  # 2 : 2 : 1
    # An answer of the same form that was judged wrong, by a time-out say, stays wrong.
    assert majority_at_k([[("1/2", True), ("1/2", False)]], 1) == pytest.approx([0.5])


@pytest.mark.parametrize("seed", range(6))
def test_majority_equals_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    says = [None, "a", "b", "c", "right", "right too"]
    answers: list[list[Answer]] = [
        [(says[i], i >= 4) for i in rng.choice(6, size=9, p=rng.dirichlet(np.ones(6))).tolist()] for _ in range(5)
    ]
    for k in range(1, 10):
        brute = [brute_majority(given, k) for given in answers]
        assert majority_at_k(answers, k) == pytest.approx(brute, abs=1e-12)


def test_majority_of_32_agrees_with_simulation() -> None:
    rng = np.random.default_rng(0)
    sizes = {"right": 9, "a": 8, "b": 6, "c": 3, "d": 1, "e": 1, None: 4}
    answers: list[Answer] = [(says, says == "right") for says, size in sizes.items() for _ in range(size)]
    groups = np.repeat(np.arange(7), list(sizes.values()))
    draws = np.argsort(rng.random((100_000, 32)), axis=1)
    for k in (1, 2, 5, 8, 16, 32):
        drawn = groups[draws[:, :k]]
        votes = np.stack([(drawn == group).sum(axis=1) for group in range(6)], axis=1)
        most = votes.max(axis=1)
        won = ((votes[:, 0] == most) & (most > 0)) / (votes == most[:, None]).sum(axis=1)
        found = majority_at_k([answers], k)[0]
        assert found == pytest.approx(won.mean(), abs=max(1e-12, 4.5 * won.std() / math.sqrt(100_000)))


def test_majority_at_1_is_the_accuracy_and_with_two_answers_to_choose_from_the_binomial_tail() -> None:
    answers: list[Answer] = [("x", True)] * 20 + [("y", False)] * 12
    assert majority_at_k([answers], 1) == pytest.approx([20 / 32], abs=1e-14)
    for k in (3, 7, 21):
        tail = sum(math.comb(20, v) * math.comb(12, k - v) for v in range(k // 2 + 1, k + 1)) / math.comb(32, k)
        assert majority_at_k([answers], k) == pytest.approx([tail], abs=1e-12)


def test_majority_of_thousands_of_answers_is_stable() -> None:
    answers: list[Answer] = [("x", True)] * 1300 + [("y", False)] * 700
    tail = sum(math.comb(1300, v) * math.comb(700, 101 - v) for v in range(51, 102)) / math.comb(2000, 101)
    assert majority_at_k([answers], 101) == pytest.approx([tail], abs=1e-11)
    with pytest.raises(ValueError, match="maj@2001"):
        majority_at_k([answers], 2001)
