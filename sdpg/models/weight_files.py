"""Names the files of a model folder that belong to the model, and checks them without reading weights as tensors."""

from pathlib import Path

from safetensors import SafetensorError, safe_open

from sdpg.errors import UserError
from sdpg.params import BaseParams, LocalModel
from sdpg.records.provenance import hash_files

WEIGHTS_AND_TOKENIZER = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""The files of a model that are fetched and copied: no pickled weights, no code."""


def model_files(folder: Path) -> list[Path]:
    """Returns the files of a model folder that hold weights, tokenizer and configuration."""
    return [file for pattern in WEIGHTS_AND_TOKENIZER for file in folder.glob(pattern)]


def folder_digest(folder: Path) -> str:
    """Returns the digest of weights, tokenizer and configuration, which does not depend on where the folder lies."""
    return hash_files(model_files(folder), folder)


def check_digest(base: BaseParams) -> None:
    """Compares a model folder with the digest that params.yaml has for it, where it has one.

    Raises:
        UserError: if they differ; the message names both.
    """
    match base.model:
        case LocalModel(path=path, digest=str(digest)):
            folder = Path(base.folder) / path
            if folder.is_dir() and (found := folder_digest(folder)) != digest:
                raise UserError(
                    f"base.model.digest is {digest}, but the files of {folder} have {found}: restore them "
                    f"(git checkout -- {folder}), or remove base.model.digest to train from what lies there"
                )


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
