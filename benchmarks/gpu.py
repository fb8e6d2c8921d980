"""The fused head on a GPU, in bfloat16 at the size of a 4B model: time, memory, share of the matrix-product rate.

Axes: N tokens, M of them with an open gate, D hidden size, V vocabulary. Every function takes device and sizes, so that
all but the GPU's own meters can be tried on a CPU.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
import statistics

import torch

from benchmarks import rivals
from benchmarks.figures import Figure, SkippedError, Target, show
from benchmarks.head import PRODUCTS, peak_of
from benchmarks.rivals import Way, Work, differences, make_work
from benchmarks.timing import MIB, interleaved, median_ratio, one_product, ratio_range
from sdpg.errors import UserError
from sdpg.models.fused_head import chunk_tokens
from sdpg.models.triton_rows import launch
from sdpg.objective.divergences import StudentTeacherKL

BUDGETS = (256, 512, 1024, 2048, 4096)
"""MiB for the logits of a chunk."""
CHUNK_BYTES = 1024 * MIB
REPEATS = 10
CHECKED_TOKENS = 256
PLAIN = "ours without Triton"
TOLERANCE = 2e-2
"""On gradients that are returned in bfloat16, whose own rounding is 4e-3 at the most."""

TIME_VS_TRL = Target("head_gpu_time_vs_trl", "TRL's Triton kernels: chunked log-probs and divergence", "<= 0.5")
TIME_VS_LIGER = Target("head_gpu_time_vs_liger", "Liger's fused linear JSD and TRL's chunked log-probs", "<= 0.5")
MEMORY_VS_PLAIN = Target("head_gpu_memory_vs_plain", "plain autograd at the largest N that fits, scaled", "<= 0.05")
MATMUL_SHARE = Target("head_gpu_matmul_share", "3.5 matrix products at the measured rate of one", ">= 0.6")


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: of all tensors.
        tokens: N.
        width: D.
        vocabulary: V.
        dtype: of hidden states and weights.
        chunk_bytes: for the logits of a chunk.
    """

    device: torch.device
    tokens: int = 16_384
    width: int = 2560
    vocabulary: int = 151_936
    dtype: torch.dtype = torch.bfloat16
    chunk_bytes: int = CHUNK_BYTES

    @property
    def unit(self) -> int:
        """Operations of one matrix product of the head."""
        return 2 * self.tokens * self.width * self.vocabulary

    @property
    def both_forms(self) -> bool:
        """Whether Triton does the head's row-wise work, so that there is a plain PyTorch form to compare it with."""
        return launch.usable(self.device, torch.float32, StudentTeacherKL())

    def work(self, tokens: int | None = None) -> Work:
        """Inputs for all or fewer tokens."""
        count = self.tokens if tokens is None else tokens
        return make_work(count, self.width, self.vocabulary, dtype=self.dtype, device=self.device)

    def sizes(self) -> dict[str, object]:
        """For the JSON line."""
        dtype = str(self.dtype).removeprefix("torch.")
        sizes = {"N": self.tokens, "D": self.width, "V": self.vocabulary, "dtype": dtype, "open_gates": 0.5}
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {"sizes": sizes, "memory_bytes": self.chunk_bytes, "device": name}


@lru_cache(maxsize=1)
def the_setting() -> Setting:
    """That of the figures.

    Raises:
        SkippedError: without a GPU.
    """
    if not torch.cuda.is_available():
        raise SkippedError("no GPU: torch.cuda.is_available() is False")
    return Setting(torch.device("cuda"))


def time_vs_trl() -> Figure:
    """Loss and gradients, against TRL's Triton kernels."""
    setting = the_setting()
    rivals.require("trl")
    return time_against(setting, TIME_VS_TRL, "trl", rivals.trl)


def time_vs_liger() -> Figure:
    """Loss and gradients, against Liger's JSD."""
    setting = the_setting()
    rivals.require("trl")
    rivals.require("liger_kernel")
    return time_against(setting, TIME_VS_LIGER, "liger", rivals.liger)


def memory_vs_plain() -> Figure:
    """Peak bytes beyond inputs and gradients."""
    return memory_against_plain(the_setting())


def matmul_share() -> Figure:
    """Which share of the measured rate of matrix products the head reaches, counting those that it must make."""
    return share_of_rate(the_setting())


def time_against(setting: Setting, target: Target, name: str, rival: Way, repeats: int = REPEATS) -> Figure:
    """Interleaved times of ours, in both forms where there are two, and a rival, after a check of all."""
    ways: dict[str, Way] = {"ours": partial(rivals.ours, memory_bytes=setting.chunk_bytes), name: rival}
    if setting.both_forms:
        ways[PLAIN] = partial(rivals.ours_in_pytorch, memory_bytes=setting.chunk_bytes)
    check(setting, ways)
    work = setting.work()
    found = interleaved(
        {side: partial(way, work) for side, way in ways.items()}, repeats, f"head on {setting.device}", setting.device
    )
    _show_times(setting, found)
    plain = {"without_triton": median_ratio(found[PLAIN], found[name])} if PLAIN in found else {}
    return target.measured(
        median_ratio(found["ours"], found[name]),
        seconds={side: statistics.median(taken) for side, taken in found.items()},
        range=ratio_range(found["ours"], found[name]),
        repeats=repeats,
        **plain,
        **setting.sizes(),
    )


def memory_against_plain(setting: Setting) -> Figure:
    """Ours at N tokens; plain autograd at N or the largest halving of it that fits, times what is missing."""
    ours = peak_of(partial(rivals.ours, memory_bytes=setting.chunk_bytes), setting.work(), setting.device)
    fits, plain = largest_that_fits(setting, lambda work: peak_of(rivals.plain, work, setting.device))
    scaled = plain * setting.tokens / fits
    show(
        f"Head on {setting.device}: peak MiB beyond inputs and gradients", ["", "N", "MiB"],
        [("ours", setting.tokens, f"{ours / MIB:,.1f}"), ("plain", fits, f"{plain / MIB:,.1f}"),
         ("plain, scaled", setting.tokens, f"{scaled / MIB:,.1f}")],
        "ours holds the gradients in float32 until they are handed over; they count as memory, not as gradients",
    )  # fmt: skip
    return MEMORY_VS_PLAIN.measured(
        ours / scaled, peak_bytes={"ours": ours, "plain": plain}, plain_tokens=fits, **setting.sizes()
    )


def largest_that_fits(setting: Setting, measure: Callable[[Work], int]) -> tuple[int, int]:
    """(tokens, what ``measure`` says): N, or N halved until it fits the memory.

    Raises:
        SkippedError: if not even one token fits.
    """
    tokens = setting.tokens
    while tokens:
        try:
            return tokens, measure(setting.work(tokens))
        except torch.OutOfMemoryError:
            tokens //= 2
        torch.cuda.empty_cache()
    raise SkippedError("plain autograd does not fit the GPU even for one token")


def share_of_rate(setting: Setting, repeats: int = REPEATS) -> Figure:
    """Also shows how the memory for logits changes time, in both forms where there are two."""
    budgets = sorted({*(budget * MIB for budget in BUDGETS), setting.chunk_bytes})
    work, product = setting.work(), "one product"
    forms = {"ours": rivals.ours} | ({PLAIN: rivals.ours_in_pytorch} if setting.both_forms else {})
    runs = {(form, budget): partial(way, work, budget) for form, way in forms.items() for budget in budgets}
    found = interleaved(
        {f"{form}, {budget}": run for (form, budget), run in runs.items()}
        | {product: one_product(work.hidden, work.weight)},
        repeats, f"head on {setting.device}, memory for logits", setting.device,
    )  # fmt: skip
    medians = {name: statistics.median(taken) for name, taken in found.items()}
    shares = {
        (form, budget): PRODUCTS * median_ratio(found[product], found[f"{form}, {budget}"]) for form, budget in runs
    }
    show(
        f"Ours on {setting.device} by memory for logits",
        ["", "MiB", "tokens a chunk", "seconds", "share of the rate"],
        [(form, f"{budget / MIB:g}", min(setting.tokens, chunk_tokens(setting.vocabulary, 4, budget)),
          f"{medians[f'{form}, {budget}']:.4f}", f"{share:.2f}") for (form, budget), share in shares.items()],
        f"one product of 2·N·D·V = {setting.unit / 1e12:.2f} TFLOP takes {medians[product]:.4f} s; "
        f"{PRODUCTS} of them are the least",
    )  # fmt: skip
    plain = {"without_triton": shares[PLAIN, setting.chunk_bytes]} if PLAIN in forms else {}
    return MATMUL_SHARE.measured(
        shares["ours", setting.chunk_bytes],
        seconds={"ours": medians[f"ours, {setting.chunk_bytes}"], product: medians[product]},
        matmul_tflops=setting.unit / medians[product] / 1e12,
        shares={f"{form}, {budget / MIB:g} MiB": share for (form, budget), share in shares.items()},
        repeats=repeats,
        **plain,
        **setting.sizes(),
    )


def check(setting: Setting, ways: Mapping[str, Way], tolerance: float = TOLERANCE) -> None:
    """Compares each way on a few tokens with plain autograd on the same numbers in float32.

    Raises:
        UserError: if a loss or a gradient is further off than rounding to the inputs' type explains.
    """
    work = setting.work(min(setting.tokens, CHECKED_TOKENS))
    exact = rivals.plain(_in_float32(work))
    rows = []
    for name, way in ways.items():
        found = differences(way(work), exact)
        rows.append((name, *(f"{value:.1e}" for value in found.values())))
        for what, value in found.items():
            if not value <= tolerance:
                raise UserError(f"{name}: {what} differs from plain autograd's in float32 by {value:.1e} of its size")
    show(
        f"Relative differences to plain autograd in float32, {len(work.ids)} tokens",
        ["", "loss", "hidden gradient", "weight gradient", "entropy"], rows,
    )  # fmt: skip


def _in_float32(work: Work) -> Work:
    return Work(
        work.hidden.float(), work.weight.float(), work.ids, work.teacher_hidden.float(), work.advantages,
        work.ref_logprobs,
    )  # fmt: skip


def _show_times(setting: Setting, found: Mapping[str, list[float]]) -> None:
    show(
        f"Head on {setting.device}: N {setting.tokens}, D {setting.width}, V {setting.vocabulary}, {setting.dtype}, "
        "half the gates open", ["", "median seconds", "TFLOP/s of the products that are needed"],
        [(name, f"{statistics.median(taken):.4f}", f"{PRODUCTS * setting.unit / statistics.median(taken) / 1e12:.1f}")
         for name, taken in found.items()],
    )  # fmt: skip
