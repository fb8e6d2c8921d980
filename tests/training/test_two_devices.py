"""Tests on a CPU that no step of training mixes tensors of GPU and CPU: every method, preset, type and layout."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check.steps import Shape, changed_params, make, random_model
from sdpg.params.lora import LoraParams
from tests.helpers.pretended_gpu import GPU, is_there, pretended_gpu, put, put_model

METHODS = ("grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0", "nogate")
LAYOUTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "lora": {"lora": LoraParams(rank=2, alpha=4).model_dump()},
    # Rows that the teacher does not read are trained beside others where there is a reference term.
    "line_tokens": {"line_tokens": 128, "updates_per_batch": 2},
    "gradients_every": {"gradients_every": 1},
}
SHAPE = Shape(16, 32, 1, 2, 1, 8, 259, True, 256)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("preset", ["paper", "refcode"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_mixes_no_devices(tmp_path: Path, method: str, preset: str, layout: str) -> None:
    train = {"steps": 40, "prompts_per_step": 2, "responses_per_prompt": 2, "tokens_per_micro_batch": 128,
             "line_tokens": 0, "head_megabytes": 1, "gradients_every": 0, "record_every": 1, "record_rows": 1,
             **LAYOUTS[layout]}  # fmt: skip
    student, reference = (random_model(SHAPE, "cpu", spread=0.2) for _ in range(2))
    if preset == "paper" and method not in ("grpo", "rlsd", "opcd"):
        train["updates_per_batch"] = 1  # REINFORCE is for the policy that sampled
    made = make(changed_params(preset, train, 8, [method]), method, student, reference.requires_grad_(False), tmp_path)
    types: set[torch.dtype] = set()
    student.model.layers[0].mlp.up_proj.register_forward_hook(lambda *called: types.add(called[-1].dtype))
    with pretended_gpu():
        for model in (student, reference):
            put_model(model)
        assert student.device == GPU
        # A record of one row, and none.
        for number in (1, 2):
            metrics, _ = made.step(number)
            assert metrics["loss"] is not None
        assert all(is_there(parameter) for parameter in made.trainer.trained)
    assert types == {torch.bfloat16 if layout == "bfloat16" else torch.float32}


def test_what_cuda_refuses_is_refused_and_what_it_allows_is_not() -> None:
    with pretended_gpu():
        here, there = torch.ones(3), torch.ones(3, device=GPU)
        assert (here.device.type, there.device, there.is_cuda, there.is_cpu) == ("cpu", GPU, True, False)
        for mixed in (
            lambda: here + there, lambda: torch.cat([here, there]), lambda: torch.where(here > 0, there, there),
            lambda: here[torch.tensor([0], device=GPU)], lambda: there.masked_fill(here > 0, 1.0),
            lambda: torch.nn.functional.embedding(torch.tensor([0]), torch.ones(2, 2, device=GPU)),
            lambda: here * there.sum(), lambda: there.add_(here),
        ):  # fmt: skip
            with pytest.raises(RuntimeError, match="at least two devices"):
                mixed()
        with pytest.raises(TypeError, match=r"Use Tensor\.cpu\(\) first"):
            there.numpy()
        allowed = (there * torch.tensor(2.0), there[torch.tensor([0, 2])], there[1:], here.to(GPU), there.double(),
                   torch.zeros_like(there), here.to(GPU, torch.float64, non_blocking=True))  # fmt: skip
        assert all(tensor.device == GPU for tensor in allowed)
        assert there.cpu().numpy().sum() == there.sum().item() == 3 and there.tolist() == [1.0] * 3
        here.copy_(there)
        assert here.device.type == "cpu" and (here + here).device.type == "cpu"
        # The graph of the backward pass is watched too.
        weight = put(torch.ones(3)).requires_grad_()
        (weight * there).sum().backward()
        assert weight.grad is not None and weight.grad.device == GPU
