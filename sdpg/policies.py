"""The models that a step reads, and how they are read.

Axes: B sequences, N response tokens of a batch, M of them scored by the teacher, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdpg.batches import TokenBatch
from sdpg.experience import Experience
from sdpg.fused_head import Teacher, TokenLoss, TokenValues, fused_head
from sdpg.models import response_hidden, with_head
from sdpg.params import MethodParams, TrainParams


@dataclass
class Policies:
    """Student and reference, with the settings of their forward passes.

    Attributes:
        student: the policy being trained.
        reference: π_ref, the frozen initial weights; None where neither losses nor records read it.
        pad_id: padding token.
        temperature: of the sampling distribution, by which student and reference logits are divided.
        dtype: of the forward passes; softmax, KL and sums are float32 whatever it is.
        head_bytes: for the logits of a chunk of tokens; see :func:`sdpg.fused_head.fused_head`.
        line_tokens: siblings share their prompt on lines of up to so many tokens; 0: never.
    """

    student: Any
    reference: Any
    pad_id: int
    temperature: float
    dtype: torch.dtype = torch.float32
    head_bytes: int = 64 << 20
    line_tokens: int = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Of every forward pass."""
        return torch.autocast(self.student.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    def batches(
        self, experience: Experience, rows: Sequence[int], prompts: list[list[int]], budget: int
    ) -> Iterator[tuple[list[int], TokenBatch]]:
        """Micro-batches of at most ``budget`` padded tokens, each with its rows in the order of its tokens."""
        for lines in experience.micro_batches(rows, prompts, budget, self.line_tokens):
            batch = experience.batch(lines, prompts, self.pad_id, self.student.device)
            yield [row for line in lines for row in line], batch

    def read(
        self,
        model: Any,
        batch: TokenBatch,
        token_loss: TokenLoss | None = None,
        teacher: Teacher | None = None,
        temperature: float | None = None,
    ) -> tuple[Tensor, TokenValues]:
        """One forward pass: the loss (0 without ``token_loss``) and the values of the batch's response tokens."""
        values: list[TokenValues] = []

        def head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            loss, found = fused_head(
                hidden, weight, bias, batch.targets, token_loss, memory_bytes=self.head_bytes, teacher=teacher,
                temperature=self.temperature if temperature is None else temperature,
            )  # fmt: skip
            values.append(found)
            return loss

        with self.autocast():
            loss = with_head(model, batch, head)
        return loss, values[0]

    def teacher(self, method: MethodParams) -> Any:
        """The model that plays the privileged teacher."""
        return self.student if method.teacher == "current" else self.reference

    def teacher_temperature(self, train: TrainParams) -> float:
        """D12: the teacher's logits are divided by the sampling temperature, or by 1."""
        return self.temperature if train.teacher_temperature == "same" else 1.0

    @torch.no_grad()
    def privileged(
        self, experience: Experience, tokens: dict[int, Tensor], method: MethodParams, train: TrainParams
    ) -> Teacher | None:
        """The teacher's pass over some rows under their privileged prompts; None for no rows.

        Args:
            experience: the rollouts.
            tokens: row → which tokens of the student's batch are its response.
            method: whose weights play the teacher, and the divergence.
            train: its temperature, and the budget of a micro-batch.
        """
        model = self.teacher(method)
        order: list[Tensor] = []
        hidden: list[Tensor] = []
        budget = train.tokens_per_micro_batch
        for members, batch in self.batches(experience, list(tokens), experience.teacher_prompts, budget):
            with self.autocast():
                hidden.append(response_hidden(model, batch))
            order += [tokens[row] for row in members]
        if not order:
            return None
        return Teacher(
            torch.cat(order),
            torch.cat(hidden),
            head=None if model is self.student else model.get_output_embeddings(),
            temperature=self.teacher_temperature(train),
            divergence=None if method.distillation == "none" else method.distillation,
            jsd_beta=method.jsd_beta,
        )

    @torch.no_grad()
    def sampled_logprobs(
        self,
        model: Any,
        experience: Experience,
        rows: Sequence[int],
        prompts: list[list[int]],
        budget: int,
        temperature: float | None = None,
    ) -> dict[int, Tensor]:
        """Log-probs of the sampled response tokens, row → (T,), without gradient."""
        found: dict[int, Tensor] = {}
        for members, batch in self.batches(experience, rows, prompts, budget):
            _, values = self.read(model, batch, temperature=temperature)
            parts = values.logprobs.split([len(experience.responses[i]) for i in members])
            found.update(zip(members, parts, strict=True))
        return found
