"""Part 4: updates of a random model of Qwen3-1.7B's shape: memory, time, the attention's kernel."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
import statistics
import tempfile
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.figures import SkippedError
from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.gpu_check.steps import (
    LoraParams,
    Made,
    Shape,
    changed_params,
    checkpoint_activations,
    make,
    random_model,
)
from benchmarks.memory import PeakMemory
from sdpg.planning.adapter import planned_adapter
from sdpg.planning.memory import Generation, Layout, MemoryPlan, Passes, plan_memory
from sdpg.planning.shapes import KNOWN

TOY = Shape(128, 384, 2, 4, 2, 32, 2048, True, 4096)
GIB = 2**30
TOLERANCE = 0.15
"""Of the plan."""
SIBLINGS, BATCHES = 4, 2
"""Rows of a micro-batch, and micro-batches of an update: the second one finds the gradients of the first."""
ROOM = 0.96
"""Share of the free memory that a plan may ask for; cuBLAS and the allocator take some of their own."""
LORA = LoraParams(rank=32, alpha=64)


def check(run: Run) -> None:
    """All weights trained, on lines of their own and on shared lines."""
    shape = TOY if run.toy else KNOWN["Qwen/Qwen3-1.7B"]
    for shared in (False, True):
        measure(run, Case(shape, shared=shared))


class Case:
    """What is trained, and how."""

    def __init__(
        self, shape: Shape, lora: LoraParams | None = None, checkpointing: bool = False, shared: bool = False
    ) -> None:
        self.shape, self.lora, self.checkpointing, self.shared = shape, lora, checkpointing, shared

    @property
    def name(self) -> str:
        """For the table."""
        parts = ["LoRA" if self.lora else "all weights"]
        parts += ["checkpointing"] if self.checkpointing else []
        return ", ".join([*parts, "shared lines" if self.shared else "plain lines"])

    def sizes(self, toy: bool) -> tuple[int, int, int]:
        """Tokens of a prompt, of what a hint adds, and of a response; a row fills a quarter of the micro-batch."""
        return (16, 16, 49) if toy else (200, 200, 1849)

    def budget(self, toy: bool) -> int:
        """Tokens of a micro-batch."""
        prompt, _, response = self.sizes(toy)
        return SIBLINGS * (prompt + response - 1)

    def plan(self, run: Run) -> MemoryPlan:
        """What the planner says of it."""
        prompt, hint, response = self.sizes(run.toy)
        length, taught = prompt + response - 1, SIBLINGS // 2
        tokens = prompt + SIBLINGS * (response - 1) if self.shared else SIBLINGS * length
        teacher = prompt + hint + taught * (response - 1) if self.shared else taught * (length + hint)
        passes = Passes(
            tokens=tokens, teacher_tokens=teacher, responses=SIBLINGS * response, scored=taught * response,
            half=True, head_bytes=head_megabytes(run.toy) << 20, checkpointing=self.checkpointing, on_gpu=run.on_gpu,
            lora=planned_adapter(self.lora),
        )  # fmt: skip
        return plan_memory(self.shape, passes, Generation(0, 0), Layout(checkpointing=self.checkpointing))


def head_megabytes(toy: bool) -> int:
    """For the logits of a chunk, as ``train.head_megabytes``."""
    return 1 if toy else 1024


def measure(run: Run, case: Case) -> bool:
    """Rows of memory and time, and of the attention's kernel; says whether the case fits the memory."""
    # The last case's model has been kept until here.
    run.release()
    plan = case.plan(run)
    kept: list[Made] = []
    with tempfile.TemporaryDirectory() as folder:
        expected = f"{plan.peak / GIB:.2f} GiB by the plan" + ("" if case.shared else f" ±{TOLERANCE:.0%}")
        if run.on_gpu and not fits(plan):
            run.check(case.name, expected, partial(_skip, f"{free_bytes() / GIB:.1f} GiB are free"))
            return False
        run.check(case.name, expected, partial(updates, run, case, plan, Path(folder), kept), 20)
        if kept:
            plain = run.on_gpu and not case.shared
            run.check(
                f"{case.name}: attention", "a flash kernel" if plain else "", partial(attention, kept.pop(), plain)
            )
    return True


def fits(plan: MemoryPlan) -> bool:
    """Whether a plan goes into the free memory of the card."""
    return plan.peak <= ROOM * free_bytes()


def free_bytes() -> int:
    """Of the card."""
    return torch.cuda.mem_get_info()[0]


def updates(run: Run, case: Case, plan: MemoryPlan, folder: Path, kept: list[Made]) -> Answer:
    """Three steps of the trainer; the first one makes gradients and moments, the others are measured."""
    prompt, hint, response = case.sizes(run.toy)
    params = changed_params(
        "paper",
        {"steps": 40, "prompts_per_step": BATCHES, "responses_per_prompt": SIBLINGS, "record_rows": 0,
         "gradients_every": 0, "tokens_per_micro_batch": case.budget(run.toy), "dtype": "bfloat16",
         "line_tokens": case.budget(run.toy) if case.shared else 0, "head_megabytes": head_megabytes(run.toy),
         "lora": case.lora and case.lora.model_dump()},
        response,
    )  # fmt: skip
    peaks: dict[str, int] = {}
    seconds: list[float] = []
    losses: list[float | None] = []
    with ExitStack() as stack:
        meter = Meter(run, stack)
        student = random_model(case.shape, run.device)
        reference = None if case.lora else random_model(case.shape, run.device).requires_grad_(False)
        if case.checkpointing:
            checkpoint_activations(student)
        made = make(
            params, "sdpg-ufkl", student, reference, folder, prompt=prompt, hint=hint, ragged=False, all_right=False
        )  # fmt: skip
        made.before_step = partial(meter.book, peaks, "update")
        for step in (1, 2, 3):
            peaks.clear()
            meter.reset()
            metrics, taken = made.step(step)
            meter.book(peaks, "optimiser step")
            losses.append(metrics["loss"])
            seconds.append(taken["update"] / BATCHES)
    kept.append(made)
    planned = {name: plan.phases[name] for name in peaks}
    ratios = {name: peaks[name] / planned[name] for name in peaks}
    worst = ratios["update"] if plan.phases["update"] >= plan.phases["optimiser step"] else max(ratios.values())
    tokens, time = case.budget(run.toy), statistics.median(seconds[1:])
    text = f"{max(peaks.values()) / GIB:.2f} GiB ({worst:.2f} of the plan), {time:.3f} s for {tokens:,} tokens"
    holds = None if case.shared else abs(worst - 1) <= TOLERANCE
    return Answer(
        text, holds, values={"peaks": peaks, "planned": planned, "ratios": ratios, "seconds": seconds, "tokens": tokens,
                             "losses": losses},
    )  # fmt: skip


class Meter:
    """Peak bytes beyond those from before, on a GPU by its allocator, on a CPU by counting tensors."""

    def __init__(self, run: Run, stack: ExitStack) -> None:
        self.counter = None if run.on_gpu else stack.enter_context(PeakMemory())
        self.before = torch.cuda.memory_allocated() if run.on_gpu else 0

    def reset(self) -> None:
        """Forgets the peak so far."""
        if self.counter is None:
            torch.cuda.reset_peak_memory_stats()
        else:
            self.counter.reset_peak()

    def book(self, peaks: dict[str, int], name: str) -> None:
        """Writes down the peak since the last time, and starts again."""
        if self.counter is None:
            torch.cuda.synchronize()
            peaks[name] = torch.cuda.max_memory_allocated() - self.before
        else:
            peaks[name] = self.counter.peak
        self.reset()


class AttentionKernels(TorchDispatchMode):
    """Within it, the names of the attention kernels that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if "attention" in name and "backward" not in name:
            self.names.add(name.lstrip("_").removeprefix("scaled_dot_product_"))
        return func(*args, **(kwargs or {}))


def attention(made: Made, flash: bool) -> Answer:
    """Which kernels the attention of one more step runs; without one of its own it is made of single operations."""
    with AttentionKernels() as kernels:
        made.step(4)
    names = sorted(kernels.names) or ["single operations"]
    holds = all("flash" in name or "cudnn" in name for name in names) if flash else None
    return Answer(", ".join(names), holds, goal=True, values={"kernels": names})


def _skip(reason: str) -> Answer:
    raise SkippedError(reason)
