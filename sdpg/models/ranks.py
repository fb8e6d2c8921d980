"""Represents the processes of one training run, and exchanges values between them, apart from gradients.

All ranks call every method that exchanges values, in the same order. It works on CPU tensors over a group of its own,
so that the result is the same with gloo and with NCCL.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of the run.

    Attributes:
        rank: the number of this process, from 0.
        size: the number of processes.
        group: the process group for CPU tensors; None where there is one process.
    """

    rank: int = 0
    size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Says whether this is the process that writes records, metrics, checkpoints and MLflow."""
        return self.rank == 0

    def tensors(self, tensor: Tensor) -> list[Tensor]:
        """Returns every rank's (N,) CPU tensor, by rank, on all ranks; lengths may differ."""
        if self.size == 1:
            return [tensor]
        lengths, padded = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in lengths]
        if len(padded):
            distributed.all_gather(parts, padded, group=self.group)
        return [part[:length] for part, length in zip(parts, lengths, strict=True)]

    def tensors_on_first(self, tensor: Tensor) -> list[Tensor]:
        """Returns every rank's (N,) CPU tensor, by rank, on the first rank, and an empty list on the others."""
        if self.size == 1:
            return [tensor]
        lengths, padded = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in lengths] if self.first else None
        if len(padded):
            distributed.gather(padded, parts, dst=0, group=self.group)
        return [part[:length] for part, length in zip(parts or (), lengths, strict=False)]

    def _padded(self, tensor: Tensor) -> tuple[list[int], Tensor]:
        """Returns the length of every rank's tensor, and this rank's tensor padded with zeros to the longest."""
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(counts, torch.tensor([len(tensor)]), group=self.group)
        lengths = [int(count) for count in counts]
        padded = tensor.new_zeros(max(lengths))
        padded[: len(tensor)] = tensor
        return lengths, padded

    def values(self, value: Any) -> list[Any]:
        """Returns every rank's value, by rank. A value is anything that JSON holds; floats keep every bit."""
        if self.size == 1:
            return [value]
        parts = self.tensors(torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8))
        return [json.loads(part.numpy().tobytes()) for part in parts]

    def from_first(self, value: Any) -> Any:
        """Returns the first rank's value on all ranks; the values of the others are ignored."""
        return self.values(value if self.first else None)[0]

    def total(self, value: float) -> float:
        """Returns the sum over the ranks, equal on all of them."""
        return math.fsum(self.values(value)) if self.size > 1 else value

    def rows(self, names: Sequence[int], lengths: Sequence[int], values: Tensor) -> dict[int, Tensor]:
        """Returns the rows of all ranks on each of them; no row may be on two ranks.

        Args:
            names: which rows this rank has.
            lengths: how many numbers each has.
            values: (N,) their numbers, one row after another, on the CPU; of the same type on every rank.
        """
        counts = (torch.tensor(each, dtype=torch.int64) for each in (names, lengths))
        parts = (self.tensors(each) for each in (*counts, values))
        every, sizes, joined = (torch.cat(part) for part in parts)
        return dict(zip(every.tolist(), joined.split(sizes.tolist()), strict=True))

    def wait(self) -> None:
        """Returns once all ranks have called it."""
        if self.size > 1:
            distributed.barrier(group=self.group)


SOLO = Ranks()
"""A run of a single process."""


def whole(tensor: Tensor) -> Tensor:
    """Returns a tensor that may be spread over the ranks as one whole; all ranks call this, in the same order."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
