"""Runs stages of dvc.yaml in a project's folder, and knows which of them need not run again, without DVC's start-up.

dvc.yaml says what a stage depends on: its command, its parameters, and the digests of its inputs, that of its code
among them. A stamp, ``stages/<stage>.json``, keeps their fingerprint once the stage has ended; with the same
fingerprint and its outputs there, the stage is not run again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
import importlib
from pathlib import Path
import re
import sys
import time
from typing import Any

from sdpg.errors import UserError
from sdpg.files import read_json, write_json
from sdpg.params import PARAMS_FILE, read_yaml
from sdpg.records.provenance import fingerprint, hash_files

PIPELINE = Path("dvc.yaml")


@dataclass(frozen=True)
class Stage:
    """A stage of a project: ``Stage(folder, "train", ("grpo", "0"))``; the arguments are a method and a seed."""

    folder: Path
    """The project's folder."""
    name: str
    arguments: tuple[str, ...] = ()

    @property
    def stamp(self) -> Path:
        """Returns the file that says with which inputs the stage ran last, and for how long."""
        return self.folder / "stages" / f"{'-'.join((self.name, *self.arguments))}.json"

    def current(self, pipeline: Mapping[str, Any]) -> bool:
        """Says whether the stage has run with the inputs that are there now, and its outputs are there."""
        if not self.stamp.is_file() or pipeline["stages"][self.name].get("always_changed"):
            return False
        identity, outputs = self._described(pipeline)
        return self._stamped().get("identity") == identity and all((self.folder / out).exists() for out in outputs)

    def seconds(self) -> float | None:
        """Returns how long the stage took when it ran last; None where that is not known."""
        return self._stamped().get("seconds") if self.stamp.is_file() else None

    def run(self, pipeline: Mapping[str, Any]) -> None:
        """Runs the stage where it is not current; the working directory must be the project's folder."""
        here = Stage(Path(), self.name, self.arguments)
        if here.current(pipeline):
            return
        started = time.monotonic()
        sys.argv = [f"pipelines.{self.name}", *self.arguments]
        importlib.import_module(f"pipelines.{self.name}").main()
        identity, outputs = here._described(pipeline)
        if missing := [out for out in outputs if not Path(out).exists()]:
            raise UserError(f"stage {self.name} of {self.folder} ended without writing {', '.join(missing)}")
        write_json(here.stamp, {"identity": identity, "seconds": round(time.monotonic() - started, 1)})

    def _stamped(self) -> dict[str, Any]:
        return read_json(self.stamp, f"remove {self.stamp}, then run the same command again")

    def _described(self, pipeline: Mapping[str, Any]) -> tuple[str, list[str]]:
        """Returns the fingerprint of what the stage depends on, and its outputs."""
        stage = pipeline["stages"][self.name]
        params = read_yaml(self.folder / PARAMS_FILE)
        known = params | {"item": dict(zip(("method", "seed"), self.arguments, strict=False))}
        names = [fill(name, known) for name in stage.get("params", [])]
        inputs = [fill(path, known) for path in stage.get("deps", [])]
        digests = {path: hash_files([self.folder / path], self.folder / path) for path in inputs}
        values = {name: look_up(params, name) for name in names}
        outputs = [
            fill(next(iter(out)) if isinstance(out, Mapping) else out, known)
            for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])
        ]  # fmt: skip
        return fingerprint(self.name, self.arguments, values, digests), outputs


def read_pipeline(path: Path = PIPELINE) -> dict[str, Any]:
    """Reads dvc.yaml."""
    return read_yaml(path)


def fill(text: str, tree: Mapping[str, Any]) -> str:
    """Returns a text of dvc.yaml with its ``${a.b}`` replaced by values of the tree."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(look_up(tree, match[1])), text)


def look_up(tree: Any, path: str) -> Any:
    """Returns the value at a dotted path; None where there is none, as params.yaml need not hold every default."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
