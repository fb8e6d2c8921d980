"""Measures seconds, operations and bytes of pieces of code, on a CPU or a CUDA device."""

from collections.abc import Callable, Mapping, Sequence
import gc
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from benchmarks.memory import PeakMemory

CPU = torch.device("cpu")
MIB = 2**20


def seconds(function: Callable[[], object], device: torch.device = CPU) -> float:
    """Returns the seconds of one call, by the wall clock or, on a GPU, by its events."""
    if device.type != "cuda":
        start = time.perf_counter()
        function()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    start_event.record()
    function()
    end_event.record()
    torch.cuda.synchronize(device)
    return start_event.elapsed_time(end_event) / 1000


def interleaved(
    functions: Mapping[str, Callable[[], object]], repeats: int, title: str, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Returns the seconds of each call, made in turns A B A B …, after one call of each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    gc.collect()
    with tqdm(total=(repeats + 1) * len(functions), desc=title, unit="run", leave=False) as bar:
        for repeat in range(repeats + 1):
            for name, function in functions.items():
                taken = seconds(function, device)
                if repeat:
                    times[name].append(taken)
                bar.update()
    return times


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median ratio of neighbours, so that a slowdown of the machine for a while hits both sides of a
    ratio."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def ratio_range(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Returns the smallest and the largest ratio of neighbours."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [min(ratios), max(ratios)]


def one_product(left: Tensor, right: Tensor) -> Callable[[], object]:
    """Returns a function that multiplies left (N, D) by the transpose of right (V, D), into memory allocated before."""
    out = torch.empty(len(left), len(right), dtype=left.dtype, device=left.device)
    return lambda: torch.mm(left, right.t(), out=out)


def matmul_operations(function: Callable[[], object]) -> int:
    """Returns the multiplications and additions in matrix products, counted while the function runs."""
    aten: Any = torch.ops.aten

    def in_place(total: Any, left: Any, right: Any, *_: Any, **__: Any) -> int:
        return 2 * left[0] * left[1] * right[1]

    with FlopCounterMode(display=False, custom_mapping={aten.addmm_: in_place}) as counter:
        function()
    return counter.get_total_flops()


def peak_bytes(function: Callable[[], Sequence[Tensor]], device: torch.device = CPU) -> int:
    """Returns the most bytes that live at once, without those from before and those of the returned tensors."""
    gc.collect()
    if device.type != "cuda":
        with PeakMemory() as memory:
            kept = function()
        peak = memory.peak
    else:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = function()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device) - before
    return peak - sum(tensor.nbytes for tensor in kept)
