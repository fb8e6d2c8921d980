"""Lays a model out over the processes of a run: replicas, or shards that are gathered layer by layer when needed.

accelerate launches the processes and its configuration says how to shard. On machines without a GPU it would silently
not shard, so the sharding is done here, by torch's ``fully_shard``, in the same way with and without GPUs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
import os
import threading
import time
from typing import Any

from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.models.ranks import SOLO, Ranks
from sdpg.params.distributed import DistributedParams

WAIT = timedelta(hours=2)
"""The longest time that a rank waits for another: one may still generate long answers when the others have finished."""


@contextmanager
def joined(params: DistributedParams, device: str = "auto") -> Iterator[Ranks]:
    """Yields the ranks of this run; each process that was launched joins them.

    Args:
        params: the section ``train.distributed``.
        device: ``train.device``, which decides between NCCL and gloo.

    Raises:
        UserError: if the processes were not launched as ``train.distributed`` says.
    """
    if params.strategy == "none":
        yield SOLO
        return
    _die_with(os.getppid())
    on_gpu = device_type(device) == "cuda"
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_gpu and torch.cuda.device_count() < here:
        raise UserError(
            f"train.distributed.processes puts {here} processes on this machine, which has "
            f"{torch.cuda.device_count()} GPUs: use one process per GPU"
        )
    PartialState(cpu=not on_gpu, timeout=WAIT)
    yield _ranks(params)
    # The group is not destroyed after an error, when other ranks may be waiting for this one: the launcher ends them.
    # An engine of this process may have destroyed it already.
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _ranks(params: DistributedParams) -> Ranks:
    if (launched := distributed.get_world_size()) != params.processes:
        raise UserError(
            f"train.distributed.processes is {params.processes}, but {launched} were launched: start the run by "
            "`python -m pipelines.train`, which launches as many, or correct the number"
        )
    sharding = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if sharding != (params.strategy == "fsdp2"):
        raise UserError(
            f"train.distributed.strategy is {params.strategy}, but accelerate was launched "
            f"{'with' if sharding else 'without'} FSDP: launch with {params.config_file}, or correct the strategy"
        )
    return Ranks(distributed.get_rank(), launched, distributed.new_group(backend="gloo", timeout=WAIT))


def _die_with(parent: int) -> None:
    """Ends this process at once when the launcher that started it is gone.

    A launcher that is killed leaves its processes running, and they would train on beside those of the next attempt.
    """

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def replicate(model: Any) -> DistributedDataParallel:
    """Returns a wrapper for passes with gradient, which turns gradients into the mean over the ranks."""
    devices = [model.device.index] if model.device.type == "cuda" else None
    # Buffers are constants of the architecture, so they need no broadcast.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)


def shard(model: Any, device: torch.device, dtype: torch.dtype, plugin: FullyShardedDataParallelPlugin) -> None:
    """Shards a model in place, layer by layer, and moves it to ``device``.

    Args:
        model: a model with float32 weights, which keep their type.
        device: the device of the shards.
        dtype: the type in which weights are gathered, and passes made.
        plugin: accelerate's configuration: which modules are gathered together, and how long they stay whole.

    Raises:
        UserError: if a weight is not sharded afterwards.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    plugin.set_auto_wrap_policy(model)
    together = fsdp2_prepare_auto_wrap_policy(plugin, model) or (lambda module: False)
    half = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": plugin.reshard_after_forward,
        "mp_policy": MixedPrecisionPolicy() if dtype == torch.float32 else half,
    }
    for module in [module for module in model.modules() if module is not model and together(module)]:
        fully_shard(module, **options)
    head = model.get_output_embeddings()
    # A tied head is one tensor with the input embedding, which belongs to the shard of the model itself.
    if head.weight is not model.get_input_embeddings().weight:
        fully_shard(head, **options)
    fully_shard(model, **options)
    check_sharded(model, mesh.size())


def check_sharded(model: Any, ranks: int) -> None:
    """Refuses a model whose weights are not spread over all ranks.

    Raises:
        UserError: if a weight is not spread; the message names the first.
    """
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor) or parameter.device_mesh.size() != ranks:
            raise UserError(
                f"train.distributed.strategy is fsdp2, but {name} is not sharded over the {ranks} processes: use ddp, "
                "or another model"
            )


def is_sharded(model: Any) -> bool:
    """Says whether this process holds parts of the model's weights."""
    return isinstance(next(model.parameters()), DTensor)


def checkpoint_activations(model: Any) -> None:
    """Makes each layer keep its input alone; the backward pass computes the rest again.

    transformers' own switch works in training mode only, which would also turn dropout on.
    """
    kinds = set(model._no_split_modules)
    for module in model.modules():
        if type(module).__name__ in kinds:
            module.forward = _again(module.forward)


def _again(forward: Any) -> Any:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return wrapped
