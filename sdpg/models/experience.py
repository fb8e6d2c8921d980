"""A step's rollouts as the passes read them, and with the credit that the losses give them.

Axes: P prompts, G responses per prompt, B = P·G sequences, T response tokens of one sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sdpg.models.batches import Line, TokenBatch, deal, micro_batches, shared_lines, token_batch
from sdpg.models.columns import TokenColumn, cut_columns


@dataclass(frozen=True)
class Rollouts:
    """The sampled responses of one step; siblings of a prompt stand side by side.

    Attributes:
        problem_ids: (B) names, for error messages.
        student_prompts: (B) token ids.
        teacher_prompts: (B) token ids; empty for a rollout that the teacher does not read, as it has no hint.
        responses: (B) token ids, EOS included.
        rollout_logprobs: (B) the sampler's log-prob of each response token.
        ended: (B) whether the last token ends the response, as it does unless the response was cut; None if unknown.
    """

    problem_ids: list[str]
    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]]
    responses: list[list[int]]
    rollout_logprobs: list[list[float]]
    ended: list[bool] | None = field(default=None, kw_only=True)

    def micro_batches(
        self, rows: Sequence[int], prompts: list[list[int]], budget: int, line_tokens: int
    ) -> list[list[Line]]:
        """Returns lines of rows (see :mod:`sdpg.models.batches`), similar lengths together, within the token budget."""
        return self.dealt_micro_batches(rows, prompts, budget, line_tokens, 1)[0]

    def dealt_micro_batches(
        self, rows: Sequence[int], prompts: list[list[int]], budget: int, line_tokens: int, ranks: int
    ) -> list[list[list[Line]]]:
        """Returns the micro-batches of each rank, which together hold every row once."""
        responses = [self.responses[i] for i in rows]
        lines = shared_lines([prompts[i] for i in rows], responses, min(line_tokens, budget))
        lengths = [len(prompts[rows[line[0]]]) + sum(len(responses[i]) - 1 for i in line) for line in lines]
        return [
            [
                [[rows[i] for i in lines[share[at]]] for at in group]
                for group in micro_batches([lengths[at] for at in share], budget)
            ]
            for share in deal(lengths, ranks)
        ]

    def token_places(self, rows: Sequence[int], device: Any) -> dict[int, Tensor]:
        """Returns row → the places of its response tokens where those of ``rows`` are joined in this order."""
        parts = torch.arange(sum(len(self.responses[i]) for i in rows), device=device)
        return dict(zip(rows, parts.split([len(self.responses[i]) for i in rows]), strict=True))

    def batch(self, lines: Sequence[Line], prompts: list[list[int]], pad_id: int, device: Any) -> TokenBatch:
        """Returns the rows of the lines, in their order, as one batch under student or teacher prompts."""
        rows = [row for line in lines for row in line]
        order = iter(range(len(rows)))
        local = [[next(order) for _ in line] for line in lines]
        return token_batch([prompts[i] for i in rows], [self.responses[i] for i in rows], pad_id, device, local)


@dataclass(frozen=True)
class Experience(Rollouts):
    """Rollouts with what was found out about them at the start of the step, ready to learn from.

    Attributes:
        advantages: (B,) float64.
        gates: (B,) float64.
        certainty: the mean of exp(−κ·H(q)) over the tokens that are distilled, where a gate divides by it.
        old_logprobs: (B) log π_old of each response token where it is not simply the current policy's.
        teacher_logprobs: (B) log q of each response token, where several updates need that of the start of the step;
            None for rollouts whose loss does not read it.
        contrast_logprobs: (B) the teacher's log-prob of each response token under a wrong hint, at the start of the
            step; None for rollouts that have no such hint or whose loss does not read it.
    """

    advantages: Tensor
    gates: Tensor
    certainty: float = 1.0
    old_logprobs: list[Tensor] | None = None
    teacher_logprobs: list[Tensor | None] | None = None
    contrast_logprobs: list[Tensor | None] | None = None

    def contrast_column(self) -> dict[str, TokenColumn]:
        """Returns ``contrast_logprobs`` as the column of that name of the records; nothing where no rollout has any."""
        found = {row: part for row, part in enumerate(self.contrast_logprobs or ()) if part is not None}
        lengths = [len(part) for part in found.values()]
        return cut_columns(list(found), lengths, {"contrast_logprob": torch.cat(list(found.values()))} if found else {})
