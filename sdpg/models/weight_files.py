"""Whether a model folder holds weights that can be read, without reading them."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from sdpg.errors import UserError


def check_weights(folder: Path, field: str) -> None:
    """Opens every safetensors file of a folder.

    Args:
        folder: of the model.
        field: what errors begin with: the parameter or option that names the folder.

    Raises:
        UserError: if there is none, or one is damaged.
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
