"""Starts the processes of a run, and tells how they ended: this very process becomes accelerate's launcher.

``python -m sdpg.models.launching`` is ``accelerate launch`` with the same arguments, but for what it does with signals
and exit codes. The module imports torch in the launcher alone.
"""

from collections.abc import Sequence
import os
import signal
import sys
from typing import Any

from sdpg.errors import RESUME, Interrupted, UserError, entry_point
from sdpg.params import read_yaml
from sdpg.params.train import DistributedParams

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
    machines = machines_of(params)
    if params.processes % machines:
        raise UserError(
            f"{path}: num_machines is {machines}, which does not divide train.distributed.processes "
            f"({params.processes}): each machine has as many processes"
        )
    if machines > 1 and not (tree.get("main_process_ip") and tree.get("main_process_port")):
        raise UserError(
            f"{path}: num_machines is {machines}, but main_process_ip or main_process_port is missing: name machine 0, "
            "and a free port there"
        )
    if params.strategy == "fsdp2":
        _check_sharding(path, tree.get("fsdp_config") or {})


def machines_of(params: DistributedParams) -> int:
    """Returns the number of machines in accelerate's configuration, which :func:`check_launch` checks."""
    if params.strategy == "none" or not params.config_file.is_file():
        return 1
    tree: Any = read_yaml(params.config_file)
    return int(tree.get("num_machines") or 1) if isinstance(tree, dict) else 1


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
    return DistributedParams() if machines_of(params) > 1 else params


def launch(params: DistributedParams, module: str, arguments: Sequence[str], machine: int = 0) -> None:
    """Turns this process into the launcher of this machine's share of ``params.processes`` processes of
    ``python -m module``.

    Returns if this process is already one of them, or the only one.

    Args:
        params: the section ``train.distributed``.
        module: the module that each process runs.
        arguments: its arguments.
        machine: the number of this machine, of the ``num_machines`` of accelerate's configuration; 0 has the first
            ranks, and the others wait for it.

    Raises:
        UserError: if the process was launched in another way than ``train.distributed`` says.
    """
    launched = "LOCAL_RANK" in os.environ
    check_launch(params)
    machines = machines_of(params)
    if not 0 <= machine < machines:
        raise UserError(
            f"--machine-rank is {machine}, but the run is on {machines} machine{'s' if machines > 1 else ''}: name one "
            "from 0 on, or set num_machines in a configuration that train.distributed.config names"
        )
    if params.strategy == "none":
        if launched and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"{os.environ['WORLD_SIZE']} processes were launched, but train.distributed.strategy is none, or its "
                "configuration is for several machines and this stage for one process: each would do all of the work. "
                "Start one process, or set strategy to ddp or fsdp2"
            )
        return
    if launched:
        return
    command = [
        sys.executable, "-m", "sdpg.models.launching", "--config_file", str(params.config_file),
        "--num_processes", str(params.processes), "--machine_rank", str(machine),
        # A no without quotes is no text to accelerate.
        "--mixed_precision", "no", "--module", module, *arguments,
    ]  # fmt: skip
    sys.stdout.flush()
    # The launcher must not be a child: a signal that ends this process must end it, and the processes of the run.
    os.execv(sys.executable, command)


def main() -> None:
    """Launches as the command line says, and passes SIGTERM on to the processes, which end in their own time.

    torch's launcher would itself end, and kill 30 seconds later those that still write a checkpoint.

    Raises:
        Interrupted: if the processes ended with exit code 75.
        UserError: if one ended otherwise; the message names its rank and how it ended.
    """
    import psutil

    heard: list[int] = []

    def pass_on(number: int, _: Any) -> None:
        heard.append(number)
        for child in psutil.Process().children():
            child.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    # The signals that torch's launcher handles itself.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGINT,SIGHUP,SIGQUIT")
    from accelerate.commands.launch import main as accelerate_launch
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        accelerate_launch()
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        # Processes end with it together, when what they have done is kept; the launcher may cut short what follows.
        # One that has only just started is ended by the signal itself.
        if RESUME in codes or (heard and codes == {-signal.SIGTERM}):
            raise Interrupted("the processes of the run were interrupted") from None
        rank, failure = error.get_first_failure()
        raise UserError(_how_it_ended(rank, failure.pid, failure.exitcode)) from None


def _how_it_ended(rank: int, process: int, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        why = " (often the kernel, when memory is short: see dmesg)" if name == "SIGKILL" else ""
        how = f"was killed by {name}{why}"
    else:
        how = f"ended with exit code {code}; its message is above"
    return (
        f"rank {rank} (process {process}) {how}, and the others were ended with it. Steps up to the last checkpoint "
        "are kept: run the same command again, and it goes on from there"
    )


if __name__ == "__main__":
    entry_point(main)
