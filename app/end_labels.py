"""Names lines at their ends: where each name stands, so that none covers another."""

from collections.abc import Sequence
import math

import numpy as np
import pandas as pd

GAP = 12.0
"""Pixels between the middles of two names above each other."""
LONGEST = 14
"""The characters of a name that stands at the end of a line; the legend has all of it."""


def spread(wanted: Sequence[float], height: float, gap: float = GAP) -> list[float]:
    """Returns places near those that are wanted, at least ``gap`` apart and within 0 to ``height``, in their order.

    Names that would overlap form a block, which stands in the middle of its members' places. Where not all of them fit,
    they are spread evenly.
    """
    order = sorted(range(len(wanted)), key=lambda at: wanted[at])
    if gap * (len(order) - 1) > height:
        gap = height / (len(order) - 1)
    blocks: list[tuple[list[int], float]] = []  # the members, and the place of the first
    for at in order:
        members, start = [at], min(max(wanted[at], 0.0), height)
        while blocks and blocks[-1][1] + gap * len(blocks[-1][0]) > start:
            members = blocks.pop()[0] + members
            middle = sum(wanted[each] - gap * place for place, each in enumerate(members)) / len(members)
            start = min(max(middle, 0.0), height - gap * (len(members) - 1))
        blocks.append((members, start))
    placed = {each: start + gap * at for members, start in blocks for at, each in enumerate(members)}
    return [placed[at] for at in range(len(wanted))]


def cut(name: str) -> str:
    """Returns a name that fits at the end of a line."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def domain(table: pd.DataFrame, log: bool = False, zero: bool = False) -> tuple[float, float]:
    """Returns the limits of the vertical axis, a little beyond everything that is drawn."""
    names = [name for name in ("value", "low", "high", "raw", "applied") if name in table]
    values = table[names].to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    if log:
        values = np.log10(values[values > 0])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if zero and not log:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (low - 0.5, high + 0.5) if log else (low - abs(low) / 10, high + (abs(high) / 10 or 1.0))
    space = 0.05 * (high - low)
    low, high = low - space, high + space
    return (10**low, 10**high) if log else (low, high)


def placed(
    table: pd.DataFrame, names: Sequence[str], limits: tuple[float, float], height: float, log: bool = False
) -> pd.DataFrame:
    """Returns where the names of lines stand, in the axis's own units: columns ``series`` and ``value``.

    Args:
        table: a table of lines, as :mod:`app.charts` has it.
        names: the lines; one without a value has no name at its end.
        limits: the limits of the vertical axis.
        height: the height of the axis in pixels.
        log: whether the axis is logarithmic.
    """
    kept = table[np.isfinite(table["value"].to_numpy(dtype=float))]
    last = kept.sort_values("step", kind="stable").groupby("series")["value"].last()
    ends = [(name, float(last[name])) for name in names if name in last.index]
    turn = math.log10 if log else float
    low, high = map(turn, limits)
    pixels = spread([(turn(value) - low) / (high - low) * height for _, value in ends], height)
    values = [low + at / height * (high - low) for at in pixels]
    return pd.DataFrame({"series": [name for name, _ in ends], "value": [10**at if log else at for at in values]})
