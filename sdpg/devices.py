"""Says on which kind of device models and their passes are. The module imports torch only where it looks for a GPU."""

from sdpg.errors import UserError


def device_type(choice: str) -> str:
    """Returns ``cpu`` or ``cuda``, as ``train.device`` chooses; ``auto`` is the GPU where there is one.

    Raises:
        UserError: if a GPU is chosen and this machine has none.
    """
    if choice == "cpu":
        return "cpu"
    import torch  # takes a second, which a choice of the CPU need not wait for

    if torch.cuda.is_available():
        return "cuda"
    if choice == "auto":
        return "cpu"
    raise UserError(
        f"train.device is {choice}, but torch finds no GPU here ("
        + ("this torch is built for CPUs alone" if torch.version.cuda is None else "see nvidia-smi")
        + "): run on a machine with one, or set it to cpu or auto (sdpg rehearse takes qwen3-4b's path without)"
    )
