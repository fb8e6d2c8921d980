"""Saves a training in progress, so that a killed run goes on where it was.

Everything lies in one folder, ``.state/<fingerprint>/``. A checkpoint is written under a temporary name and renamed,
and only then the one before it is removed. Records and metrics may be some steps ahead of the last checkpoint; on
resume the steps past it are cut from them and made again: bit for bit on a CPU, to rounding on a GPU, which may add in
another order each time. :mod:`sdpg.training.saved_files` notices what has changed in between.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import csv
import io
from itertools import chain
from pathlib import Path
import shutil
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
import torch
from torch import Tensor

from sdpg.files import replaced_folder, write_text
from sdpg.models.distribution import own_part
from sdpg.models.ranks import SOLO, Ranks, whole
from sdpg.models.teachers import TeacherWeights
from sdpg.training.saved_files import (
    CHECKPOINT,
    check_files,
    known_files,
    newest_checkpoint,
    note_files,
    read_state,
    run_files,
    times_header,
    write_state,
)

WEIGHTS, OPTIMIZER, TEACHER, AHEAD = "model", "optimizer", "teacher", "ahead"
PIECE_BYTES = 4 << 30
"""The approximate size of a checkpoint's largest file, and of the memory that writing one takes."""


def save_checkpoint(
    state: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks = SOLO,
    teacher: TeacherWeights | None = None,
    ahead: Mapping[str, Tensor] | None = None,
) -> None:
    """Saves weights, optimiser state, a teacher's own weights and responses that were drawn ahead, as safetensors.

    Earlier checkpoints are removed then.

    Frozen weights are the base's and are not saved: with an adapter, these are all but the adapter's.

    All ranks call this: sharded tensors are gathered one by one, and the first rank writes them whole, so that a
    checkpoint does not depend on the number of processes.
    """
    saved = optimizer.state_dict()
    moments = (
        (f"{index}.{name}", value) for index, entries in saved["state"].items() for name, value in entries.items()
    )
    # Tied weights share memory, which safetensors refuses; the trainable parameters hold each tensor once.
    weights = ((name, value.detach()) for name, value in model.named_parameters() if value.requires_grad)
    taught = () if teacher is None else teacher.weights.items()
    if not ranks.first:
        for _, tensor in chain(weights, moments, taught):
            whole(tensor)
        return
    target = state / f"checkpoint-{step:06d}"
    with replaced_folder(target) as folder:
        _write(folder, WEIGHTS, weights)
        _write(folder, OPTIMIZER, moments)
        if teacher is not None:
            _write(folder, TEACHER, taught)
        if ahead is not None:
            _write(folder, AHEAD, ahead.items())
        write_state(folder, {
            "step": step, "param_groups": saved["param_groups"], "teacher": teacher and teacher.state(),
            "tensors": note_files(folder, sorted(path.name for path in folder.iterdir()), {}),
            "files": note_files(state, run_files(state, step), known_files(state)),
            "times": times_header(state),
        })  # fmt: skip
    for other in state.iterdir():
        if CHECKPOINT.match(other.name) and other != target:
            shutil.rmtree(other)


def _write(folder: Path, prefix: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Writes tensors into files of about ``PIECE_BYTES``, and holds no more of them in memory than one file has."""
    piece: dict[str, Tensor] = {}
    number = size = 0
    for name, tensor in tensors:
        piece[name] = whole(tensor).cpu().contiguous()
        size += piece[name].nbytes
        if size >= PIECE_BYTES:
            save_file(piece, folder / f"{prefix}-{number:05d}.safetensors")
            piece, number, size = {}, number + 1, 0
    if piece or not number:
        save_file(piece, folder / f"{prefix}-{number:05d}.safetensors")


def _read(folder: Path, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields the name of each stored tensor, with the open file that it is read from."""
    for file in sorted(folder.glob(f"{prefix}-*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                yield name, tensors


@torch.no_grad()
def _copy(folder: Path, prefix: str, targets: Mapping[str, Tensor]) -> None:
    """Copies each stored tensor into the one of its name, or this rank's part of it."""
    for name, tensors in _read(folder, prefix):
        targets[name].copy_(own_part(tensors, name, targets[name]))


def load_checkpoint(
    state: Path,
    model: Any,
    optimizer: torch.optim.Optimizer | None = None,
    ranks: Ranks = SOLO,
    teacher: TeacherWeights | None = None,
) -> int:
    """Restores the newest checkpoint into what is given and returns its step; 0 where there is none.

    The first rank checks the files, and each reads its part of each tensor from them.

    Raises:
        UserError: if a file of the checkpoint, or a record or table up to its step, is not what it was saved with.
    """
    folder = newest_checkpoint(state)
    if folder is None:
        return 0
    saved = read_state(folder)
    if ranks.first:
        check_files(folder, saved)
    ranks.wait()
    _copy(folder, WEIGHTS, dict(model.named_parameters()))
    if teacher is not None:
        _copy(folder, TEACHER, teacher.weights)
        teacher.restore(saved["teacher"])
    if optimizer is not None:
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        entries: dict[int, dict[str, Any]] = {}
        for key, tensors in _read(folder, OPTIMIZER):
            index, name = key.split(".", 1)
            # Step counts are single numbers beside the moments.
            counts = not tensors.get_slice(key).get_shape()
            part = tensors.get_tensor(key) if counts else own_part(tensors, key, held[int(index)])
            entries.setdefault(int(index), {})[name] = part
        optimizer.load_state_dict({"state": entries, "param_groups": saved["param_groups"]})
    return int(saved["step"])


def load_ahead(state: Path) -> dict[str, Tensor]:
    """Returns the responses that the newest checkpoint holds for the step after it, once :func:`load_checkpoint` has
    checked it; empty where there are none."""
    folder = newest_checkpoint(state)
    return {} if folder is None else {name: tensors.get_tensor(name) for name, tensors in _read(folder, AHEAD)}


class CsvLog:
    """A CSV file that gets one line per step; its first line fixes the columns."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        if not path.exists():
            write_text(path, ",".join(self.columns) + "\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one line; a missing value is an empty field, and an unknown column raises an error."""
        if unknown := set(row) - set(self.columns):
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        line = io.StringIO()
        # repr keeps every digit of a float, so that equal runs give equal files.
        csv.writer(line, lineterminator="\n").writerow(
            ["" if row.get(c) is None else repr(v) if isinstance(v := row[c], float) else v for c in self.columns]
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.getvalue())
