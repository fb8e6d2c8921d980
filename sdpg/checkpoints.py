"""Training in progress: what a killed run needs to go on exactly where it was.

Everything lies in one folder, ``.state/<fingerprint>/``. A checkpoint is written under a temporary name and renamed,
and the one before it is removed only then. Records and metrics may run ahead of the last checkpoint by some steps; on
resume whatever lies past it is cut, and those steps are made again, bit for bit.
"""

from collections.abc import Mapping, Sequence
import csv
import io
import json
from pathlib import Path
import re
import shutil
from typing import Any

from safetensors.torch import load_file, save_file
import torch

from sdpg.files import replaced_folder, write_text

CHECKPOINT = re.compile(r"^checkpoint-(\d{6})$")
STEP_FILE = re.compile(r"^step-(\d{6})\b.*\.parquet$")


def save_checkpoint(state: Path, step: int, model: Any, optimizer: torch.optim.Optimizer) -> None:
    """Saves weights and optimiser state as safetensors; earlier checkpoints are removed once this one stands."""
    tensors, scalars = {}, {}
    optimizer_state = optimizer.state_dict()
    for index, entries in optimizer_state["state"].items():
        for name, value in entries.items():
            tensors[f"{index}.{name}"] = value.contiguous()
    scalars["param_groups"] = optimizer_state["param_groups"]
    target = state / f"checkpoint-{step:06d}"
    with replaced_folder(target) as folder:
        # Tied weights share memory, which safetensors refuses: the trainable parameters name each tensor once.
        save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, folder / "model.safetensors")
        save_file(tensors, folder / "optimizer.safetensors")
        (folder / "state.json").write_text(json.dumps({"step": step, **scalars}), encoding="utf-8")
    for other in state.iterdir():
        if CHECKPOINT.match(other.name) and other != target:
            shutil.rmtree(other)


def load_checkpoint(state: Path, model: Any, optimizer: torch.optim.Optimizer) -> int:
    """Restores the newest checkpoint into model and optimiser and returns its step; 0 where there is none."""
    found = sorted(path for path in state.iterdir() if CHECKPOINT.match(path.name)) if state.exists() else []
    if not found:
        return 0
    saved = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
    weights = load_file(found[-1] / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    entries: dict[int, dict[str, Any]] = {}
    for key, value in load_file(found[-1] / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": saved["param_groups"]})
    return int(saved["step"])


def cut_after(state: Path, step: int) -> None:
    """Removes records and metric lines of later steps, and a line or file that a kill left half written."""
    for folder in (state / "rollouts", state / "evaluations"):
        for path in folder.iterdir() if folder.exists() else []:
            match = STEP_FILE.match(path.name)
            if match is None or int(match.group(1)) > step:
                path.unlink()
    for path in state.glob("*.csv"):
        header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A step is a line's first field; only a line that ends in a newline was written whole.
        kept = [line for line in lines if line.endswith("\n") and int(line.split(",", 1)[0]) <= step]
        write_text(path, header + "".join(kept))


class CsvLog:
    """A CSV that grows by one line a step; the columns are fixed by its first line."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        if not path.exists():
            write_text(path, ",".join(self.columns) + "\n")

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds one line; a missing value is an empty field, an unknown column an error."""
        if unknown := set(row) - set(self.columns):
            raise ValueError(f"{self.path.name} has no column {', '.join(sorted(unknown))}")
        line = io.StringIO()
        # repr keeps every digit of a float, so that equal runs give equal files.
        csv.writer(line, lineterminator="\n").writerow(
            ["" if row.get(c) is None else repr(v) if isinstance(v := row[c], float) else v for c in self.columns]
        )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.getvalue())
