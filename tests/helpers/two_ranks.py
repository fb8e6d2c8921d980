"""Runs a function on two gloo ranks, as two processes of this machine, and stops what hangs."""

from collections.abc import Callable
from pathlib import Path
import time
from typing import Any

from accelerate import FullyShardedDataParallelPlugin
import pytest
import torch
from torch import distributed, multiprocessing
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdpg.models.distribution import checkpoint_activations, replicate, shard
from sdpg.models.passes import Policies
from sdpg.models.ranks import Ranks
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.coefficients import keeps_teacher_weights
from sdpg.params import MethodParams
from tests.helpers.adapted import adapted_policies
from tests.helpers.tiny import tiny_model

Tensors = dict[str, torch.Tensor]
SIZE = 2
STRATEGIES = ("ddp", "fsdp2")


def on_two_ranks(function: Callable[..., None], folder: Path, *arguments: Any, timeout: float = 600) -> None:
    """Calls ``function(ranks, folder, *arguments)`` on each rank; fails when one fails or time is up."""
    (folder / "rendezvous").unlink(missing_ok=True)
    context: Any = multiprocessing.start_processes(
        _one_rank, (function, folder, arguments), nprocs=SIZE, join=False, start_method="spawn"
    )
    end = time.monotonic() + timeout
    while not context.join(timeout=1):
        if time.monotonic() > end:
            for process in context.processes:
                process.kill()
            pytest.fail(f"two ranks were not done after {timeout} s: they wait for each other")


def _one_rank(rank: int, function: Callable[..., None], folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=SIZE)
    function(Ranks(rank, SIZE, distributed.new_group(backend="gloo")), folder, *arguments)
    distributed.destroy_process_group()


def plugin() -> FullyShardedDataParallelPlugin:
    """What accelerate makes of configs/accelerate/fsdp2.yaml; test_distributed_launch.py holds the two together."""
    return FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True
    )


def model(tied: bool, seed: int = 0, dtype: torch.dtype = torch.float64) -> Qwen3ForCausalLM:
    """A tiny Qwen3 with or without a head of its own."""
    found = tiny_model(seed, dtype)
    if tied:
        return found
    config = Qwen3Config(**(found.config.to_dict() | {"tie_word_embeddings": False}))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).to(dtype)


def policies(
    strategy: str,
    ranks: Ranks,
    tied: bool = True,
    dtype: torch.dtype = torch.float64,
    method: MethodParams | None = None,
    **options: Any,
) -> Policies:
    """A student that has moved from its reference, spread over the ranks by the strategy; "none": neither.

    The method's own teacher, if it has one, has the reference's weights.
    """
    student, reference = model(tied, 0, dtype), model(tied, 0, dtype).requires_grad_(False)
    teacher = model(tied, 0, dtype).requires_grad_(False) if method and keeps_teacher_weights(method) else None
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    if strategy == "fsdp2":
        for one in filter(None, (student, reference, teacher)):
            shard(one, torch.device("cpu"), options.get("dtype", torch.float32), plugin())
    replica = replicate(student) if strategy == "ddp" else None
    kept = TeacherWeights(method, student, teacher, 0.0) if method and teacher is not None else None
    return Policies(student, reference, 0, 1.0, ranks=ranks, replica=replica, teacher_weights=kept, **options)


def adapted(
    strategy: str, ranks: Ranks, moved: bool = True, again: bool = False, half: bool = False,
    method: MethodParams | None = None,
) -> Policies:  # fmt: skip
    """A student with an adapter, which is its own reference, spread over the ranks; ``again``: layers are."""
    one = adapted_policies(torch.float32 if half else torch.float64, moved)
    one.ranks, one.dtype = ranks, torch.bfloat16 if half else torch.float32
    if again:
        checkpoint_activations(one.student)
    if strategy == "fsdp2":
        shard(one.student, torch.device("cpu"), one.dtype, plugin())
    one.replica = replicate(one.student) if strategy == "ddp" else None
    if method and keeps_teacher_weights(method):
        one.teacher_weights = TeacherWeights(method, one.student, None, 0.0)
    return one


def compare(found: Tensors, expected: Tensors, tolerance: float = 1e-9) -> None:
    """Compares tensors by name, each to rounding of its largest number."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = value.abs().max().item()
        torch.testing.assert_close(found[name], value, rtol=tolerance, atol=tolerance * size, msg=name)
