"""Measures the memory of an SDPG update on a CPU, part by part, for a random model of a given size.

``python -m benchmarks.update_memory '{"hidden_size": 128, …}' …`` prints one JSON line a setting: bytes of tensors,
counted exactly by :class:`benchmarks.memory.PeakMemory`. The update is the pipeline's own (:mod:`sdpg.training.update`,
:mod:`sdpg.models.passes`). Each setting runs in a forked process of its own, so that nothing of an earlier model is
left and libraries are imported once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
import json
import multiprocessing
from pathlib import Path
import sys
from typing import Any, Literal

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.memory import PeakMemory
from sdpg.models import passes as policies_module
from sdpg.models.adapters import WithoutAdapter, add_adapter
from sdpg.models.experience import Experience
from sdpg.models.loading import trainable
from sdpg.models.passes import Policies
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.coefficients import Coefficients
from sdpg.params import MethodParams
from sdpg.params.lora import LoraParams
from sdpg.params.train import TrainParams
from sdpg.training.update import Task, accumulate_gradients


@dataclass(frozen=True)
class Setting:
    """A random Qwen3 and the rollouts of an update: all of one length, half of them with an open gate."""

    hidden_size: int = 128
    intermediate_size: int = 384
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocabulary: int = 4096
    tied: bool = True
    dtype: str = "float32"
    checkpointing: bool = False
    foreach: bool = False
    rows: int = 8
    prompt: int = 32
    hint: int = 32
    response: int = 97
    tokens_per_micro_batch: int = 512
    head_bytes: int = 4 << 20
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = ()
    """The modules that get an adapter; empty: all linear modules."""
    teacher: Literal["current", "ema"] = "current"


class _Peaks:
    """The peaks of nested parts: the counter has one peak, which each part resets."""

    def __init__(self, memory: PeakMemory) -> None:
        self.memory = memory
        self.parts: dict[str, int] = {}
        self.before: dict[str, int] = {}
        self._overall = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        before, outer = self.memory.live, max(self._overall, self.memory.peak)
        self.memory.reset_peak()
        self._overall = 0
        yield
        peak = max(self._overall, self.memory.peak)
        self.parts[name] = max(self.parts.get(name, 0), peak - before)
        self.before[name] = max(self.before.get(name, 0), before)
        self._overall = max(outer, peak)


def make_model(setting: Setting) -> Any:
    """Returns a random float32 model."""
    config = Qwen3Config(
        vocab_size=setting.vocabulary, hidden_size=setting.hidden_size, intermediate_size=setting.intermediate_size,
        num_hidden_layers=setting.layers, num_attention_heads=setting.heads, num_key_value_heads=setting.kv_heads,
        head_dim=setting.head_dim, max_position_embeddings=65536, tie_word_embeddings=setting.tied, eos_token_id=1,
        pad_token_id=0, bos_token_id=None, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config)


def make_experience(setting: Setting) -> Experience:
    """Returns rows in groups of four, two of which are right."""
    count = setting.rows
    advantages = torch.tensor([1.0, -1.0] * (count // 2), dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[int]:
        return torch.randint(2, setting.vocabulary, (length,), generator=draw).tolist()

    prompts = [ids(setting.prompt) for _ in range(count)]
    return Experience(
        problem_ids=["p"] * count, student_prompts=prompts, teacher_prompts=[ids(setting.hint) + p for p in prompts],
        responses=[ids(setting.response) for _ in range(count)], rollout_logprobs=[[]] * count, advantages=advantages,
        gates=(advantages > 0).double(),
    )  # fmt: skip


def measure(setting: Setting) -> dict[str, int]:
    """Returns bytes: what stays (weights of all models, gradients, optimiser), and the peaks of passes beyond it."""
    sizes: dict[str, int] = {}
    with PeakMemory() as memory:
        student = make_model(setting)
        if setting.lora_rank:
            targets: Any = list(setting.lora_targets) or "all-linear"
            add_adapter(student, LoraParams(rank=setting.lora_rank, alpha=setting.lora_rank, target_modules=targets), 0)
        sizes["weights"] = memory.live
        if setting.checkpointing:
            student.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            student.train()
        reference = WithoutAdapter(student) if setting.lora_rank else make_model(setting).requires_grad_(False)
        sizes["reference"] = memory.live - sizes["weights"]
        method = MethodParams(
            title="SDPG-UFKL", outcome="reinforce", distillation="kl_student_teacher", reference="ufkl",
            teacher=setting.teacher,
        )  # fmt: skip
        before, kept = memory.live, None
        if setting.teacher == "ema":
            model = None if setting.lora_rank else make_model(setting).requires_grad_(False)
            kept = TeacherWeights(method, student, model, 0.0)
        sizes["teacher_weights"] = memory.live - before
        optimizer = torch.optim.AdamW(trainable(student), lr=1e-6, foreach=setting.foreach)
        policies = Policies(
            student, reference, 0, 1.0, getattr(torch, setting.dtype), setting.head_bytes, line_tokens=0,
            teacher_weights=kept,
        )  # fmt: skip
        train = TrainParams(responses_per_prompt=4, tokens_per_micro_batch=setting.tokens_per_micro_batch)
        task = Task(
            policies, make_experience(setting), method, Coefficients(1e-3, 1e-3, 0.0), train, setting.response,
            Path("not-finite.json"),
        )  # fmt: skip
        peaks = _Peaks(memory)
        _instrument(peaks, student)

        before = memory.live
        with peaks.part("first"):
            accumulate_gradients(task, range(setting.rows))
        sizes["gradients"] = memory.live - before
        before = memory.live
        optimizer.step()
        sizes["optimiser"] = memory.live - before
        # The second update is like all but a run's first: gradients and moments exist already.
        peaks.parts.clear()
        with peaks.part("passes"):
            accumulate_gradients(task, range(setting.rows))
        with peaks.part("step"):
            torch.nn.utils.clip_grad_norm_(trainable(student), 1.0)
            optimizer.step()
    return sizes | peaks.parts


def _instrument(peaks: _Peaks, student: Any) -> None:
    """Makes the counter measure the teacher's passes, what the student's forward pass keeps, and the head."""
    fused_head, privileged = policies_module.fused_head, Policies.privileged
    start = {"live": 0}

    def measured_privileged(*arguments: Any, **options: Any) -> Any:
        with peaks.part("teacher"):
            result = privileged(*arguments, **options)
        start["live"] = peaks.memory.live
        return result

    def measured_head(hidden: Any, *arguments: Any, **options: Any) -> Any:
        name = "head" if torch.is_grad_enabled() else "reference_head"
        if name == "head":
            kept = peaks.memory.live - start["live"]
            peaks.parts["kept"] = max(peaks.parts.get("kept", 0), kept)
        with peaks.part(name):
            return fused_head(hidden, *arguments, **options)

    Policies.privileged = measured_privileged  # pyright: ignore[reportAttributeAccessIssue]
    policies_module.fused_head = measured_head


def main() -> None:
    """Prints each setting with its measurements."""
    torch.set_num_threads(1)
    settings = [Setting(**json.loads(argument)) for argument in sys.argv[1:] or ["{}"]]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for setting, found in zip(settings, pool.imap(measure, settings), strict=True):
            print(json.dumps({"setting": asdict(setting), "bytes": found}))


if __name__ == "__main__":
    main()
