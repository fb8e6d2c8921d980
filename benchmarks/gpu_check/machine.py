"""What a result of the check hangs on: card, driver, versions."""

import importlib.metadata
import platform
import subprocess
from typing import Any

import torch

PACKAGES = (
    "torch", "triton", "transformers", "accelerate", "peft", "numpy", "pyarrow", "safetensors", "mlflow", "pydantic",
    "trl", "liger-kernel", "vllm",
)  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    """Card, memory, driver and versions; a package that is missing is None."""
    found: dict[str, Any] = {"python": platform.python_version(), "cpu_threads": torch.get_num_threads()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["cuda"] = torch.version.cuda
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"card": card.name, "memory_gib": round(card.total_memory / 2**30, 1), "driver": driver(),
                  "compute_capability": f"{card.major}.{card.minor}", "cards": torch.cuda.device_count()}  # fmt: skip
    else:
        found["card"] = "none: a CPU"
    return found


def driver() -> str | None:
    """The version that nvidia-smi tells; None without it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.split("\n")[0].strip() or None
