"""Makes random two-layer policies and fabricated rollouts for numeric tests; no tokenizer, no sampling, no files."""

from collections.abc import Iterator
from contextlib import contextmanager
import copy
from dataclasses import dataclass, field
import random
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdpg.models.experience import Experience
from sdpg.models.passes import Policies
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.advantages import group_advantages
from sdpg.objective.coefficients import keeps_teacher_weights
from sdpg.objective.gate_choice import find_gate
from sdpg.objective.gates import group_credits
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams

VOCAB, PAD, EOS = 40, 0, 1
SIBLINGS = 4
MAX_TOKENS = 12


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, spread: float = 0.25) -> Qwen3ForCausalLM:
    """Returns a random Qwen3; ``spread`` is large enough for distributions that are far from uniform."""
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, tie_word_embeddings=True,
        eos_token_id=EOS, pad_token_id=PAD, bos_token_id=None, initializer_range=spread,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config).to(dtype)


def tiny_policies(dtype: torch.dtype = torch.float32, temperature: float = 1.0) -> Policies:
    """A student that has moved some way from its reference, so that no term sits at its minimum."""
    student, reference = tiny_model(0, dtype), tiny_model(0, dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
    return Policies(student, reference.requires_grad_(False), PAD, temperature)


def with_teacher(policies: Policies, method: MethodParams) -> Policies:
    """Gives policies the weights of the method's own teacher, if it has one: at first those of the reference."""
    if keeps_teacher_weights(method):
        apart = isinstance(policies.reference, torch.nn.Module)
        model = copy.deepcopy(policies.reference) if apart else None
        policies.teacher_weights = TeacherWeights(method, policies.student, model, 0.0)
        for name, weight in policies.teacher_weights.weights.items():
            if ".lora_B." in name:
                weight.zero_()
    return policies


def tiny_train(**changes: Any) -> TrainParams:
    """Training options of the paper for :func:`tiny_experience`."""
    values: dict[str, Any] = {"responses_per_prompt": SIBLINGS, "tokens_per_micro_batch": 64}
    return TrainParams(**(values | changes))


def tiny_method(**values: Any) -> MethodParams:
    """A method of the given values; REINFORCE where they do not say."""
    return MethodParams(**({"title": "a method", "outcome": "reinforce"} | values))


def tiny_experience(
    rewards: list[list[float]] | None = None,
    gate_kind: Any = "positive",
    seed: int = 3,
    shifted_old: bool = False,
    std: Any = "population",
    baseline: Any = "group",
) -> Experience:
    """Ragged rollouts with the given rewards: by default a mixed, a uniform and a lopsided group.

    ``shifted_old`` adds log-probs of a π_old and of a teacher at the start of the step, as several updates need them.
    """
    rewards = rewards or [[1.0, -1.0, 1.0, -1.0], [1.0] * SIBLINGS, [-1.0, -1.0, -1.0, 1.0]]
    source = random.Random(seed)

    def ids(shortest: int, longest: int) -> list[int]:
        return [source.randrange(2, VOCAB) for _ in range(source.randint(shortest, longest))]

    student_prompts, teacher_prompts, responses = [], [], []
    for group in rewards:
        prompt, hint = ids(3, 9), ids(4, 8)
        for _ in group:
            student_prompts.append(prompt)
            teacher_prompts.append(prompt[:2] + hint + prompt[2:])
            responses.append([*ids(0, MAX_TOKENS - 1), EOS])
    advantages = group_advantages(torch.tensor(rewards), std, 1e-6, None, baseline).flatten()
    row_gate = find_gate(gate_kind).row
    flat = [reward for group in rewards for reward in group]
    credits = group_credits(advantages.tolist(), flat, [reward > 0 for reward in flat], SIBLINGS)

    def around(values: list[list[float]], width: float) -> list[torch.Tensor]:
        return [torch.tensor([v + source.uniform(-width, width) for v in row], dtype=torch.float64) for row in values]

    rollout_logprobs = [[source.uniform(-6.0, -0.5) for _ in response] for response in responses]
    return Experience(
        problem_ids=[f"problem-{index}" for index, group in enumerate(rewards) for _ in group],
        student_prompts=student_prompts,
        teacher_prompts=teacher_prompts,
        responses=responses,
        rollout_logprobs=rollout_logprobs,
        advantages=advantages,
        gates=torch.tensor([row_gate(row) for row in credits], dtype=torch.float64),
        old_logprobs=around(rollout_logprobs, 0.3) if shifted_old else None,
        teacher_logprobs=list(around(rollout_logprobs, 0.5)) if shifted_old else None,
        contrast_logprobs=list(around(rollout_logprobs, 0.5)),
        ended=[True] * len(responses),
    )


def gradients(model: Any) -> torch.Tensor:
    """All gradients in one vector; parameters without one count as zero."""
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


@dataclass
class Pass:
    """One forward pass: its input ids, and whether it built a graph."""

    input_ids: torch.Tensor
    with_gradient: bool


@dataclass
class Passes:
    """Forward passes of a model, in order."""

    seen: list[Pass] = field(default_factory=list)

    def prompts(self, with_gradient: bool) -> list[list[int]]:
        """Every row that was read, with its padding."""
        return [row for one in self.seen if one.with_gradient == with_gradient for row in one.input_ids.tolist()]


@contextmanager
def counted_passes(model: Any) -> Iterator[Passes]:
    """Watches the forward passes of a model."""
    passes = Passes()

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        passes.seen.append(Pass(kwargs["input_ids"], torch.is_grad_enabled()))

    hook = model.base_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()
