"""Starts the processes of a run: this very process becomes accelerate's launcher. The module imports no torch."""

from collections.abc import Sequence
import os
import sys
from typing import Any

from sdpg.errors import UserError
from sdpg.params import read_yaml
from sdpg.params.distributed import DistributedParams

DDP_TYPES = ("MULTI_GPU", "MULTI_CPU")


def check_launch(params: DistributedParams) -> None:
    """Refuses an accelerate configuration that does not fit ``train.distributed``.

    Raises:
        UserError: if a value does not fit; the message names the file, the key, its value and what it must be.
    """
    if params.strategy == "none":
        return
    path = params.config_file
    if not path.is_file():
        raise UserError(
            f"train.distributed.config: {path} does not exist: put accelerate's configuration there, or set it to null "
            f"for configs/accelerate/{params.strategy}.yaml"
        )
    tree: Any = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(f"{path} is no accelerate configuration: copy one of configs/accelerate")
    kind = tree.get("distributed_type")
    allowed = ("FSDP",) if params.strategy == "fsdp2" else DDP_TYPES
    if kind not in allowed:
        raise UserError(
            f"{path}: distributed_type is {kind}, but train.distributed.strategy is {params.strategy}, which needs "
            f"{' or '.join(allowed)}: correct one of them"
        )
    if tree.get("mixed_precision", "no") not in ("no", False):
        raise UserError(f"{path}: mixed_precision is {tree['mixed_precision']}: set it to 'no'; train.dtype decides")
    if params.strategy == "fsdp2":
        _check_sharding(path, tree.get("fsdp_config") or {})


def _check_sharding(path: Any, sharding: dict[str, Any]) -> None:
    for key, needed, why in (
        ("fsdp_version", 2, "version 1 is another sharding"),
        ("fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "layers are gathered one at a time"),
        ("fsdp_reshard_after_forward", True, "the losses and the checkpoints count on sharded weights between passes"),
    ):
        if sharding.get(key) != needed:
            raise UserError(
                f"{path}: fsdp_config.{key} is {sharding.get(key)}, but must be {str(needed).lower()}: {why}"
                if isinstance(needed, bool)
                else f"{path}: fsdp_config.{key} is {sharding.get(key)}, but must be {needed}: {why}"
            )
    for key, why in (
        ("fsdp_activation_checkpointing", "train.activation_checkpointing decides"),
        ("fsdp_offload_params", "weights cannot lie in the processor's memory here"),
        ("fsdp_cpu_ram_efficient_loading", "each process loads the base itself"),
    ):
        if sharding.get(key):
            raise UserError(f"{path}: fsdp_config.{key} is {sharding[key]}: set it to false; {why}")


def on_one_machine(params: DistributedParams) -> DistributedParams:
    """Returns the processes of a stage that one machine works on: those of ``train.distributed``, or one of several.

    Where a run is spread over several machines, nobody starts the other machines' processes for such a stage.
    """
    if params.strategy == "none" or not params.config_file.is_file():
        return params
    tree: Any = read_yaml(params.config_file)
    several = isinstance(tree, dict) and int(tree.get("num_machines") or 1) > 1
    return DistributedParams() if several else params


def launch(params: DistributedParams, module: str, arguments: Sequence[str]) -> None:
    """Turns this process into the launcher of ``params.processes`` processes of ``python -m module``.

    Returns if this process is already one of them, or the only one.

    Raises:
        UserError: if the process was launched in another way than ``train.distributed`` says.
    """
    launched = "LOCAL_RANK" in os.environ
    if params.strategy == "none":
        if launched and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"{os.environ['WORLD_SIZE']} processes were launched, but train.distributed.strategy is none, under "
                "which each would train the whole run: set it to ddp or fsdp2, or start one process"
            )
        return
    check_launch(params)
    if launched:
        return
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(params.config_file),
        "--num_processes", str(params.processes), "--module", module, *arguments,
    ]  # fmt: skip
    sys.stdout.flush()
    # The launcher must not be a child: a signal that ends this process must end it, and the processes of the run.
    os.execv(sys.executable, command)
