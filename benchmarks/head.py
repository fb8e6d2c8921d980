"""The fused head on a CPU: time and memory against plain autograd and against TRL's chunked functions.

Axes: N tokens, M of them with an open gate, D hidden size, V vocabulary.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
import statistics

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import rivals
from benchmarks.figures import Figure, SkippedError, Target, show
from benchmarks.rivals import Result, Way, Work, differences, make_work
from benchmarks.timing import (
    MIB,
    interleaved,
    matmul_operations,
    median_ratio,
    one_product,
    peak_bytes,
    ratio_range,
)
from sdpg.errors import UserError
from sdpg.models.fused_head import chunk_tokens
from sdpg.params import load_params

TOKENS, WIDTH, VOCABULARY = 2048, 512, 32768
GROWING_TOKENS = (256, 512, 1024, 2048, 4096)
BUDGETS = (16, 32, 64, 128, 256)
"""MiB for the logits of a chunk."""
UNIT, PRODUCTS = 2 * TOKENS * WIDTH * VOCABULARY, 3.5
"""Operations of one matrix product, and how many of them the work takes at least."""
TOLERANCE = 1e-5
REPEATS = {"plain": 7, "trl": 3, "budgets": 3}

TIME_VS_PLAIN = Target("head_time_vs_plain", "plain autograd, both logits kept", "<= 0.6")
TIME_VS_TRL = Target("head_time_vs_trl", "TRL's ChunkedLogProbFunction and ChunkedDivergenceFunction", "<= 0.25")
MEMORY_VS_PLAIN = Target("head_memory_vs_plain", "plain autograd, both logits kept", "<= 0.15")


def time_vs_plain() -> Figure:
    """Seconds of loss and gradients; and what the memory for logits does to them."""
    agreement()
    figure = _timed(TIME_VS_PLAIN, {"plain": rivals.plain, "plain, split": rivals.split})
    _budgets()
    return figure


def time_vs_trl() -> Figure:
    """Seconds of loss and gradients."""
    rivals.require("trl")
    agreement()
    return _timed(TIME_VS_TRL, {"trl": rivals.trl})


def memory_vs_plain() -> Figure:
    """The most bytes beyond inputs and gradients, as the number of tokens grows."""
    ways, peaks = all_ways(head_bytes()), {}
    bar = tqdm([(tokens, name) for tokens in GROWING_TOKENS for name in ways], desc="head memory", leave=False)
    for tokens, name in bar:
        peaks[tokens, name] = peak_of(ways[name], make_work(tokens, WIDTH, VOCABULARY))
    rows = [
        (tokens, *(f"{peaks[tokens, name] / MIB:,.1f}" for name in ways), f"{tokens * VOCABULARY * 4 / MIB:,.0f}")
        for tokens in GROWING_TOKENS
    ]
    show(
        f"Head, D {WIDTH}, V {VOCABULARY}, float32, half the gates open: peak MiB beyond inputs and gradients",
        ["N", *ways, "one (N, V) tensor"], rows,
        f"ours: {head_bytes() / MIB:.0f} MiB for logits, {chunk_tokens(VOCABULARY, 4, head_bytes())} tokens a chunk",
    )  # fmt: skip
    first, last = (peaks[tokens, "ours"] for tokens in (GROWING_TOKENS[1], GROWING_TOKENS[-1]))
    return MEMORY_VS_PLAIN.measured(
        peaks[TOKENS, "ours"] / peaks[TOKENS, "plain"],
        **_sizes(),
        peak_bytes={name: {str(tokens): peaks[tokens, name] for tokens in GROWING_TOKENS} for name in ways},
        growth=last / first,
    )


def head_bytes() -> int:
    """train.head_megabytes of params.yaml."""
    return load_params().train.head_megabytes * MIB


@lru_cache(maxsize=1)
def the_work() -> Work:
    """The inputs of the timings."""
    return make_work(TOKENS, WIDTH, VOCABULARY)


def all_ways(memory_bytes: int) -> dict[str, Way]:
    """The fused head and its rivals, those that can run here."""
    ways: dict[str, Way] = {
        "ours": partial(rivals.ours, memory_bytes=memory_bytes), "plain": rivals.plain, "plain, split": rivals.split,
    }  # fmt: skip
    try:
        rivals.require("trl")
        ways["trl"] = rivals.trl
    except SkippedError:
        pass
    return ways


def peak_of(way: Way, work: Work, device: torch.device | None = None) -> int:
    """Peak bytes beyond inputs and gradients."""

    def run() -> list[Tensor]:
        result = way(work)
        return [result.hidden_gradient, result.weight_gradient]

    return peak_bytes(run, device or work.hidden.device)


@lru_cache(maxsize=1)
def agreement() -> None:
    """Says what each way computes, and checks that all compute the same.

    Raises:
        UserError: if a loss or a gradient differs by more than :data:`TOLERANCE`.
    """
    work, ways = the_work(), all_ways(head_bytes())
    results: dict[str, Result] = {}
    products: dict[str, float] = {}
    for name in tqdm(ways, desc="head, agreement", leave=False):
        products[name] = matmul_operations(partial(_store, results, name, ways[name], work)) / UNIT
    show(
        f"Head: N {TOKENS}, D {WIDTH}, V {VOCABULARY}, float32, {len(work.teacher_hidden)} tokens with an open gate",
        ["", "matrix products of 2·N·D·V operations", "GFLOP"],
        [(name, f"{count:.2f}", f"{count * UNIT / 1e9:.0f}") for name, count in products.items()],
        f"{PRODUCTS} is the least for an exact method: logits, two gradients, the teacher's logits at open gates; "
        f"inputs {_mib(work.hidden, work.weight, work.teacher_hidden)}, "
        f"gradients {_mib(work.hidden, work.weight)}, one (N, V) tensor {TOKENS * VOCABULARY * 4 / MIB:.0f} MiB",
    )  # fmt: skip
    check(results, TOLERANCE)


def check(results: Mapping[str, Result], tolerance: float) -> None:
    """Prints the relative differences to plain autograd.

    Raises:
        UserError: if one of them is larger than ``tolerance``.
    """
    found = {name: differences(result, results["plain"]) for name, result in results.items() if name != "plain"}
    names = list(next(iter(found.values())))
    show(
        "Relative differences to plain autograd", ["", *(name.replace("_", " ") for name in names)],
        [(way, *(f"{values[name]:.1e}" for name in names)) for way, values in found.items()],
    )  # fmt: skip
    for way, values in found.items():
        for name, value in values.items():
            if not value <= tolerance:
                raise UserError(
                    f"{way}: {name} differs from plain autograd's by {value:.1e} of its size, more than "
                    f"{tolerance:.0e}: times of different results cannot be compared"
                )


def _budgets() -> None:
    """How the memory for logits changes time."""
    work = the_work()
    found = interleaved(
        {str(budget): partial(rivals.ours, work, budget * MIB) for budget in BUDGETS}, REPEATS["budgets"],
        "head, memory for logits",
    )  # fmt: skip
    chosen = statistics.median(found.get(str(head_bytes() // MIB), found["64"]))
    medians = {budget: statistics.median(found[str(budget)]) for budget in BUDGETS}
    show(
        "Ours by memory for logits (train.head_megabytes)", ["MiB", "tokens a chunk", "seconds", "of the setting's"],
        [(budget, min(TOKENS, chunk_tokens(VOCABULARY, 4, budget * MIB)), f"{taken:.2f}", f"{taken / chosen:.2f}")
         for budget, taken in medians.items()],
    )  # fmt: skip


def _timed(target: Target, others: Mapping[str, Way]) -> Figure:
    """Ours, its rivals and one matrix product in turns: the product says what the machine could do at the time.

    The figure is that against the first of the rivals.
    """
    work, budget, product, name = the_work(), head_bytes(), "one product", next(iter(others))
    found = interleaved(
        {"ours": lambda: rivals.ours(work, budget)}
        | {other: partial(way, work) for other, way in others.items()}
        | {product: one_product(work.hidden, work.weight)}, REPEATS[name], f"head, {name}",
    )  # fmt: skip
    shares = {way: PRODUCTS * median_ratio(found[product], found[way]) for way in ("ours", *others)}
    ratios = {other: median_ratio(found["ours"], found[other]) for other in others}
    medians = {way: statistics.median(taken) for way, taken in found.items()}
    show(
        "Seconds for loss and gradients",
        ["", "median", "least", "most", "share of the limit", "ours / it", "limit / it"],
        [(way, f"{medians[way]:.2f}", f"{min(taken):.2f}", f"{max(taken):.2f}",
          f"{shares[way]:.2f}" if way in shares else "",
          *((f"{ratios[way]:.3f}", f"{shares[way]:.3f}") if way in ratios else ("", "")))
         for way, taken in found.items()],
        f"limit: {PRODUCTS} products at the rate of the one measured beside them, "
        f"{UNIT / medians[product] / 1e9:.1f} GFLOP/s with {torch.get_num_threads()} thread(s)",
    )  # fmt: skip
    return target.measured(
        ratios[name],
        seconds=medians,
        range=ratio_range(found["ours"], found[name]),
        repeats=len(found["ours"]),
        ratios=ratios,
        share_of_limit=shares,
        matmul_gflops=UNIT / medians[product] / 1e9,
        **_sizes(),
    )


def _sizes() -> dict[str, object]:
    return {
        "sizes": {"N": TOKENS, "D": WIDTH, "V": VOCABULARY, "dtype": "float32", "open_gates": 0.5},
        "memory_bytes": head_bytes(),
    }


def _store(results: dict[str, Result], name: str, way: Way, work: Work) -> None:
    results[name] = way(work)


def _mib(*tensors: Tensor) -> str:
    return f"{sum(tensor.nbytes for tensor in tensors) / MIB:.0f} MiB"
