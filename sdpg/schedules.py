"""Step → coefficient. Steps count from 1 to ``total``."""


def window(fraction: float, total: int) -> int:
    """A window in steps from its fraction of the run: the paper's 0.125 of 400 steps is 50.

    At least 1, as 0 would turn the factor off; only a fraction of 0 does that.
    """
    return max(1, round(fraction * total)) if fraction > 0 else 0


def beta(step: int, total: int, base: float, warmup: int, decay: int) -> float:
    """β(k) = β_base · min(1, k/T_warm) · min(1, (T-k)/T_decay), section 3.2 of arXiv 2606.04036.

    Overlapping windows multiply; a window of 0 turns its factor off. With a decay window, β(T) = 0.
    """
    rise = min(1.0, step / warmup) if warmup else 1.0
    fall = min(1.0, (total - step) / decay) if decay else 1.0
    return base * rise * fall


def rlsd_lambda(step: int, base: float, decay: int) -> float:
    """λ(k) = λ · max(0, 1 - k/T_decay) of RLSD (arXiv 2604.03128); a window of 0 keeps λ constant."""
    return base * max(0.0, 1 - step / decay) if decay else base


def learning_rate(step: int, base: float, warmup: int, starts_at_zero: bool = False) -> float:
    """Linear warm-up, then constant: lr · min(1, k/W), or lr · min(1, (k-1)/W) as in the public code (D19)."""
    position = step - 1 if starts_at_zero else step
    return base * min(1.0, position / warmup) if warmup else base
