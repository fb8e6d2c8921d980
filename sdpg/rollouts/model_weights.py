"""Yields the trainer's weights for an engine that has a copy of its own: by name, whole, one at a time."""

from collections.abc import Iterator
import hashlib
from itertools import count
from pathlib import Path
import tempfile
from typing import Any

from filelock import FileLock, Timeout
import torch
from torch import Tensor

from sdpg.files import write_text
from sdpg.models.adapters import full_weights
from sdpg.models.ranks import whole


def named_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yields name and whole value of every weight, as in a model folder; one at a time, to keep one in memory.

    A sharded weight is gathered from all ranks when its turn comes, so all ranks must go through all of them. A tied
    head comes once more under its own name: vLLM would otherwise keep the one that it has, with no more than a warning.
    """
    yield from full_weights(model)
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        name = next(name for name, module in model.named_modules() if module is head)
        yield f"{name}.weight", whole(head.weight.detach())


def architecture(model: Any) -> str:
    """Returns the class name of a model folder's config.json, also for a module that was never in a folder."""
    named = model.config.architectures
    # Sharding derives a class of its own from the model's.
    return named[0] if named else next(kind.__name__ for kind in type(model).__mro__ if "FSDP" not in kind.__name__)


def write_config(model: Any, folder: Any) -> None:
    """Writes the config.json of a model folder without weights."""
    name = architecture(model)
    before, model.config.architectures = model.config.architectures, [name]
    try:
        model.config.save_pretrained(folder)
    finally:
        model.config.architectures = before


def claim_config_folder(model: Any, root: Path, rank: int) -> tuple[Path, FileLock]:
    """Writes a model's configuration into a folder below ``root`` whose name is the same at each start.

    vLLM keeps compiled code by the folder's path: the name is made of the configuration, the rank, and a number that
    tells processes side by side apart, each of which compiles for itself. The folder is this process's until the lock,
    which comes with it, is released or the process ends; the file stays for the next start.
    """
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        write_config(model, temporary)
        text = (Path(temporary) / "config.json").read_text()
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:16]}-rank-{rank}"
    for number in count():
        lock = FileLock(root / f"{name}-{number}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        folder = root / f"{name}-{number}"
        folder.mkdir(exist_ok=True)
        write_text(folder / "config.json", text)
        return folder, lock
    raise AssertionError("numbers do not end")


def bytes_per_number(dtype: str) -> int:
    """Returns the bytes of one number of a dtype, by the dtype's name in params.yaml."""
    return getattr(torch, dtype).itemsize
