"""Checks that a model folder holds readable weights, without reading them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from sdpg.errors import UserError


def check_weights(folder: Path, field: str) -> None:
    """Opens every safetensors file of a folder.

    Args:
        folder: the model's folder.
        field: the parameter or option that names the folder, with which errors begin.

    Raises:
        UserError: if the folder has no such file, or one is damaged.
    """
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise UserError(
            f"{field}: {folder} has no *.safetensors weights: convert them first; other formats are not loaded"
        )
    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{field}: {file} is damaged ({error}): copy it again") from None
