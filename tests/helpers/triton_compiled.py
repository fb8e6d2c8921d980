"""Compiles the kernels for an NVIDIA H100 by the head's own calls, without a GPU; prints what the machine code does.

It needs a process of its own, which believes in a GPU that is not there.
"""

import json
from typing import Any

import torch
from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
from triton.runtime import driver  # pyright: ignore[reportMissingImports]
from triton.runtime.jit import JITFunction  # pyright: ignore[reportMissingImports]

from sdpg.models.row_kernels import RowValues
from sdpg.models.triton_rows import launch

HOPPER = GPUTarget("cuda", 90, 32)


class Driver:
    """Answers what the compiler asks of a GPU's driver."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return HOPPER


def main() -> None:
    """Compiles them for every divergence, both types of products, and tokens at two places in memory."""
    driver.set_active(Driver())
    run, found = JITFunction.run, {}

    def compiled(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        ptx = kernel.asm["ptx"]
        found[kernel.hash] = {
            "name": self.__name__, "wide_loads": "ld.global.v4" in ptx,
            "rounds_to_nearest": "cvt.rn.bf16x2.f32" in ptx, "registers_spilt": "st.local" in ptx,
        }  # fmt: skip
        return kernel

    JITFunction.run = compiled
    words = 151_936
    for kind in (None, *launch.FORMS):
        scored = launch.Scored(1.0, kind and kind(), False)
        for start in (0, 3):
            student, teacher = torch.zeros(3, words), torch.zeros(2, words)
            ids = torch.zeros(9, dtype=torch.int64)[start : start + 3]
            values = RowValues.empty(9, student)[slice(start, start + 3)]
            stats = launch.read(student, teacher, ids, 1.0, scored, values)
            for out in (student, torch.zeros(3, words, dtype=torch.bfloat16)):
                gradients = [torch.zeros(3), None, torch.zeros(3)]
                launch.differentiate(student, teacher, ids, 1.0, scored, values, stats, gradients, out)
    print(json.dumps(list(found.values())))


if __name__ == "__main__":
    main()
