"""What a step's rollouts are to the losses, and what the passes leave behind per token.

Axes: P prompts, G responses per prompt, B = P·G sequences, T response tokens of one sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
import math
from typing import Any

import torch
from torch import Tensor

from sdpg.models.batches import Line, TokenBatch, deal, micro_batches, shared_lines, token_batch
from sdpg.models.ranks import Ranks


@dataclass
class Experience:
    """The rollouts of one step, ready to learn from; siblings of a prompt stand side by side.

    Attributes:
        problem_ids: (B) names, for error messages.
        student_prompts: (B) token ids.
        teacher_prompts: (B) token ids.
        responses: (B) token ids, EOS included.
        rollout_logprobs: (B) the sampler's log-prob of each response token.
        advantages: (B,) float64.
        gates: (B,) float64.
        old_logprobs: (B) log π_old of each response token where it is not simply the current policy's.
        teacher_logprobs: (B) log q of each response token at the start of the step, where several updates need it.
    """

    problem_ids: list[str]
    student_prompts: list[list[int]]
    teacher_prompts: list[list[int]]
    responses: list[list[int]]
    rollout_logprobs: list[list[float]]
    advantages: Tensor
    gates: Tensor
    old_logprobs: list[Tensor] | None = None
    teacher_logprobs: list[Tensor | None] | None = None

    def micro_batches(
        self, rows: Sequence[int], prompts: list[list[int]], budget: int, line_tokens: int
    ) -> list[list[Line]]:
        """Lines of rows (see :mod:`sdpg.models.batches`), those of similar length together, within the budget."""
        return self.dealt_micro_batches(rows, prompts, budget, line_tokens, 1)[0]

    def dealt_micro_batches(
        self, rows: Sequence[int], prompts: list[list[int]], budget: int, line_tokens: int, ranks: int
    ) -> list[list[list[Line]]]:
        """The micro-batches of each rank, which together hold every row once."""
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
        """Row → the places of its response tokens where those of ``rows`` are joined in this order."""
        parts = torch.arange(sum(len(self.responses[i]) for i in rows), device=device)
        return dict(zip(rows, parts.split([len(self.responses[i]) for i in rows]), strict=True))

    def batch(self, lines: Sequence[Line], prompts: list[list[int]], pad_id: int, device: Any) -> TokenBatch:
        """The rows of the lines, in their order, under student or teacher prompts."""
        rows = [row for line in lines for row in line]
        order = iter(range(len(rows)))
        local = [[next(order) for _ in line] for line in lines]
        return token_batch([prompts[i] for i in rows], [self.responses[i] for i in rows], pad_id, device, local)


@dataclass
class Signals:
    """Per-token values of each row, filled by the passes that compute them: row → list of the response's length."""

    logprob: dict[int, list[float]] = field(default_factory=dict)
    entropy: dict[int, list[float]] = field(default_factory=dict)
    weight: dict[int, list[float]] = field(default_factory=dict)
    loss: dict[int, list[float]] = field(default_factory=dict)
    ratio: dict[int, list[float]] = field(default_factory=dict)
    clipped: dict[int, list[float]] = field(default_factory=dict)
    kl_gated: dict[int, list[float]] = field(default_factory=dict)
    ref_logprob: dict[int, list[float]] = field(default_factory=dict)

    def store(self, rows: Sequence[int], lengths: Sequence[int], **values: Tensor) -> None:
        """Cuts joined (N,) values into rows."""
        for name, tensor in values.items():
            parts = tensor.detach().float().cpu().split(list(lengths))
            getattr(self, name).update({row: part.tolist() for row, part in zip(rows, parts, strict=True)})

    def mean(self, name: str) -> float | None:
        """Mean over all stored tokens in row order, or None where nothing was stored."""
        stored = getattr(self, name)
        values = [value for row in sorted(stored) for value in stored[row]]
        return math.fsum(values) / len(values) if values else None

    def gathered(self, ranks: Ranks) -> "Signals":
        """Those of all ranks together."""
        return Signals(**{name: ranks.lists(stored) for name, stored in vars(self).items()})
