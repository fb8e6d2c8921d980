"""Part 6: FSDP2 with one process: NCCL on a GPU, gloo on a CPU. Steps, gathered weights, and checkpoints."""

from functools import partial
from pathlib import Path
import tempfile
from typing import Any

from accelerate import FullyShardedDataParallelPlugin
import torch
from torch import Tensor, distributed

from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.gpu_check.methods import SHAPE
from benchmarks.gpu_check.steps import (
    DTYPES,
    Made,
    changed_params,
    checkpoint_activations,
    make,
    random_model,
    save_checkpoint,
    shard,
)

TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-2}
"""Of a gradient's norm; in bfloat16 shards gather norms rounded too, which one process keeps in float32."""


def check(run: Run) -> None:
    """Gradients in both types against those of a whole model, then a checkpoint that another sharded model loads."""
    with tempfile.TemporaryDirectory() as folder:
        run.check("process group", "starts", partial(_join, run, Path(folder)), 10)
        if not distributed.is_initialized():
            return
        try:
            for dtype, tolerance in TOLERANCES.items():
                expected = f"gradients within {tolerance:.0e} of one process's"
                run.check(f"two steps, {dtype}", expected, partial(two_steps, run, dtype, Path(folder) / dtype))
            run.check("checkpoint", "loaded, equal", partial(checkpoint, run, Path(folder) / "checkpoint"))
        finally:
            distributed.destroy_process_group()


def _join(run: Run, folder: Path) -> Answer:
    backend = "nccl" if run.on_gpu else "gloo"
    if run.on_gpu:
        torch.cuda.set_device(0)
    distributed.init_process_group(backend, f"file://{folder}/rendezvous", rank=0, world_size=1)
    probe = torch.ones(4, device=run.device)
    distributed.all_reduce(probe)
    return Answer(backend, bool((probe == 1).all()), values={"backend": backend})


def two_steps(run: Run, dtype: str, folder: Path) -> Answer:
    """The same steps, sharded with checkpointing of activations and whole without."""
    sharded = _made(run, dtype, folder / "sharded", True)
    whole = _made(run, dtype, folder / "whole", False)
    for made in (sharded, whole):
        for step in (1, 2):
            made.step(step)
    pairs = zip(sharded.gradients, whole.gradients, strict=True)
    worst = max(_difference(a, b) for a, b in pairs)
    weights = max(_difference(value, whole.weights[name]) for name, value in sharded.weights.items())
    text = f"gradients {worst:.1e} off, weights {weights:.1e}"
    return Answer(text, worst <= TOLERANCES[dtype], values={"gradients": worst, "weights": weights})


def checkpoint(run: Run, folder: Path) -> Answer:
    """Written from shards and read into shards: weights and moments."""
    first = _made(run, "float32", folder, True)
    first.step(1)
    trainer = first.trainer
    save_checkpoint(folder, 1, trainer.policies.student, trainer.optimizer, trainer.ranks)
    second = _made(run, "float32", folder, True)
    step = second.trainer.resume()
    different = [name for name, value in first.weights.items() if not torch.equal(value, second.weights[name])]
    # Only equal moments lead to equal weights.
    for made in (first, second):
        made.step(2)
    different += [f"{name} a step later" for name, value in first.weights.items() if
                  not torch.equal(value, second.weights[name])]  # fmt: skip
    text = f"step {step}, {', '.join(different[:2]) + ' differ' if different else 'all weights and moments equal'}"
    return Answer(text, step == 1 and not different)


def _made(run: Run, dtype: str, folder: Path, sharded: bool) -> Made:
    params = changed_params(
        "paper",
        {"steps": 40, "prompts_per_step": 4, "responses_per_prompt": 4, "tokens_per_micro_batch": 256, "lr": 1e-4,
         "line_tokens": 0, "head_megabytes": 1, "gradients_every": 0, "record_every": 40, "record_rows": 4,
         "dtype": dtype},
        24,
    )  # fmt: skip
    models: list[Any] = [random_model(SHAPE, "cpu", spread=0.2) for _ in range(2)]
    models[1].requires_grad_(False)
    if sharded:
        checkpoint_activations(models[0])
    for model in models:
        if sharded:
            # As of configs/accelerate/fsdp2.yaml.
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
            )
            shard(model, run.device, DTYPES[dtype], plugin)
        else:
            model.to(run.device)
    return make(params, "sdpg-ufkl", models[0], models[1], folder, keep_gradients=True)


def _difference(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()
