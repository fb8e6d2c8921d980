"""Part 3: the fused head, exact against float64; its time, memory and share of the product rate, beside its rivals.

All but the memory is measured in both forms of the head's row-wise work, Triton's and plain PyTorch. The measurements
and their goals are those of :mod:`benchmarks.gpu`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import time

import torch

from benchmarks import gpu, rivals
from benchmarks.figures import Figure, SkippedError
from benchmarks.gpu import Setting
from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.rivals import Result, Work, differences, make_work
from sdpg.models.triton_rows import launch
from sdpg.objective.divergences import DIVERGENCES, Divergence

REPEATS = 3
CHECKED_TOKENS = 256
TOLERANCES = {
    # Gradients are returned in the type of the inputs.
    torch.bfloat16: {"loss": 1e-4, "hidden_gradient": 1e-2, "weight_gradient": 1e-2, "entropy": 1e-4},
    torch.float32: {"loss": 1e-4, "hidden_gradient": 1e-5, "weight_gradient": 1e-5, "entropy": 1e-5},
}
"""Of each result's norm."""


def check(run: Run) -> None:
    """Exactness in both types, then the figures of the GPU's benchmark."""
    setting = Setting(run.device)
    if run.toy:
        setting = Setting(run.device, 24, 16, 300, torch.bfloat16, chunk_bytes=10 * 2 * 300 * 4)
    run.check("Triton's kernels", "they compile, and agree with plain PyTorch", partial(kernels, setting), 5)
    forms: dict[str, Callable[[Work, int], Result]] = {"PyTorch": rivals.ours_in_pytorch}
    if setting.both_forms:
        forms = {"Triton": rivals.ours} | forms
    for dtype, tolerances in TOLERANCES.items():
        expected = f"loss within {tolerances['loss']:.0e}, gradients within {tolerances['hidden_gradient']:.0e}"
        for name, kind in DIVERGENCES.items():
            # Memory of one comparison is given back before the next.
            for form, way in forms.items():
                run.check(
                    f"{str(dtype).removeprefix('torch.')} against float64, {name}, {form}", expected,
                    partial(exactness, setting, dtype, kind(), way), 2,
                )  # fmt: skip
    figures: dict[str, tuple[str | None, Callable[[], Figure]]] = {
        "share of the product rate": (gpu.MATMUL_SHARE.goal, lambda: gpu.share_of_rate(setting, REPEATS)),
        "peak memory / plain autograd's": (gpu.MEMORY_VS_PLAIN.goal, lambda: gpu.memory_against_plain(setting)),
        "time / TRL's": (gpu.TIME_VS_TRL.goal, lambda: against(setting, "trl")),
        "time / Liger's": (gpu.TIME_VS_LIGER.goal, lambda: against(setting, "liger")),
    }
    for name, (goal, measure) in figures.items():
        run.check(name, goal or "", partial(_as_answer, measure), 15)


def kernels(setting: Setting) -> Answer:
    """Whether Triton can be used, and how long its first kernels take to compile."""
    if setting.device.type != "cuda":
        raise SkippedError("Triton's kernels run on a GPU")
    start = time.monotonic()
    problem = launch.problem(setting.device)
    if problem is not None:
        return Answer(f"plain PyTorch is used: {problem}", False)
    if not setting.both_forms:
        return Answer(f"plain PyTorch is used: {launch.SWITCH}=0 is set", False)
    import triton  # pyright: ignore[reportMissingImports]

    return Answer(f"Triton {triton.__version__}, {time.monotonic() - start:.1f} s", True)


def exactness(
    setting: Setting, dtype: torch.dtype, divergence: Divergence, way: Callable[[Work, int], Result]
) -> Answer:
    """The head against autograd over float64 logits of the same numbers."""
    work = make_work(
        min(setting.tokens, CHECKED_TOKENS), setting.width, setting.vocabulary, dtype=dtype, device=setting.device
    )
    work = replace(work, divergence=divergence)
    exact = rivals.plain(_in_float64(work))
    found = differences(way(work, setting.chunk_bytes), exact)
    text = ", ".join(f"{name.replace('_', ' ')} {value:.1e}" for name, value in found.items())
    return Answer(text, all(found[name] <= most for name, most in TOLERANCES[dtype].items()), values=found)


def against(setting: Setting, name: str) -> Figure:
    """Times against a rival, where it is installed."""
    rivals.require("trl")
    if name == "trl":
        return gpu.time_against(setting, gpu.TIME_VS_TRL, name, rivals.trl, REPEATS)
    rivals.require("liger_kernel")
    if setting.device.type != "cuda":
        raise SkippedError("Liger's kernels run on a GPU alone")
    return gpu.time_against(setting, gpu.TIME_VS_LIGER, name, rivals.liger, REPEATS)


def _as_answer(measure: Callable[[], Figure]) -> Answer:
    figure = measure()
    tflops = figure.extra.get("matmul_tflops")
    text = f"{figure.ratio:.3f}" + (f" of {tflops:.0f} TFLOP/s" if tflops else "")
    if (plain := figure.extra.get("without_triton")) is not None:
        text += f"; {plain:.3f} without Triton"
    return Answer(text, figure.met, goal=True, values=figure.line())


def _in_float64(work: Work) -> Work:
    parts = {name: part for name, part in vars(work).items() if isinstance(part, torch.Tensor)}
    return replace(work, **{name: part.double() for name, part in parts.items() if part.is_floating_point()})
