"""Reads columns of a run's CSV files: numbers, beside which another version of this code may have written words."""

from collections.abc import Sequence
import math

NUMBERS = frozenset({
    "step", "reward", "accuracy", "length", "response_tokens", "truncated", "gate_rate", "zero_variance_groups", "loss",
    "grad_norm", "lr", "alpha", "beta", "rlsd_lambda", "entropy", "kl_to_teacher_sampled", "kl_to_reference_k1",
    "kl_to_reference_k3", "validation", "rollout_seconds", "update_seconds",
})  # fmt: skip
"""Columns that hold numbers in every version; a word in one of them is damage."""


DIGESTS = "digests.csv"
"""The table of a run with a digest of rollouts and weights for each step, in hex digits."""


def holds_words(name: str, cells: Sequence[str]) -> bool:
    """Says whether a column holds words, which only another version of this code can have written.

    Args:
        name: the column's name.
        cells: the column's cells, as text; an empty cell says nothing.
    """
    return name not in NUMBERS and any(cells) and not any(_is_number(cell) for cell in cells if cell)


def numbers(cells: Sequence[str]) -> list[float]:
    """Returns the cells as numbers, an empty one as NaN; a word raises ValueError."""
    return [float(cell) if cell else math.nan for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
