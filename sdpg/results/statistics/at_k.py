"""Estimates what k answers to a problem are worth, from n of them: pass@k, best@k, maj@k. No torch is imported.

Axes: P problems, n answers per problem. Every function takes the mean over all ways to draw k of the n answers without
replacement, which is unbiased for k fresh answers; nothing is drawn at random.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
Answer = tuple[str | None, bool]
"""What an answer says (``None`` where there is none) and whether it was scored correct."""


def _check(k: int, fewest: float, name: str) -> None:
    if k < 1 or fewest < k:
        raise ValueError(f"{name}@{k} needs at least {max(k, 1)} answers a problem and k of at least 1")


def pass_at_k(n: ArrayLike, c: ArrayLike, k: int) -> Array:
    """Returns, per problem, an unbiased estimate that at least one of k answers is right, from c right ones of n.

    The estimate is 1 - C(n-c, k)/C(n, k) (Chen et al. 2021, arXiv 2107.03374), computed as a product of k ratios in
    [0, 1], so that no factorial overflows.

    Args:
        n: answers per problem; a number or an array of the shape of ``c``.
        c: right answers per problem.
        k: the number of answers to draw, at most the smallest n.
    """
    n, c = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(c, dtype=np.float64))
    _check(k, n.min(), "pass")
    if np.any(c < 0) or np.any(c > n):
        raise ValueError("more right answers than answers")
    all_wrong = np.ones(c.shape)
    for drawn in range(k):
        all_wrong *= np.clip((n - c - drawn) / (n - drawn), 0.0, 1.0)
    return 1.0 - all_wrong


def pass_at_every_k(n: int, c: ArrayLike) -> Array:
    """Returns :func:`pass_at_k` for k = 1 … n in one array, (P, n); column k - 1 is pass@k.

    Args:
        n: answers per problem.
        c: right answers per problem, (P,).
    """
    right = np.asarray(c, dtype=np.float64)[:, None]
    if np.any(right < 0) or np.any(right > n):
        raise ValueError("more right answers than answers")
    drawn = np.arange(n, dtype=np.float64)
    all_wrong: Array = np.cumprod(np.clip((n - right - drawn) / (n - drawn), 0.0, 1.0), axis=1, dtype=np.float64)
    return 1.0 - all_wrong


def best_at_k(scores: ArrayLike, k: int) -> Array:
    """Returns, per problem, an unbiased estimate of the highest score of k answers; with scores 0 and 1 it is pass@k.

    The i-th smallest of n scores is the highest of k drawn ones with probability C(i-1, k-1)/C(n, k).

    Args:
        scores: the scores of the answers, (P, n).
        k: the number of answers to draw, at most n.
    """
    ascending = np.sort(np.asarray(scores, dtype=np.float64), axis=1)
    n = ascending.shape[1]
    _check(k, n, "best")
    # From the largest down: C(i-2, k-1) = C(i-1, k-1)·(i-k)/(i-1), so that no factorial overflows.
    ranks = np.arange(n, 1, -1)
    weights = k / n * np.concatenate([[1.0], np.cumprod((ranks - k).clip(0) / (ranks - 1))])
    return ascending @ weights[::-1]


def majority_at_k(answers: Sequence[Sequence[Answer]], k: int) -> Array:
    """Returns maj@k, the expected accuracy, per problem, of the commonest of k answers; (P,).

    Answers that say the same vote together. All correct answers are one class, however each is written; each answer
    counts as it was scored, so that maj@1 is the accuracy. An answer that says nothing (``None``) is among the k drawn
    but casts no vote; if no vote is cast, the result is wrong. Classes with equally many votes win equally often.

    The result is exact: for every number of votes for the correct class, a dynamic programme over the other classes
    sums the probabilities that none of them has more, by how many have as many.

    Args:
        answers: the answers to each problem.
        k: the number of answers to draw, at most the smallest number of answers to a problem.
    """
    return np.array([_majority(given, k) for given in answers])


@lru_cache(maxsize=4096)
def _drawn(size: int, n: int, k: int) -> Array:
    """Returns the probabilities that 0 … ``size`` of so many answers are drawn, each with probability k/n."""
    chances = stats.binom.pmf(np.arange(size + 1), size, k / n)
    chances.setflags(write=False)
    return chances


def _majority(answers: Sequence[Answer], k: int) -> float:
    n = len(answers)
    _check(k, n, "maj")
    correct = sum(right for _, right in answers)
    wrong = Counter(says for says, right in answers if not right and says is not None)
    return _majority_of(n, correct, tuple(sorted(wrong.values())), k)


@lru_cache(maxsize=65_536)  # problems differ in what was answered, and seldom in how often
def _majority_of(n: int, correct: int, wrong: tuple[int, ...], k: int) -> float:
    """Returns maj@k of n answers: so many correct ones, wrong ones in classes of these sizes, and silent ones."""
    silent = n - correct - sum(wrong)
    # Drawing k of n without replacement is drawing each answer by itself with any one probability, given that k come
    # out. With k/n that condition is never improbable, and no term over- or underflows.
    drawn = {size: _drawn(size, n, k) for size in {correct, silent, n, *wrong}}
    total = 0.0
    for votes in range(1, min(correct, k) + 1):
        others = k - votes
        # [ties, v]: the other classes so far have v votes, `ties` of them as many as the correct class, none more.
        chance = np.zeros((others // votes + 1, others + 1))
        chance[0, 0] = 1.0
        for size in wrong:
            extended = np.zeros_like(chance)
            for fewer in range(min(size, votes - 1, others) + 1):
                extended[:, fewer:] += drawn[size][fewer] * chance[:, : others + 1 - fewer]
            if size >= votes and others >= votes:
                extended[1:, votes:] += drawn[size][votes] * chance[:-1, : others + 1 - votes]
            chance = extended
        won = (chance / np.arange(1, len(chance) + 1)[:, None]).sum(axis=0)
        unsaid = drawn[silent][: others + 1]
        total += drawn[correct][votes] * float(won[::-1][: len(unsaid)] @ unsaid)
    return total / float(drawn[n][k])
