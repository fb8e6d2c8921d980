"""Measures the peak memory of a block of code on a CPU, where PyTorch keeps no count of its own."""

from typing import Any
import weakref

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Counts, within ``with PeakMemory() as memory:``, the bytes of tensors allocated there that still live.

    A storage counts once, however many tensors view it, from the operation that returned it until it is freed: also if
    only a graph holds it for the backward pass, and with its new size if it was resized. Storages from before the block
    do not count, nor does memory that an operation's kernel allocates and frees within itself. After the block, frees
    are still counted, but no allocations.

    Attributes:
        live: the bytes at this moment.
        peak: the most bytes at the end of an operation, whose arguments and results live side by side.
        largest: the bytes of the largest storage so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.largest = 0
        self._sizes: dict[int, int] = {}

    def reset_peak(self) -> None:
        """Starts the peak anew from the bytes that live now."""
        self.peak, self.largest = self.live, max(self._sizes.values(), default=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # torch.tensor allocates without an operation, and then passes its result as an argument to this one.
        fresh = func is torch.ops.aten.lift_fresh.default
        before = set() if fresh else {storage._cdata for storage in _storages((args, kwargs))}
        result = func(*args, **kwargs)
        for storage in _storages(result):
            key, size = storage._cdata, storage.nbytes()
            if key in self._sizes:
                self._change(key, size)
            elif key not in before:
                self._sizes[key] = 0
                self._change(key, size)
                weakref.finalize(storage, self._free, key).atexit = False
        self.peak = max(self.peak, self.live)
        return result

    def _change(self, key: int, size: int) -> None:
        self.live += size - self._sizes[key]
        self._sizes[key] = size
        self.largest = max(self.largest, size)

    def _free(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def _storages(tree: Any) -> list[UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
