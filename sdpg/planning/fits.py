"""Checks whether this machine holds what training holds at all times, before anything is loaded."""

import psutil

from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.models.launching import machines_of
from sdpg.objective.coefficients import keeps_teacher_weights, needs_reference_weights
from sdpg.params import MethodParams, Params, ScratchModel
from sdpg.params.vllm import VllmInProcess
from sdpg.planning.adapter import Adapter, planned_adapter
from sdpg.planning.memory import FLOAT
from sdpg.planning.shapes import Shape, shape_of


def standing_bytes(shape: Shape, reference: bool, lora: Adapter | None = None, teacher: bool = False) -> int:
    """Returns the bytes of float32 weights, gradients, two moments, the frozen copy and the teacher's own weights.

    With an adapter, it alone has gradients, moments and a teacher's own weights, and there is no frozen copy.
    """
    if lora is not None:
        return FLOAT * (shape.parameters + (4 + teacher) * lora.parameters(shape))
    return FLOAT * shape.parameters * (4 + reference + teacher)


def check_memory(params: Params) -> None:
    """Refuses a model whose weights, gradients, moments and reference alone are more than the memory that there is.

    Only what is certain is refused: activations and rollouts come on top, and `sdpg plan` tells about
    them. Models that cannot be planned are let through.

    Raises:
        UserError: if it is too large; the message names both sizes.
    """
    model = params.base.model
    if isinstance(model, ScratchModel):
        return
    try:
        shape = shape_of(params.base)
    except UserError:
        return
    lora = planned_adapter(params.train.lora)
    # A run that holds less would fit where others do not, so the method that needs least is counted.
    needed, names = min(_standing(shape, params, params.methods[name], lora) for name in params.run.methods)
    there, where = _memory(params.train.device)
    spread = params.train.distributed
    if spread.strategy == "fsdp2" and where.startswith("the GPU"):
        needed //= spread.processes  # a part of everything on each GPU
    if spread.strategy == "ddp" and not where.startswith("the GPU"):
        needed *= spread.processes  # side by side in the same memory
    if needed > there:
        raise UserError(
            f"base.model {params.base.name} has {shape.parameters / 1e9:.2f}B parameters: {names} in float32 take "
            f"{needed / 2**30:.1f} GiB, but {where} "
            f"{there / 2**30:.1f} GiB. Use a larger one, or a smaller model; `sdpg plan --profile {params.profile}` "
            "tells what is needed"
        )


def _standing(shape: Shape, params: Params, method: MethodParams, lora: Adapter | None) -> tuple[int, str]:
    """Returns what one method holds at all times: its bytes, and what they are for."""
    referred = lora is None and needs_reference_weights(method, params.train)
    kept = keeps_teacher_weights(method)
    more = [name for name, held in (("reference", referred), ("the teacher's weights", kept)) if held]
    names = ", ".join(["weights", "gradients", "moments", *more[:-1]]) + "".join(f" and {name}" for name in more[-1:])
    return standing_bytes(shape, referred, lora, kept), names


def check_device(params: Params) -> None:
    """Refuses a GPU that is not there, and a choice of the CPU that vLLM would not follow.

    Raises:
        UserError: if so; the message names ``train.device``, its value and the remedy.
    """
    kind = device_type(params.train.device)
    if kind == "cpu" and isinstance(params.rollout.vllm, VllmInProcess) and device_type("auto") == "cuda":
        raise UserError(
            f"train.device is {params.train.device}, but vLLM in process takes the GPU of this machine: set it to cuda "
            "or auto, use rollout.engine: transformers, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )


def check_gpus(params: Params) -> None:
    """Refuses more processes than this machine has GPUs, if they are to use them; on CPUs they share its processors.

    Raises:
        UserError: if there are more; the message names both numbers.
    """
    spread = params.train.distributed
    if spread.strategy == "none" or device_type(params.train.device) == "cpu":
        return
    import torch

    machines = machines_of(spread)
    here, there = -(-spread.processes // machines), torch.cuda.device_count()
    if here > there:
        raise UserError(
            f"train.distributed.processes is {spread.processes}, which is {here} on each machine ({spread.config_file} "
            f"has num_machines: {machines}), but this one has {there} GPU{'s' if there != 1 else ''}: a process takes "
            "one; lower it, or name a configuration of more machines in train.distributed.config"
        )


def _memory(device: str) -> tuple[int, str]:
    """Returns the bytes of the GPU, or of this machine where ``train.device`` is or becomes its CPU, and whose they
    are."""
    if device_type(device) == "cuda":
        import torch

        name = torch.cuda.get_device_name(0)
        return torch.cuda.get_device_properties(0).total_memory, f"the GPU ({name}) has"
    reason = "there is no GPU here" if device == "auto" else f"train.device is {device}"
    return psutil.virtual_memory().total, f"{reason}, and this machine has"
