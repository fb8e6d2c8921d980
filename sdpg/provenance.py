"""What a result hangs on: code, versions, hardware, inputs."""

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

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "datasets", "math-verify", "latex2sympy2-extended", "sympy",
    "numpy", "scipy", "pyarrow", "mlflow", "dvc",
)  # fmt: skip


def git_state(root: Path = Path()) -> dict[str, Any]:
    """Commit and whether the tree differs from it; both None outside a git checkout.

    dvc.lock does not count, as DVC rewrites it in every run; new modules do, as they may be imported.
    """

    def git(*arguments: str) -> str | None:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        return result.stdout.strip() if result.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    new = git("status", "--porcelain", "--untracked-files=all", "--", "sdpg", "pipelines")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changed is None else bool(changed or new)}


def versions() -> dict[str, str]:
    """Python and the libraries that can change a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and GPUs."""
    import torch  # the app reads run folders with this module's neighbours, and must not load torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def hash_files(paths: Iterable[Path], root: Path = Path()) -> str:
    """A digest of files and folders, names included, independent of where the project lies."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    for file in files:
        digest.update(os.path.relpath(file, root).encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def loaded_code() -> str:
    """A digest of the project's modules that are imported by now."""
    package = Path(__file__).parent
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "sdpg"]
    files = {Path(module.__file__) for module in modules if module.__file__}
    return hash_files(files, package)


def fingerprint(*parts: Any) -> str:
    """16 hex digits that change with any of the JSON-like parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def peak_memory_bytes() -> int:
    """Largest resident size of this process so far."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
