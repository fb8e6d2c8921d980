"""Fixes the vector instructions of PyTorch, MKL and oneDNN, so that a wider processor sums in the same order.

Each of the three chooses its kernels by what the processor can do: a sum over eight lanes rounds otherwise than one
over sixteen, and MKL blocks its products otherwise. The environment variables are theirs, and are read as they load.
"""

import os
from pathlib import Path
import platform
import sys
from typing import Literal

Kernels = Literal["avx2", "native"]

AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def fix_cpu_kernels(kernels: Kernels) -> None:
    """Sets the environment of this process and of those that it starts; call it before torch is imported.

    Variables that are set already stay as they are, and a processor without AVX2, such as ARM's, keeps its own kernels;
    :func:`cpu_kernels` tells what is in force.
    """
    if kernels == "avx2" and has_avx2():
        for name, value in AVX2.items():
            os.environ.setdefault(name, value)


def cpu_kernels() -> dict[str, str]:
    """Returns what decides on rounding here: the processor, PyTorch's capability, and the settings of the libraries."""
    import torch  # the app reads run folders with this module's neighbours, and must not load torch

    settings = {name.lower(): os.environ.get(name, "native") for name in ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA")}
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "aten_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **settings,
        "threads": str(torch.get_num_threads()),
    }


def has_avx2() -> bool:
    """Says whether the processor has AVX2."""
    return "avx2" in _cpuinfo("flags").split()


def _cpuinfo(key: str) -> str:
    """Returns a value of the first processor; empty where the system has no such file, or the file no such key."""
    file = Path("/proc/cpuinfo")
    if sys.platform != "linux" or not file.exists():
        return ""
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
