"""Computes the coefficients of a step. Steps count from 1 to ``total``."""

import math
from statistics import median
from typing import Literal

Shape = Literal["linear", "cosine"]
"""The shape of a window: x, or (1 - cos πx)/2, which starts and ends without a corner."""


def window(fraction: float, total: int) -> int:
    """Returns a window in steps from its fraction of the run: the paper's 0.125 of 400 steps is 50.

    The window has at least 1 step, as 0 would turn the factor off; only a fraction of 0 does that.
    """
    return max(1, round(fraction * total)) if fraction > 0 else 0


def crossed(position: float, shape: Shape = "linear") -> float:
    """Returns the factor at a position of 0 to 1 within a window, and 1 beyond the window's end."""
    if position >= 1:
        return 1.0
    return position if shape == "linear" else (1 - math.cos(math.pi * position)) / 2


def beta(step: int, total: int, base: float, warmup: int, decay: int, shape: Shape = "linear") -> float:
    """Returns β(k) = β_base · min(1, k/T_warm) · min(1, (T-k)/T_decay), section 3.2 of arXiv 2606.04036.

    Overlapping windows multiply; a window of 0 turns its factor off. With a decay window, β(T) = 0. The shape applies
    to both factors; the paper's is linear.
    """
    rise = crossed(step / warmup, shape) if warmup else 1.0
    fall = crossed((total - step) / decay, shape) if decay else 1.0
    return base * rise * fall


def rlsd_lambda(step: int, base: float, decay: int, warmup: int = 0, shape: Shape = "linear") -> float:
    """Returns λ(k) = λ · max(0, 1 - k/T_decay) of RLSD (arXiv 2604.03128); a window of 0 keeps λ constant.

    A warm-up, which RLSD does not have, multiplies by min(1, k/T_warm).
    """
    rise = crossed(step / warmup, shape) if warmup else 1.0
    return base * rise * (crossed(max(0.0, 1 - step / decay), shape) if decay else 1.0)


def learning_rate(
    step: int,
    base: float,
    warmup: int,
    starts_at_zero: bool = False,
    total: int = 0,
    decay: int = 0,
    shape: Shape = "linear",
) -> float:
    """Returns a linear warm-up, then a constant: lr · min(1, k/W), or lr · min(1, (k-1)/W) as in the public code (D19).

    A decay window D, which neither of them has, multiplies by min(1, (T-k+1)/D), so that the last step still learns;
    the shape is the decay's.
    """
    position = step - 1 if starts_at_zero else step
    fall = crossed((total - step + 1) / decay, shape) if decay else 1.0
    return base * (min(1.0, position / warmup) if warmup else 1.0) * fall


class EntropySwitch:
    """Says at each step whether λ is on, by the teacher's entropy: AntiSD's gate (arXiv 2605.11609, Eq. 7).

    For W steps it is off. The median of their entropies is H_warm, and from step W + 1 on it is on, until the entropy
    is below ``off`` · H_warm; it is on again once the entropy has reached H_warm. That it begins with on, and that
    H_warm is the median of the steps' medians, is this project's reading: the paper leaves both open.

    Attributes:
        entropies: the entropy of each step so far, in nats; the switch is a function of them.
    """

    def __init__(self, warmup: int, off: float) -> None:
        self.warmup, self.off = warmup, off
        self.entropies: list[float] = []

    def enter(self, entropy: float) -> bool:
        """Adds a step's entropy and says whether λ is on at that step."""
        self.entropies.append(entropy)
        if len(self.entropies) <= self.warmup:
            return False
        start, on = median(self.entropies[: self.warmup]), True
        for value in self.entropies[self.warmup :]:
            on = value >= start or (on and value >= self.off * start)
        return on
