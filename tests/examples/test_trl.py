"""Tests SDPG inside TRL's trainer: two steps of it, and its loss beside the workbench's own update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdpg.models.experience import Experience
from sdpg.models.passes import Policies
from sdpg.objective.coefficients import Coefficients
from sdpg.problems.synthetic import draw_chains
from tests.helpers.plain_update import METHODS, assert_close, run
from tests.helpers.tiny import SIBLINGS, gradients, tiny_train

pytest.importorskip("trl", reason="TRL is not installed")
ROOT = Path(__file__).parents[2]
BASE = ROOT / "inputs" / "models" / "tiny-base"
PROMPTS, STEPS, ALPHA = 4, 2, 0.3


def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs within most groups. Right answers do not: the base has not seen such prompts."""
    return [float(sum(ids) % 2 == 0) for ids in completion_ids]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[dict[str, Tensor]]]:
    """A trainer after two steps, and the inputs of each loss."""
    from datasets import Dataset
    from trl import GRPOConfig

    from examples.trl_sdpg import SDPGTrainer

    seen: list[dict[str, Tensor]] = []

    class Watched(SDPGTrainer):
        def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
            seen.append(inputs)
            return super()._compute_loss(model, inputs)

    rows = []
    for chain in draw_chains({"chain-2": 1.0, "chain-3": 2.0}, 8, seed=1):
        texts = {"prompt": chain.problem, "hinted": f"{chain.problem}\n{chain.solution}"}
        rows.append({name: [{"role": "user", "content": text}] for name, text in texts.items()})
    arguments = GRPOConfig(
        output_dir=str(tmp_path_factory.mktemp("trl")), max_steps=STEPS, beta=ALPHA, num_generations=SIBLINGS,
        per_device_train_batch_size=SIBLINGS * PROMPTS // 2, gradient_accumulation_steps=2, max_completion_length=24,
        temperature=1.5, use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no", report_to=[],
        logging_steps=1, disable_tqdm=True, learning_rate=1e-3, seed=0,
    )  # fmt: skip
    trainer = Watched(model=str(BASE), reward_funcs=even, args=arguments, train_dataset=Dataset.from_list(rows))
    trainer.train()
    return trainer, seen


def joined(seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The two micro-batches of the first step, with siblings side by side again."""
    both = {name: torch.cat([one[name] for one in seen[:2]]) for name in seen[0] if seen[0][name].ndim}
    order = sorted(range(len(both["prompt_ids"])), key=lambda row: both["prompt_ids"][row].tolist())
    return {name: values[order] for name, values in both.items()}


def unpadded(inputs: dict[str, Tensor], name: str) -> list[list[int]]:
    pairs = zip(inputs[f"{name}_ids"], inputs[f"{name}_mask"].bool(), strict=True)
    return [ids[mask].tolist() for ids, mask in pairs]


def test_it_trains(trained: tuple[Any, list[dict[str, Tensor]]]) -> None:
    trainer, seen = trained
    assert trainer.state.global_step == STEPS and len(seen) == 2 * STEPS
    logs = [entry for entry in trainer.state.log_history if "kl_to_teacher" in entry]
    assert len(logs) == STEPS and all(entry["kl_to_teacher"] > 0 for entry in logs)
    base = AutoModelForCausalLM.from_pretrained(BASE).state_dict()
    assert any(not torch.equal(base[name], weight) for name, weight in trainer.model.state_dict().items())
    # The teacher is shown the student's prompt and more; the weights of all tokens of a batch add up to 1.
    inputs = joined(seen)
    for prompt, hinted in zip(unpadded(inputs, "prompt"), unpadded(inputs, "hinted"), strict=True):
        assert len(hinted) > len(prompt) and hinted[: len(prompt) - 8] == prompt[:-8]
    assert (inputs["weights"] * inputs["completion_mask"].sum(1)).sum() == pytest.approx(1)


@pytest.mark.parametrize("off_policy", [False, True])
def test_loss_and_gradient_are_those_of_the_workbench(
    trained: tuple[Any, list[dict[str, Tensor]]], off_policy: bool
) -> None:
    trainer, seen = trained
    inputs = joined(seen)
    inputs = {name: values.double() if values.is_floating_point() else values for name, values in inputs.items()}
    mask = inputs["completion_mask"].bool()
    assert {True, False} == set((inputs["advantages"] > 0).tolist())
    assert (mask.sum(1).view(PROMPTS, SIBLINGS).float().std(1) > 0).all()
    student, reference = (AutoModelForCausalLM.from_pretrained(BASE).double().eval() for _ in range(2))
    student.load_state_dict(trainer.model.state_dict())
    policies = Policies(student, reference.requires_grad_(False), trainer._tokenizer.pad_token_id, 1.5)
    if off_policy:
        generator = torch.Generator().manual_seed(0)
        inputs["old_per_token_logps"] = -3 + torch.randn(mask.shape, generator=generator, dtype=torch.float64)
    experience = Experience(
        problem_ids=[str(row) for row in range(len(mask))],
        student_prompts=unpadded(inputs, "prompt"),
        teacher_prompts=unpadded(inputs, "hinted"),
        responses=unpadded(inputs, "completion"),
        rollout_logprobs=[[] for _ in mask],
        advantages=inputs["advantages"],
        gates=(inputs["advantages"] > 0).double(),
        old_logprobs=[old[row] for old, row in zip(inputs["old_per_token_logps"], mask, strict=True)]
        if off_policy
        else None,
    )
    # This is the first of 16 steps, where β is ½, as the warm-up takes two.
    trainer.state.global_step, trainer.state.max_steps = 0, 16
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation
    method = METHODS["sdpg-ufkl"].model_copy(
        update={"outcome": "clipped_weight", "clip_low": trainer.epsilon_low, "clip_high": trainer.epsilon_high}
    )
    train = tiny_train(updates_per_batch=1 + off_policy, log_ratio_clamp=None)
    expected = run(policies, experience, method, Coefficients(ALPHA, 0.5, 0.0), train)
    student.zero_grad(set_to_none=True)
    trainer.model.train()
    loss = trainer._compute_loss(student, inputs)
    loss.backward()
    assert_close((loss.item(), gradients(student)), expected, 1e-5)
    # An optimiser step on each of the two micro-batches takes its own mean.
    trainer.current_gradient_accumulation_steps = 1
    assert trainer._compute_loss(student, inputs).item() == pytest.approx(2 * loss.item())


def test_the_example_is_short() -> None:
    assert len((ROOT / "examples" / "trl_sdpg.py").read_text(encoding="utf-8").splitlines()) <= 60
