"""Computes the mathematics of a method: advantages, gates, schedules, divergences, losses.

The modules here know tensors and a method's values, but no model, no tokenizer and no file. Of the project they import
:mod:`sdpg.params` and :mod:`sdpg.errors`.

The names below are public, for use in another trainer: docs/library.md describes each. They need torch alone. A name is
imported when it is first read, so that what needs no torch, such as :mod:`sdpg.objective.coefficients`, loads none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpg.objective.advantages import group_advantages
    from sdpg.objective.divergences import (
        Clipped,
        Divergence,
        GeneralisedJSD,
        SkewedKL,
        StudentTeacherKL,
        TeacherStudentKL,
        TopK,
    )
    from sdpg.objective.gates import GATES, Gate, RowCredit, group_credits
    from sdpg.objective.losses import (
        clipped_surrogate,
        clipped_weight,
        importance_ratio,
        normaliser_weights,
        reference_term,
        reinforce,
        rlsd_weights,
    )
    from sdpg.objective.schedules import beta, learning_rate, rlsd_lambda, window

__all__ = [
    "GATES", "Clipped", "Divergence", "Gate", "GeneralisedJSD", "RowCredit", "SkewedKL", "StudentTeacherKL",
    "TeacherStudentKL", "TopK", "beta", "clipped_surrogate", "clipped_weight", "group_advantages", "group_credits",
    "importance_ratio", "learning_rate", "normaliser_weights", "reference_term", "reinforce", "rlsd_lambda",
    "rlsd_weights", "window",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__:
        for place in ("schedules", "gates", "advantages", "divergences", "losses"):
            if hasattr(module := import_module(f"{__name__}.{place}"), name):
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
