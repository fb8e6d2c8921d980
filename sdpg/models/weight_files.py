"""Checks that a model folder holds the whole of a model, and nothing that could run code, before it is loaded.

transformers initialises a missing tensor anew and only prints that it did; here it is an error.
"""

from collections.abc import Iterable, Iterator
import json
from pathlib import Path
from typing import Any

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


ATTENTIONS = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})
"""Attention implementations of transformers itself; any other name is a kernel that would be fetched from the hub."""
PICKLED = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack"})
INDEX = "model.safetensors.index.json"
_CHUNK = 1 << 24
"""Numbers that are looked at at once."""
_SHOWN = 5


def check_weights(folder: Path, field: str) -> None:
    """Opens every safetensors file of a folder, and reads its config.json for what is not loaded.

    Args:
        folder: the model's folder.
        field: the parameter or option that names the folder, with which errors begin; may be empty.

    Raises:
        UserError: if the folder has no such file, or one is damaged; if the configuration names code, a kernel of the
            hub or a quantisation.
    """
    said = f"{field}: " if field else ""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{said}{folder} has no config.json: put a whole model folder there (config.json, *.safetensors, tokenizer)"
            f"{f', or correct {field}' if field else ''}"
        )
    _check_config(_read_json(folder / "config.json", said), folder, said)
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for file in folder.glob("*") if file.suffix in PICKLED)
        raise UserError(
            f"{said}{folder} has no *.safetensors weights{f' but {_listed(pickled)}' if pickled else ''}: convert them "
            "first; other formats are not loaded, as they can hold code"
        )
    for file in _weight_files(folder, said):
        try:
            with safe_open(file, framework="numpy") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{said}{file} is damaged ({error}): copy it again") from None


def check_model(folder: Path, field: str = "") -> None:
    """Compares the names and shapes of a folder's tensors with the model of its config.json, and reads all numbers.

    Neither takes the memory of the model. A weight that is tied to another one may be missing.

    Args:
        folder: the model's folder.
        field: the parameter or option that names the folder, with which errors begin; may be empty.

    Raises:
        UserError: beside those of :func:`check_weights`, if the configuration makes no model, or a tensor is missing,
            unknown, of another shape, or holds a number that is not finite; the message names up to five of them.
    """
    check_weights(folder, field)
    said = f"{field}: " if field else ""
    found = _compared(folder, said)
    missing, unknown = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
    shapes = [f"{name} {tuple(got)} and not {tuple(wanted)}" for name, got, wanted in sorted(found["mismatched_keys"])]
    wrong = [
        f"{what} {_listed(names)}"
        for what, names in (
            ("it lacks", missing),
            ("it has, but the model has not,", unknown),
            ("of another shape are", shapes),
        )
        if names
    ]
    if wrong:
        raise UserError(
            f"{said}the weights in {folder} are not those of its config.json: {'; '.join(wrong)}. Copy config.json and "
            "weights of one model together, or convert the weights again"
        )
    if broken := list(_not_finite(_weight_files(folder, said))):
        raise UserError(
            f"{said}the weights in {folder} hold numbers that are not finite (NaN or infinity), in {_listed(broken)}: "
            "take an earlier checkpoint, or copy the weights again"
        )


def _check_config(config: Any, folder: Path, said: str) -> None:
    if not isinstance(config, dict):
        raise UserError(f"{said}{folder / 'config.json'} holds no mapping of names to values: copy it again")
    for part in _parts(config):
        if part.get("quantization_config") is not None:
            raise UserError(
                f"{said}{folder / 'config.json'} has a quantization_config: quantised weights cannot be trained; "
                "use the model's weights in bfloat16 or float32"
            )
        if part.get("auto_map"):
            raise UserError(
                f"{said}{folder / 'config.json'} has an auto_map ({part['auto_map']}): code beside a model is never "
                "run; use an architecture of transformers itself, and remove auto_map where the model is one"
            )
        for name in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
            value = part.get(name)
            if value is not None and str(value) not in ATTENTIONS:
                raise UserError(
                    f"{said}{folder / 'config.json'} has {name} {value!r}, a kernel that would be fetched and run: "
                    f"remove it, or name one of {', '.join(sorted(ATTENTIONS))}"
                )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yields every mapping in a configuration."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one


def _weight_files(folder: Path, said: str) -> list[Path]:
    """Returns the files that transformers reads: model.safetensors, or those that an index names."""
    if (folder / "model.safetensors").is_file() or not (folder / INDEX).is_file():
        return sorted(folder.glob("*.safetensors"))
    index = _read_json(folder / INDEX, said)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not (isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values())):
        raise UserError(f"{said}{folder / INDEX} has no weight_map of tensors to files: copy it again")
    files = sorted(set(names.values()))
    # The files of the hub's cache are links, so that only what the index says can be judged.
    if foreign := [name for name in files if Path(name).name != name or not name.endswith(".safetensors")]:
        raise UserError(f"{said}{folder / INDEX} names {_listed(foreign)}: only *.safetensors beside it are read")
    if lost := [name for name in files if not (folder / name).is_file()]:
        raise UserError(f"{said}{folder} lacks {_listed(lost)}, which {INDEX} names: copy the folder again")
    return [folder / name for name in files]


def _read_json(file: Path, said: str) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{said}{file} is no JSON ({type(error).__name__}: {error}): copy it again") from None


def _compared(folder: Path, said: str) -> dict[str, Any]:
    """Returns what transformers says of names and shapes when it loads onto the device that holds no numbers."""
    # Importing transformers takes seconds, which who only opens the files need not wait for.
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, device_map={"": "meta"},
            output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True,
        )  # fmt: skip
    # A configuration can hold anything, and sizes that make no model raise whatever the first operation raises.
    except Exception as error:
        raise UserError(
            f"{said}{folder} does not load as a causal language model ({type(error).__name__}: {error}): compare its "
            "config.json with the published one, and see that all files are of one model"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
    return loaded[1]


def _not_finite(files: Iterable[Path]) -> Iterator[str]:
    """Yields the names of the tensors that hold a number which is not finite; a part of a tensor is read at a time."""
    import torch

    for file in files:
        with safe_open(file, framework="pt") as weights:
            names: Iterable[str] = weights.keys()
            for name in names:
                part = weights.get_slice(name)
                shape = part.get_shape()
                if 0 in shape:
                    continue
                rows = max(1, _CHUNK * shape[0] // torch.Size(shape).numel()) if shape else 1
                chunks = (
                    (part[begin : begin + rows] for begin in range(0, shape[0], rows))
                    if shape
                    else iter([weights.get_tensor(name)])
                )
                if any(
                    one.is_floating_point() and not torch.stack(torch.aminmax(one)).isfinite().all() for one in chunks
                ):
                    yield name


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
