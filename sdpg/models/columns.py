"""Per-token values of rollouts in one shape: a name → a ragged column, one number for each response token.

Axes: R rollouts of a column, N response tokens of them all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from sdpg.models.ranks import Ranks


@dataclass(frozen=True)
class TokenColumn:
    """One number for each response token of some rollouts.

    Attributes:
        rows: which rollouts, in rising order, each at most once.
        lengths: response tokens of each.
        values: (N,) float32 on the CPU, the responses one after another.
    """

    rows: list[int]
    lengths: list[int]
    values: Tensor

    @staticmethod
    def of(parts: Mapping[int, Sequence[float]]) -> "TokenColumn":
        """Returns the column of rollout → its values."""
        rows = sorted(parts)
        values = np.fromiter(chain.from_iterable(parts[row] for row in rows), np.float32)
        return TokenColumn(rows, [len(parts[row]) for row in rows], torch.from_numpy(values))

    def lists(self) -> dict[int, list[float]]:
        """Returns rollout → its values, as Python numbers."""
        parts = self.values.split(self.lengths) if self.rows else ()
        return {row: part.tolist() for row, part in zip(self.rows, parts, strict=True)}

    def only(self, rows: Collection[int]) -> "TokenColumn":
        """Returns the column of those of its rollouts that are among ``rows``."""
        parts = self.values.split(self.lengths) if self.rows else ()
        kept = [each for each in zip(self.rows, self.lengths, parts, strict=True) if each[0] in rows]
        values = torch.cat([part for _, _, part in kept]) if kept else torch.zeros(0)
        return TokenColumn([row for row, _, _ in kept], [length for _, length, _ in kept], values)

    def numbers(self) -> list[float]:
        """Returns all values, rollout after rollout, as Python numbers."""
        return self.values.tolist()

    def mean(self) -> float | None:
        """Returns the mean over all tokens, or None where there is none."""
        return mean_of(self.values.numpy())


def mean_of(values: NDArray[Any]) -> float | None:
    """Returns the mean of numbers, or None of none; where long doubles are wider, the sum is rounded but once."""
    return float(np.sum(values, dtype=np.longdouble)) / len(values) if len(values) else None


TokenColumns = Mapping[str, TokenColumn]
"""Name of a per-token value → its column. A name without a column was computed for no rollout."""


def cut_columns(rows: Sequence[int], lengths: Sequence[int], values: Mapping[str, Tensor]) -> dict[str, TokenColumn]:
    """Cuts joined (N,) values of rollouts in any order into columns, on the CPU and without gradient."""
    # One copy for all, as each waits for the device.
    together = torch.stack([tensor.detach().float() for tensor in values.values()]).cpu() if values else ()
    return {name: _in_order(rows, lengths, tensor) for name, tensor in zip(values, together, strict=True)}


def _in_order(rows: Sequence[int], lengths: Sequence[int], values: Tensor) -> TokenColumn:
    order = sorted(range(len(rows)), key=lambda at: rows[at])
    parts = values.split(list(lengths)) if order else ()
    joined = torch.cat([parts[at] for at in order]) if order else torch.zeros(0)
    return TokenColumn([rows[at] for at in order], [lengths[at] for at in order], joined)


def join_columns(parts: Iterable[TokenColumns]) -> dict[str, TokenColumn]:
    """Joins the columns of several passes by name; no rollout is in two of them."""
    by_name: dict[str, list[TokenColumn]] = {}
    for columns in parts:
        for name, column in columns.items():
            by_name.setdefault(name, []).append(column)
    return {name: _joined(columns) for name, columns in by_name.items()}


def _joined(columns: Sequence[TokenColumn]) -> TokenColumn:
    if len(columns) == 1:
        return columns[0]
    rows = [row for column in columns for row in column.rows]
    lengths = [length for column in columns for length in column.lengths]
    return _in_order(rows, lengths, torch.cat([column.values for column in columns]))


def gather_columns(columns: TokenColumns, ranks: Ranks) -> dict[str, TokenColumn]:
    """Returns the columns of all ranks together on the first rank, and nothing on the others; all ranks call this."""
    if ranks.size == 1:
        return dict(columns)
    # A rank without rollouts has no columns either, and the others do not know that.
    names = sorted({name for names in ranks.values(sorted(columns)) for name in names})
    empty = TokenColumn([], [], torch.zeros(0))
    found = {}
    for name in names:
        mine = columns.get(name, empty)
        rows = ranks.tensors_on_first(torch.tensor(mine.rows, dtype=torch.int64))
        lengths = ranks.tensors_on_first(torch.tensor(mine.lengths, dtype=torch.int64))
        values = ranks.tensors_on_first(mine.values)
        if ranks.first:
            parts = zip(rows, lengths, values, strict=True)
            found[name] = _joined([TokenColumn(r.tolist(), n.tolist(), v) for r, n, v in parts])
    return found
