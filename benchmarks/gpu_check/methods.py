"""Part 2: two optimiser updates of a tiny model by every method, under both presets, in both types.

The step is the whole of the trainer's, so that a tensor that is left on the wrong device shows. In float32 it is
compared with the same step on the CPU.
"""

from functools import partial
import math
from pathlib import Path
import tempfile
from typing import Any
import warnings

import torch

from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.gpu_check.steps import Made, Shape, changed_params, count_passes, make, random_model

SHAPE = Shape(64, 128, 2, 2, 1, 32, 320, True, 256)
METHODS = ("grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0", "nogate")
LINE_TOKENS = {"paper": 256, "refcode": 0}
"""Siblings share lines under one preset and not under the other."""
TOLERANCE = 1e-4
"""Of the loss, and of a gradient's norm."""
MOVED = 0.05


def check(run: Run) -> None:
    """One row for each method, preset and type."""
    combinations = [(preset, dtype) for preset in LINE_TOKENS for dtype in ("float32", "bfloat16")]
    for preset, dtype in combinations[::3] if run.toy else combinations:
        for method in METHODS:
            expected = "finite; within 1e-4 of the CPU's" if dtype == "float32" else "finite"
            run.check(f"{method}, {preset}, {dtype}", expected, partial(two_updates, run, method, preset, dtype), 2)


def two_updates(run: Run, method: str, preset: str, dtype: str) -> Answer:
    """Makes them on the device and, in float32, on the CPU."""
    found = _updates(run.device, method, preset, dtype)
    numbers = [*found["losses"], *(gradient.norm().item() for gradient in found["gradients"])]
    finite = all(map(math.isfinite, numbers)) and all(number > 0 for number in numbers[len(found["losses"]) :])
    text = f"loss {', '.join(f'{loss:.4g}' for loss in found['losses'])}"
    values: dict[str, Any] = {"losses": found["losses"], "gradient_norms": numbers[len(found["losses"]) :]}
    if run.on_gpu:
        values["syncs_per_micro_batch"] = found["syncs"] / max(1, found["passes"])
        text += f"; {values['syncs_per_micro_batch']:.1f} host syncs a micro-batch"
    if dtype != "float32":
        return Answer(text, finite, values=values)
    expected = _updates(torch.device("cpu"), method, preset, dtype)
    values["difference"] = difference(found, expected)
    return Answer(
        f"{text}; {values['difference']:.1e} off", finite and values["difference"] <= TOLERANCE, values=values
    )


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest relative difference of a loss or of a whole gradient; infinite where there is another number."""
    if len(found["gradients"]) != len(expected["gradients"]):
        return math.inf
    sizes = [max(abs(loss), 1e-2) for loss in expected["losses"]]
    losses = [abs(a - b) / size for a, b, size in zip(found["losses"], expected["losses"], sizes, strict=True)]
    pairs = zip(found["gradients"], expected["gradients"], strict=True)
    return max(losses + [((a - b).norm() / b.norm()).item() for a, b in pairs])


def _updates(device: torch.device, method: str, preset: str, dtype: str) -> dict[str, Any]:
    params = changed_params(
        preset,
        {"steps": 40, "prompts_per_step": 4, "responses_per_prompt": 4, "tokens_per_micro_batch": 256, "lr": 1e-5,
         "line_tokens": LINE_TOKENS[preset], "head_megabytes": 1, "gradients_every": 40, "record_every": 40,
         "record_rows": 4, "dtype": dtype},
        24,
    )  # fmt: skip
    # On the CPU, so that the same weights go to every device.
    student, reference = (random_model(SHAPE, "cpu", spread=0.2) for _ in range(2))
    _move(student)
    with tempfile.TemporaryDirectory() as folder:
        made = make(
            params, method, student.to(device), reference.to(device).requires_grad_(False), Path(folder),
            keep_gradients=True,
        )  # fmt: skip
        return _watched(made, device)


def _watched(made: Made, device: torch.device) -> dict[str, Any]:
    """Two steps where each has one update, else one; the last step records nothing, and its host syncs are counted."""
    counts = count_passes(made.trainer.policies.student)
    found: dict[str, Any] = {"losses": [], "syncs": 0}
    # The first step begins with learning rate 0 under one preset, and records; the second one does neither.
    for step in (1, 2):
        counts["passes"] = 0
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            try:
                metrics, _ = made.step(step)
            finally:
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode("default")
        found["losses"].append(metrics["loss"])
        found["syncs"] = sum("called a synchronizing" in str(warning.message) for warning in caught)
    return found | {"gradients": made.gradients, "passes": counts["passes"]}


def _move(model: Any) -> None:
    """Moves a model away from its reference, so that no term is at its minimum."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += MOVED * torch.randn(parameter.shape, generator=generator)
