"""Lays a model out over the processes of a run: replicas, or shards that are gathered layer by layer when needed.

accelerate launches the processes and its configuration says how to shard. On machines without a GPU it would silently
not shard, so the sharding is done here, by torch's ``fully_shard``, in the same way with and without GPUs.

Ranks also watch each other, as one that waits for a rank that is gone would do so for hours: every rank writes a number
that rises into the store at which they have met, and reads those of the others.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
import os
from pathlib import Path
import sys
import threading
import time
from typing import Any

from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors import safe_open
import torch
from torch import Tensor, distributed
from torch.distributed import DistError
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sdpg.devices import device_type
from sdpg.errors import Interrupted, UserError
from sdpg.models.ranks import SOLO, Ranks
from sdpg.params.train import DistributedParams

WAIT = timedelta(hours=2)
"""The longest time that a rank waits for another in an exchange on the CPU: one may still generate long answers, or
write a checkpoint, when the others have finished. gloo's time-out."""
NCCL_WAIT = timedelta(minutes=10)
"""The longest time that a rank waits for another in a collective of its GPU. Ranks have met on the CPU before each
phase with such collectives, so that only a piece of a checkpoint is written while one waits."""
BEAT = 2.0
"""Seconds between two numbers."""
SILENCE = 50.0
"""Seconds without a new number after which a rank counts as gone, where no exchange has failed."""
SHORT_SILENCE = 3 * BEAT
"""The same after an exchange has failed: some rank is gone, and the question is which."""
GRACE = 10.0
"""Seconds that a rank has to end by itself after another has ended with an error: the error is often its own too."""
REMEDY = "run the same command again, and it goes on from the last checkpoint"


@contextmanager
def joined(params: DistributedParams, device: str = "auto") -> Iterator[Ranks]:
    """Yields the ranks of a stage (train, base or evaluate); each process that was launched joins them.

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
    PartialState(cpu=not on_gpu, timeout=NCCL_WAIT if on_gpu else WAIT)
    # The group is not destroyed after an error, when other ranks may be waiting for this one: the launcher ends them.
    with watched_ranks():
        yield _ranks(params)
    # An engine of this process may have destroyed it already.
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _ranks(params: DistributedParams) -> Ranks:
    if (launched := distributed.get_world_size()) != params.processes:
        raise UserError(
            f"train.distributed.processes is {params.processes}, but {launched} were launched: start the stage by dvc "
            "repro, or by its own `python -m pipelines.…` without a launcher, which launches as many, or correct the "
            "number"
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


def fill_shards(model: Any, folder: Path) -> None:
    """Gives a sharded model without values (:func:`sdpg.models.loading.empty_model`) the weights of its folder.

    Each rank reads its part of each tensor from the files, which are mapped into memory, and nothing else: no rank ever
    holds a whole model, nor a whole tensor.

    Raises:
        UserError: if the files lack a weight; the message names it.
    """
    meta = {name: value for name, value in model.state_dict(keep_vars=True).items() if value.is_meta}
    # peft puts what it adapts one level lower.
    stored = {name.replace(".base_layer.", "."): parameter for name, parameter in meta.items()}
    # A tied head has a second name for the same tensor, which the files need not have.
    filled: dict[int, torch.nn.Parameter] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(stored.keys() & set(tensors.keys())):
                parameter = stored[name]
                if id(parameter) not in filled:
                    part = own_part(tensors, name, parameter)
                    filled[id(parameter)] = torch.nn.Parameter(part, requires_grad=parameter.requires_grad)
    if missing := [name for name, parameter in meta.items() if id(parameter) not in filled]:
        raise UserError(f"{folder} has no weight {missing[0]!r}, nor {len(missing) - 1} others: copy the model again")
    values = {name: filled[id(parameter)] for name, parameter in meta.items()}
    model.load_state_dict(values, strict=False, assign=True)


def own_part(tensors: Any, name: str, like: Tensor) -> Tensor:
    """Reads this rank's part of a stored tensor, in the type, on the device and in the layout of ``like``.

    Args:
        tensors: an open safetensors file.
        name: the tensor's name in it.
        like: the tensor that the part is for, sharded by its rows or not at all.
    """
    if not isinstance(like, DTensor):
        return tensors.get_tensor(name).to(like.device, like.dtype)
    [placement] = like.placements
    assert isinstance(placement, Shard) and placement.dim == 0, "fully_shard deals rows"
    mesh, local = like.device_mesh, like.to_local()
    first = mesh.get_local_rank() * -(-len(like) // mesh.size())
    part = torch.empty(local.shape, dtype=like.dtype, device=mesh.device_type)
    if len(local):
        part.copy_(tensors.get_slice(name)[first : first + len(local)])
    return DTensor.from_local(part, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())


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


class _Watch:
    """This rank's thread, which writes its numbers and reads those of the others."""

    def __init__(self, rank: int, size: int) -> None:
        # A connection of its own: on the group's, a rank that waits would keep the thread waiting.
        store: Any = distributed.distributed_c10d._get_default_store()
        self.store = store.clone()
        self.store.set_timeout(timedelta(seconds=SILENCE))
        self.rank = rank
        self.others = [other for other in range(size) if other != rank]
        self.ended = threading.Event()
        self.seen = dict.fromkeys(self.others, (b"", time.monotonic()))
        self.say("0")
        threading.Thread(target=self.run, daemon=True).start()

    def say(self, text: str) -> None:
        self.store.set(f"alive-{self.rank}", text)

    def run(self) -> None:
        beat = 0
        while not self.ended.wait(BEAT):
            beat += 1
            try:
                self.say(str(beat))
                values = self.store.multi_get([f"alive-{other}" for other in self.others])
            except DistError:
                # Whoever keeps the store may have ended well, and this rank be about to.
                if not self.ended.wait(GRACE):
                    self.end(f"the launcher or the machine of rank 0 is gone (the store no longer answers): {REMEDY}")
                return
            now = time.monotonic()
            for other, value in zip(self.others, values, strict=True):
                if value != self.seen[other][0]:
                    self.seen[other] = (value, now)
            if message := self.gone(SILENCE, GRACE):
                self.end(message)

    def gone(self, silence: float, grace: float) -> str | None:
        """Returns what has become of a rank that is gone; None where all are there, or have ended well."""
        now = time.monotonic()
        for other, (value, since) in self.seen.items():
            word, _, reason = value.decode().partition(" ")
            if word == "failed" and now - since > grace:
                return reason if reason.startswith("rank ") else f"rank {other} ended with an error: {reason}"
        rank = min(self.seen, key=lambda other: (self.seen[other][0] == b"done", self.seen[other][1]))
        value, since = self.seen[rank]
        if value == b"done" or value.startswith(b"failed") or now - since <= silence:
            return None
        return (
            f"rank {rank} of this run does not answer any more: its process was killed or its machine is off. {REMEDY}"
        )

    def end(self, message: str) -> None:
        # The main thread may be in a collective that nothing interrupts.
        if not self.ended.is_set():
            sys.stderr.write(f"error: {message}\n")
            sys.stderr.flush()
            os._exit(2)

    def find(self) -> str | None:
        """Waits until a rank has been silent for a few beats, and returns what has become of it."""
        last = time.monotonic() + 2 * SHORT_SILENCE
        while time.monotonic() < last:
            if message := self.gone(SHORT_SILENCE, 0.0):
                return message
            time.sleep(0.1)
        return None


@contextmanager
def watched_ranks() -> Iterator[None]:
    """Makes each rank of the default process group end when another one is gone; all ranks enter it.

    Raises:
        UserError: in place of the error of an exchange with a rank that is gone; the message names it.
    """
    if distributed.get_world_size() == 1:
        yield
        return
    watch = _Watch(distributed.get_rank(), distributed.get_world_size())
    last = "done"
    try:
        yield
    except Interrupted:
        raise
    except torch.OutOfMemoryError as error:
        last = f"failed {error}"
        raise
    except RuntimeError as error:
        message = watch.find()
        last = f"failed {message or error}"
        if message is None:
            raise
        raise UserError(f"{message} (the exchange with it ended with: {str(error).splitlines()[0]})") from error
    except BaseException as error:
        last = f"failed {error}"
        raise
    finally:
        watch.ended.set()
        # Whoever kept the store may have ended.
        with suppress(DistError):
            watch.say(last)
