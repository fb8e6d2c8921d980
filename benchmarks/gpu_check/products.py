"""Part 1: products of bfloat16 factors with float32 results, as the fused head asks for them.

Axes: N tokens of a chunk, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
import statistics

import torch
from torch import Tensor

from benchmarks.figures import SkippedError
from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.timing import seconds

ROUNDING = 1e-4
"""Of the result's norm; a product that is rounded to bfloat16 on the way is off by 1e-3 and more."""
REPEATS = 10


def check(run: Run) -> None:
    """Whether each product is accepted and exact, and its rate beside that of a plain bfloat16 product."""
    tokens, width, vocabulary = (24, 16, 300) if run.toy else (2048, 2560, 151_936)
    draw = torch.Generator(run.device).manual_seed(0)
    hidden, weight, factor = (
        torch.randn(*size, generator=draw, device=run.device).to(torch.bfloat16)
        for size in ((tokens, width), (vocabulary, width), (tokens, vocabulary))
    )
    logits = torch.empty(tokens, vocabulary, device=run.device)
    rounded = torch.empty(tokens, vocabulary, dtype=torch.bfloat16, device=run.device)
    total = torch.randn(vocabulary, width, generator=draw, device=run.device)

    def mixed() -> Tensor:
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32, out=logits)

    def accumulated() -> Tensor:
        return torch.addmm(total, factor.t(), hidden, out_dtype=torch.float32, out=total)

    operations = 2 * tokens * width * vocabulary
    rate = partial(_rate, run, operations)
    run.check("bfloat16 × bfloat16 → bfloat16", "", lambda: rate(lambda: torch.mm(hidden, weight.t(), out=rounded)))
    run.check("factor × weight → hidden gradient, bfloat16", "", lambda: rate(lambda: factor @ weight))
    run.check(
        "torch.mm(out_dtype=float32)", f"accepted, and within {ROUNDING:.0e} of float32",
        lambda: _exact(run, mixed, lambda: hidden.float() @ weight.float().t(), rate),
    )  # fmt: skip
    run.check(
        "torch.addmm(out_dtype=float32), in place", f"accepted, and within {ROUNDING:.0e} of float32",
        lambda: _exact(run, accumulated, lambda: total + factor.float().t() @ hidden.float(), rate),
    )  # fmt: skip


def _exact(run: Run, product: Callable[[], Tensor], exact: Callable[[], Tensor], rate: Callable[..., Answer]) -> Answer:
    if not run.on_gpu:
        raise SkippedError("on a CPU the head multiplies in float32")
    expected = exact()
    error = ((product() - expected).norm() / expected.norm()).item()
    timed = rate(product)
    return Answer(f"{error:.1e} off, {timed.found}", error <= ROUNDING, values=timed.values | {"error": error})


def _rate(run: Run, operations: int, product: Callable[[], object]) -> Answer:
    product()
    taken = statistics.median(seconds(product, run.device) for _ in range(REPEATS))
    tflops = operations / taken / 1e12
    return Answer(f"{tflops:.1f} TFLOP/s", values={"tflops": tflops, "seconds": taken})
