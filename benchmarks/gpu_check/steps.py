"""Training steps on made-up rollouts: all that the check uses of the trainer, the models and the objective.

A step is the trainer's own, from rollouts to records. Only what is sampled, and what the verifier says of it, is made
up: texts of random letters, of which every other one is right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
import random
import time
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.gpu_check.checks import PROJECT
from sdpg.models.adapters import WithoutAdapter, add_adapter
from sdpg.models.columns import TokenColumn
from sdpg.models.distribution import checkpoint_activations, shard
from sdpg.models.experience import Experience, Rollouts
from sdpg.models.passes import Policies
from sdpg.models.ranks import SOLO, Ranks, whole
from sdpg.params import PARAMS_FILE, Params, parse_params, read_yaml
from sdpg.params.configure import merge, read_overlay
from sdpg.params.lora import LoraParams
from sdpg.planning.shapes import Shape
from sdpg.problems.prompts import PreparedRow
from sdpg.problems.token_pieces import TokenPieces
from sdpg.problems.tokenizer import train_tokenizer
from sdpg.records.schemas import write_rollouts
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.rollouts import Completion, Sampling
from sdpg.training.checkpoints import save_checkpoint
from sdpg.training.rollout_rows import rollout_rows, token_columns
from sdpg.training.step_log import Stopwatch
from sdpg.training.steps import Sampled, Step, Update
from sdpg.training.trainer import DTYPES, Trainer

LETTERS = "abcdefghijklmnopqrstuvwxyz 0123456789"
__all__ = [
    "DTYPES", "SOLO", "LoraParams", "Made", "Shape", "build_records", "changed_params", "checkpoint_activations",
    "count_passes", "letters_tokenizer", "make", "random_model", "save_checkpoint", "shard", "whole",
]  # fmt: skip


def letters_tokenizer() -> Any:
    """A tokenizer of single bytes, with the special tokens of the pipeline's."""
    return train_tokenizer([], 259)


def random_model(shape: Shape, device: torch.device | str, spread: float = 0.02) -> Any:
    """A Qwen3 with random float32 weights, made on its device."""
    config = Qwen3Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden_size, intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim, max_position_embeddings=shape.context or 40_960, tie_word_embeddings=shape.tied,
        eos_token_id=1, pad_token_id=0, bos_token_id=None, initializer_range=spread, dtype="float32",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3ForCausalLM(config)


def changed_params(preset: str, train: dict[str, Any], max_tokens: int, methods: Sequence[str] = ()) -> Params:
    """params.yaml under a preset, with other values of ``train``, another limit of a response, and other methods."""
    tree = read_yaml(PROJECT / PARAMS_FILE)
    merge(tree, read_overlay("preset", preset, PROJECT))
    # In two updates of a batch shows all that eight would.
    tree["train"]["updates_per_batch"] = min(2, tree["train"]["updates_per_batch"])
    tree["train"] |= {"lora": None, "distributed": {"processes": 1, "strategy": "none", "config": None}} | train
    tree["rollout"]["max_tokens"] = max_tokens
    tree["run"]["methods"] = list(methods) or tree["run"]["methods"]
    return parse_params(tree, str(PARAMS_FILE))


class MadeUpEngine:
    """Answers in random letters, as long as the limit or, ragged, up to it."""

    def __init__(self, tokenizer: Any, ragged: bool) -> None:
        self.letters = tokenizer(LETTERS)["input_ids"]
        self.end, self.ragged = tokenizer.eos_token_id, ragged

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda done: None,
    ) -> list[Completion]:
        """One response for each prompt, which depends on the seed alone."""
        source = random.Random(sampling.seed)
        found = []
        for _ in prompts:
            length = source.randint(1, sampling.max_tokens) if self.ragged else sampling.max_tokens
            ids = [*source.choices(self.letters, k=length - 1), self.end]
            found.append(Completion(ids, [source.uniform(-6.0, -0.5) for _ in ids], False))
        return found

    def sync_weights(self) -> None:
        """There is no copy of the weights."""

    def rest(self) -> None:
        """There is no memory to give back."""


class MadeUpScorer:
    """Finds the first ``all_right`` responses right, and then every other one."""

    name, version = "made-up", "1"

    def __init__(self, all_right: int) -> None:
        self.all_right = all_right

    def score(self, completions: Sequence[str], golds: Sequence[str], truncated: Sequence[bool]) -> list[Verdict]:
        """By their places."""
        right = [place % 2 == 0 or place < self.all_right for place in range(len(completions))]
        return [Verdict(Status.CORRECT, "1", 1.0) if one else Verdict(Status.WRONG, "2", -1.0) for one in right]


@dataclass
class Made:
    """A trainer with what its optimiser saw.

    Attributes:
        trainer: the pipeline's.
        gradients: of each update, as one vector on the CPU; nothing unless they were asked for.
        before_step: called right before each step of the optimiser.
    """

    trainer: Trainer
    keep_gradients: bool = False
    gradients: list[Tensor] = field(default_factory=list)
    before_step: Callable[[], object] = lambda: None

    def __post_init__(self) -> None:
        self.trainer.optimizer.register_step_pre_hook(self._look)

    def _look(self, *_: Any) -> None:
        self.before_step()
        if self.keep_gradients:
            parts = [whole(p.grad).double().flatten().cpu() for p in self.trainer.trained if p.grad is not None]
            self.gradients.append(torch.cat(parts))

    def step(self, number: int) -> tuple[dict[str, float | None], dict[str, float]]:
        """One training step: its metrics, and the seconds of its parts."""
        watch = Stopwatch()
        metrics = self.trainer.step(number, watch)
        self.trainer.records.flush()
        return metrics, watch.seconds

    @property
    def weights(self) -> dict[str, Tensor]:
        """Whole, on the CPU, by name."""
        named = self.trainer.policies.student.named_parameters()
        return {name: whole(value.detach()).cpu() for name, value in named}


def make(
    params: Params,
    method: str,
    student: Any,
    reference: Any,
    folder: Path,
    *,
    prompt: int = 12,
    hint: int = 9,
    ragged: bool = True,
    all_right: bool = True,
    keep_gradients: bool = False,
    ranks: Ranks = SOLO,
) -> Made:
    """A trainer whose rollouts are made up.

    Args:
        params: of the run.
        method: its name.
        student: the model to train; with ``train.lora`` it gets its adapter here.
        reference: the frozen model; None for the student without its adapter.
        folder: for records and checkpoints.
        prompt: tokens of a student's prompt.
        hint: tokens that a teacher's prompt has in addition.
        all_right: all responses to the first problem are right; to the others every other one is.
        ragged: responses of all lengths up to the limit, instead of that length.
        keep_gradients: of each update.
        ranks: the processes.
    """
    train, tokenizer, source = params.train, letters_tokenizer(), random.Random(1)
    if train.lora:
        add_adapter(student, train.lora, 0)
        reference = WithoutAdapter(student)

    def text(length: int) -> str:
        return "".join(source.choices(LETTERS, k=length))

    problems = []
    for number in range(train.prompts_per_step):
        asked = text(prompt)
        problems.append(
            PreparedRow(f"p{number}", asked, "1", "", "made up", asked, text(hint) + asked, prompt, prompt + hint)
        )
    policies = Policies(
        student, reference, tokenizer.pad_token_id, params.rollout.temperature, DTYPES[train.dtype],
        train.head_megabytes << 20, train.line_tokens, ranks,
    )  # fmt: skip
    trainer = Trainer(
        params=params, name=method, method=params.methods[method], seed=0, state=folder, policies=policies,
        tokenizer=tokenizer, engine=MadeUpEngine(tokenizer, ragged),
        verifier=MadeUpScorer(train.responses_per_prompt if all_right else 0), problems=problems, sets={},
        base_accuracies={},
    )  # fmt: skip
    return Made(trainer, keep_gradients)


def build_records(count: int, tokens: int, path: Path) -> tuple[float, float]:
    """Makes the rows of a step's records and writes them; the seconds of either.

    Args:
        count: of responses, eight to a problem.
        tokens: of each.
        path: of the file.
    """
    tokenizer, source = letters_tokenizer(), random.Random(2)
    letters = tokenizer(LETTERS)["input_ids"]
    responses = [[*source.choices(letters, k=tokens - 1), tokenizer.eos_token_id] for _ in range(count)]
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in responses]
    numbers = {row: [source.uniform(-6.0, 0.0) for _ in range(tokens)] for row in range(count)}
    rollouts = Rollouts(
        problem_ids=["p"] * count, student_prompts=[[3]] * count, teacher_prompts=[[3]] * count, responses=responses,
        rollout_logprobs=list(numbers.values()),
    )  # fmt: skip
    credit = torch.ones(count, dtype=torch.float64)
    column = TokenColumn.of(numbers)
    sampled_rows = TokenColumn.of({row: numbers[row] for row in range(min(16, count))})
    names = ("logprob", "entropy", "ref_logprob", "teacher_logprob", "kl_to_teacher")
    diagnosed: dict[str, TokenColumn] = dict.fromkeys(names, sampled_rows)
    update = Update(0.0, 0.0, 0.0, dict.fromkeys(("logprob", "entropy", "weight", "loss"), column))
    identity = {"run": "grpo-0", "method": "grpo", "seed": 0, "step": 1, "verifier": "made-up", "verifier_version": "1"}
    problems = [
        PreparedRow(f"p{place}", "1+1", "2", "", "made up", "1+1", "2: 1+1", 3, 6) for place in range(count // 8)
    ]
    verdicts = [Verdict(Status.CORRECT, "2", 1.0)] * count
    sampled = Sampled(problems, rollouts, texts, [False] * count)
    step = Step(sampled, verdicts, Experience(**vars(rollouts), advantages=credit, gates=credit), update, diagnosed)
    pieces = TokenPieces(tokenizer)
    start = time.perf_counter()
    rows, columns = rollout_rows(step, identity), token_columns(step, pieces)
    built = time.perf_counter()
    write_rollouts(path, rows, columns)
    return built - start, time.perf_counter() - built


def count_passes(model: Any) -> dict[str, int]:
    """Counts from now on the model's passes with gradient: one for each micro-batch."""
    counts = {"passes": 0}

    def look(*_: Any) -> None:
        counts["passes"] += torch.is_grad_enabled()

    model.base_model.register_forward_pre_hook(look)
    return counts
