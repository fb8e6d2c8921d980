"""Describes what a run depends on, as texts and files: its parameters, its commands, the files in its folder."""

from collections.abc import Mapping
import io
from pathlib import Path
import shlex
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from app import store, ui
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.params.stored import fields_read

FOLDERS = ("rollouts", "evaluations", "policy")


def leaves(tree: Any, path: str = "") -> list[tuple[str, str]]:
    """Returns (path, value) of every leaf, as in params.yaml."""
    if isinstance(tree, Mapping) and tree:
        return [leaf for key, part in tree.items() for leaf in leaves(part, f"{path}.{key}" if path else str(key))]
    return [(path, "null" if tree is None else str(tree))]


def params_yaml(run: RunEntry) -> bytes:
    """Returns the recorded parameters as a params.yaml, with only the fields that each method reads, as others are
    refused."""
    tree = dict(run.params)
    methods = tree.get("methods") or {}
    tree["methods"] = {name: fields_read(entry) for name, entry in methods.items()}
    out = io.StringIO()
    YAML().dump(tree, out)
    return out.getvalue().encode("utf-8", "replace")


def commands(run: RunEntry) -> str:
    """Returns the commands that make the run again, one a line."""
    git = run.config.get("git") or {}
    lines = []
    if git.get("commit"):
        lines.append(f"git checkout {shlex.quote(str(git['commit']))}")
    if run.config.get("diff"):
        lines.append("git apply changes.diff                  # what was not committed, below")
    lines.append("cp ~/Downloads/params.yaml params.yaml  # as recorded, below")
    lines.append("make install                            # without a Makefile: pip install 'sdpg[workbench]'")
    lines.append(str(run.config.get("command") or f"dvc repro train@{run.name}"))
    return ui.printable("\n".join(lines))


def verifier(run: RunEntry) -> str | None:
    """Returns the verifier's name and version from the run's records, or the parameters' name where there are none."""
    try:
        steps = store.rollout_steps(run)
        if steps:
            table = store.step_rollouts(run, max(steps)).select(["verifier", "verifier_version"])
            known = table.filter(table["verifier"].is_valid())
            if known.num_rows:
                return " ".join(filter(None, known.slice(0, 1).to_pylist()[0].values()))
    except UserError:
        pass  # the pages of the records say what is wrong with them
    asked = (run.params.get("reward") or {}).get("verifier")
    asked = asked.get("path") if isinstance(asked, dict) else asked
    return f"{asked} (as asked for: there are no records)" if asked else None


def sizes(run: RunEntry) -> pd.DataFrame:
    """Lists the files of the run's folder; a folder is one row, with the number of its files.

    A file of another commit that was not read yet has no size, as it is not on this disk.
    """
    rows = []
    for name in run.names(""):
        inside = run.names(name) if name in FOLDERS or name.startswith("checkpoint-") else []
        files = [f"{name}/{file}" for file in inside] or [name]
        here = [size for size in (_size(run, file) for file in files) if size is not None]
        rows.append({"File": ui.printable(f"{name}/" if inside else name), "Files": len(files),
                     "Kilobytes": sum(here) / 1024 if len(here) == len(files) else None})  # fmt: skip
    return pd.DataFrame(rows)


def _size(run: RunEntry, name: str) -> int | None:
    files = run.place.files
    root = getattr(files, "folder", None) or getattr(files, "root", None)
    path = Path(root) / run.folder / name if root is not None else None
    return path.stat().st_size if path is not None and path.is_file() else None
