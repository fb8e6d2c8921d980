"""Ragged prompt–response pairs as padded batches, with the places of the response tokens.

Axes: B sequences, L padded length, N response tokens of the batch (all rows joined), V vocabulary, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded sequences. Under causal attention the padding behind a token cannot reach it, so no mask is needed.

    Attributes:
        input_ids: (B, L) prompt and response ids, padded at the right.
        rows: (N,) which sequence each response token belongs to.
        positions: (N,) where in the sequence the hidden state stands that predicts the token.
        targets: (N,) the response token ids.
    """

    input_ids: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor


def token_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> TokenBatch:
    """Joins each prompt with its response. Prompts must not be empty."""
    sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    longest = max(map(len, sequences))
    padded = [sequence + [pad_id] * (longest - len(sequence)) for sequence in sequences]
    rows, positions, targets = [], [], []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        rows += [row] * len(response)
        # The state at the last prompt token predicts the first response token.
        positions += range(len(prompt) - 1, len(prompt) - 1 + len(response))
        targets += response
    return TokenBatch(
        input_ids=torch.tensor(padded, dtype=torch.long, device=device),
        rows=torch.tensor(rows, dtype=torch.long, device=device),
        positions=torch.tensor(positions, dtype=torch.long, device=device),
        targets=torch.tensor(targets, dtype=torch.long, device=device),
    )


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Groups sequence indices by similar length so that rows × longest row stays within the budget.

    A sequence longer than the budget forms a group of its own. Every index occurs exactly once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # Lengths fall, so the first member of a group is its longest.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
