"""The models that a step reads, and how they are read.

Axes: B sequences, N response tokens of a batch, M of them scored by the teacher, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from sdpg.models.batches import TokenBatch, token_batch
from sdpg.models.experience import Rollouts
from sdpg.models.fused_head import Teacher, TokenLoss, TokenValues, fused_head
from sdpg.models.loading import hidden_and_head, response_hidden, with_head
from sdpg.models.ranks import SOLO, Ranks
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.divergences import divergence_of
from sdpg.objective.methods import reads_teacher_entropy
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams


@dataclass(frozen=True)
class Round:
    """A micro-batch of this rank, while each other rank has one of its own.

    Attributes:
        rows: whose tokens the batch holds, in their order; none where this rank has nothing left to do and passes
            through the model all the same, because sharded weights are gathered from all ranks at once.
        batch: the tokens; without rows, a single one that stands for nothing.
        everyone: the rows of each rank in this round.
        last: whether it is the last.
    """

    rows: list[int]
    batch: TokenBatch
    everyone: list[list[int]]
    last: bool


@dataclass
class Policies:
    """Student and reference, with the settings of their forward passes.

    Attributes:
        student: the policy being trained.
        reference: π_ref, the frozen initial weights: a model of their own, or
            :class:`sdpg.models.adapters.WithoutAdapter` of the student; None where neither losses nor records read it.
        pad_id: padding token.
        temperature: of the sampling distribution, by which student and reference logits are divided.
        dtype: of the forward passes; softmax, KL and sums are float32 whatever it is.
        head_bytes: for the logits of a chunk of tokens; see :func:`sdpg.models.fused_head.fused_head`.
        line_tokens: siblings share their prompt on lines of up to so many tokens; 0: never.
        ranks: the processes that the rows are dealt to.
        replica: what wraps the student in passes with gradient, so that these are summed over the ranks; None where
            nothing has to, or the student is sharded.
        teacher_weights: those of a teacher that is neither student nor reference; None where the method has no such
            teacher.
    """

    student: Any
    reference: Any
    pad_id: int
    temperature: float
    dtype: torch.dtype = torch.float32
    head_bytes: int = 64 << 20
    line_tokens: int = 0
    ranks: Ranks = SOLO
    replica: DistributedDataParallel | None = None
    teacher_weights: TeacherWeights | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context of every forward pass, which sets the type of its matrix products."""
        return torch.autocast(self.student.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)

    @property
    def trained(self) -> Any:
        """The student as passes with gradient call it: inside the replica where there is one."""
        return self.student if self.replica is None else self.replica

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Returns the context of a backward pass: replicas sum their gradients over the ranks in the last one alone."""
        return nullcontext() if self.replica is None or last else self.replica.no_sync()

    def rounds(self, rollouts: Rollouts, rows: Sequence[int], prompts: list[list[int]], budget: int) -> Iterator[Round]:
        """Deals rows to the ranks in micro-batches of at most ``budget`` padded tokens; as many rounds for each."""
        dealt = rollouts.dealt_micro_batches(rows, prompts, budget, self.line_tokens, self.ranks.size)
        count = max(map(len, dealt))
        for at in range(count):
            lines = [batches[at] if at < len(batches) else [] for batches in dealt]
            everyone = [[row for line in one for row in line] for one in lines]
            mine = lines[self.ranks.rank]
            batch = rollouts.batch(mine, prompts, self.pad_id, self.student.device) if mine else self.idle_batch()
            yield Round(everyone[self.ranks.rank], batch, everyone, at == count - 1)

    def idle_batch(self) -> TokenBatch:
        """Returns a batch of one dummy token, for a pass that an idle rank makes because other ranks make it."""
        return token_batch([[self.pad_id]], [[self.pad_id]], self.pad_id, self.student.device)

    def read(
        self,
        model: Any,
        batch: TokenBatch,
        token_loss: TokenLoss | None = None,
        teacher: Teacher | None = None,
        temperature: float | None = None,
        whole_responses: bool = False,
    ) -> tuple[Tensor, TokenValues]:
        """Makes one forward pass: returns the loss (0 without ``token_loss``) and the response tokens' values."""
        values: list[TokenValues] = []

        def head(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            loss, found = fused_head(
                hidden, weight, bias, batch.targets, token_loss, memory_bytes=self.head_bytes, teacher=teacher,
                temperature=self.temperature if temperature is None else temperature,
                whole_responses=whole_responses,
            )  # fmt: skip
            values.append(found)
            return loss

        with self.autocast():
            loss = with_head(model, batch, head)
        return loss, values[0]

    def teacher(self, method: MethodParams) -> Any:
        """Returns the model that plays the privileged teacher."""
        match method.teacher:
            case "current":
                return self.student
            case "reference":
                return self.reference
        assert self.teacher_weights is not None, "rules.keeps_teacher_weights says that this method has them"
        return self.teacher_weights.model

    def teacher_metrics(self, step: int) -> dict[str, float | None]:
        """Returns the metrics of a teacher with weights of its own, before a step's updates; all ranks call this."""
        return {} if self.teacher_weights is None else self.teacher_weights.metrics(step, self.ranks)

    def advance_teacher(self, step: int, accuracy: float | None) -> None:
        """Makes a teacher with weights of its own that of the next step; see :mod:`sdpg.models.teachers`."""
        if self.teacher_weights is not None:
            self.teacher_weights.advance(step, accuracy)

    def teacher_temperature(self, train: TrainParams) -> float:
        """Returns what the teacher's logits are divided by: the sampling temperature, or 1 (D12)."""
        return self.temperature if train.teacher_temperature == "same" else 1.0

    @torch.no_grad()
    def privileged(
        self,
        rollouts: Rollouts,
        tokens: dict[int, Tensor],
        everyone: Sequence[Sequence[int]],
        method: MethodParams,
        train: TrainParams,
    ) -> Teacher | None:
        """Makes the teacher's pass over some rows under their privileged prompts; returns None for no rows.

        Args:
            rollouts: the step's.
            tokens: row → which tokens of the student's batch are its response.
            everyone: the rows that each rank has the teacher read in this round, ``tokens`` being this rank's.
            method: whose weights play the teacher, and the divergence.
            train: its temperature, and the budget of a micro-batch.
        """
        model = self.teacher(method)
        shares_head = model.get_output_embeddings() is self.student.get_output_embeddings()
        order: list[Tensor] = []
        hidden: list[Tensor] = []
        head = None
        planned = [
            rollouts.micro_batches(rows, rollouts.teacher_prompts, train.tokens_per_micro_batch, self.line_tokens)
            for rows in everyone
        ]
        mine = planned[self.ranks.rank]
        for lines in mine:
            batch = rollouts.batch(lines, rollouts.teacher_prompts, self.pad_id, self.student.device)
            with self.autocast():
                if shares_head:
                    hidden.append(response_hidden(model, batch))
                else:
                    states, head = hidden_and_head(model, batch)
                    hidden.append(states)
            order += [tokens[row] for line in lines for row in line]
        for _ in range(max(map(len, planned)) - len(mine)):
            with self.autocast():
                response_hidden(model, self.idle_batch())
        if not order:
            return None
        return Teacher(
            torch.cat(order),
            torch.cat(hidden),
            head=head,
            temperature=self.teacher_temperature(train),
            divergence=divergence_of(method),
            with_entropy=reads_teacher_entropy(method),
        )

    def certainty(self, rollouts: Rollouts, rows: Sequence[int], method: MethodParams, train: TrainParams) -> float:
        """Returns the mean of exp(-κ·H(q)) over the tokens of some rollouts under their privileged prompts, or 1."""
        values = self._teacher_entropies(rollouts, rows, method, train)
        return (-method.gate_kappa * values).exp().mean().item() if len(values) else 1.0

    def teacher_entropy(self, rollouts: Rollouts, method: MethodParams, train: TrainParams) -> float:
        """Returns the median of H(q) over the tokens of all rollouts with a hint, in nats; 0 where none has one."""
        hinted = [row for row, prompt in enumerate(rollouts.teacher_prompts) if prompt]
        values = self._teacher_entropies(rollouts, hinted, method, train)
        return values.median().item() if len(values) else 0.0

    def _teacher_entropies(
        self, rollouts: Rollouts, rows: Sequence[int], method: MethodParams, train: TrainParams
    ) -> Tensor:
        """Returns H(q) of each response token of some rollouts under their privileged prompts, on the CPU."""
        entropies = self.sampled_logprobs(
            self.teacher(method), rollouts, rows, rollouts.teacher_prompts, train.tokens_per_micro_batch,
            self.teacher_temperature(train), "entropy",
        )  # fmt: skip
        return torch.cat([torch.zeros(0), *(entropies[row].cpu() for row in rows)]).double()

    @torch.no_grad()
    def sampled_logprobs(
        self,
        model: Any,
        rollouts: Rollouts,
        rows: Sequence[int],
        prompts: list[list[int]],
        budget: int,
        temperature: float | None = None,
        value: Literal["logprobs", "entropy"] = "logprobs",
    ) -> dict[int, Tensor]:
        """Returns log-probs of the sampled response tokens, or the entropy of the distributions that they come from.

        It is row → (T,), without gradient; all rows on every rank.
        """
        found: dict[int, Tensor] = {}
        for one in self.rounds(rollouts, rows, prompts, budget):
            _, values = self.read(model, one.batch, temperature=temperature)
            if one.rows:
                parts = getattr(values, value).split([len(rollouts.responses[i]) for i in one.rows])
                found.update(zip(one.rows, parts, strict=True))
        if self.ranks.size == 1:
            return found
        kind = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        # One copy for all, as each waits for the device.
        mine = torch.cat(list(found.values())).to("cpu", kind) if found else torch.zeros(0, dtype=kind)
        joined = self.ranks.rows(list(found), [len(values) for values in found.values()], mine)
        return {row: values.to(self.student.device) for row, values in joined.items()}
