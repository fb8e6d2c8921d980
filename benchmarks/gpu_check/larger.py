"""Part 5: the same of Qwen3-4B's shape: all weights with checkpointing where they fit, and an adapter."""

from benchmarks.gpu_check.checks import Run
from benchmarks.gpu_check.large import LORA, TOY, Case, measure
from sdpg.planning.shapes import KNOWN


def check(run: Run) -> None:
    """Layers that are made again in the backward pass, then LoRA, with them only where it does not fit without."""
    shape = TOY if run.toy else KNOWN["Qwen/Qwen3-4B"]
    measure(run, Case(shape, checkpointing=True))
    if not measure(run, Case(shape, LORA)) or run.toy:
        measure(run, Case(shape, LORA, checkpointing=True))
