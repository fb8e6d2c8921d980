"""Puts ragged prompt–response pairs into padded batches, with the positions of the response tokens.

Siblings may share a line: their prompt is read once, and each response behind it sees the prompt and itself only. The
result is the same to rounding, with fewer tokens.

Axes: B lines, L padded length, R responses, N response tokens of the batch (all responses joined, in their order),
V vocabulary, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Line = list[int]
"""The indices of the responses on one line, behind the prompt that they share."""


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded lines. Under causal attention no token sees the padding behind it.

    The last token of a response is not part of the input: its state would predict a token that nobody needs.

    Attributes:
        input_ids: (B, L) prompt and response ids, padded at the right.
        owners: (N,) the index of the response to which each response token belongs.
        rows: (N,) the line of the hidden state that predicts the token.
        positions: (N,) the position on the line of the hidden state that predicts the token.
        targets: (N,) the response token ids.
        position_ids: (B, L) each token's position in its own sequence; None where it equals the position on the line.
        mask: (B, 1, L, L) bool, whether a token (first L) sees another (second L); None where it sees all before it.
    """

    input_ids: Tensor
    owners: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    position_ids: Tensor | None = None
    mask: Tensor | None = None


def token_batch(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
    lines: Sequence[Line] | None = None,
) -> TokenBatch:
    """Joins prompts with their responses; neither may be empty.

    Args:
        prompts: (R) the prompt of each response, as token ids.
        responses: (R) the responses, as token ids.
        pad_id: the id of the padding token.
        device: the device of the tensors.
        lines: the responses that share each line, in the order of the responses; None gives each a line of its own.
    """
    pairs = list(zip(prompts, responses, strict=True))
    lines = [[index] for index in range(len(pairs))] if lines is None else lines
    ids: list[list[int]] = []
    segments: list[list[int]] = []
    places: list[list[int]] = []
    owners, rows, positions, targets = [], [], [], []
    for row, members in enumerate(lines):
        prompt = list(pairs[members[0]][0])
        line, segment, place = list(prompt), [0] * len(prompt), list(range(len(prompt)))
        for number, index in enumerate(members, 1):
            response = list(pairs[index][1])
            # The state at the last prompt token predicts the first response token.
            positions += [len(prompt) - 1, *range(len(line), len(line) + len(response) - 1)]
            owners += [index] * len(response)
            rows += [row] * len(response)
            targets += response
            line += response[:-1]
            segment += [number] * (len(response) - 1)
            place += range(len(prompt), len(prompt) + len(response) - 1)
        ids.append(line)
        segments.append(segment)
        places.append(place)
    longest = max(map(len, ids))

    def padded(values: list[list[int]], fill: int) -> list[int]:
        return [number for line in values for number in (*line, *[fill] * (longest - len(line)))]

    shared = any(len(members) > 1 for members in lines)
    # Padding is a segment of its own, so that each of its tokens sees at least itself.
    grids = [padded(ids, pad_id)] + ([padded(places, 0), padded(segments, -1)] if shared else [])
    parts = [*grids, owners, rows, positions, targets]
    # All at once, and without a wait for a GPU's other work.
    joined = torch.tensor([number for part in parts for number in part]).to(device, non_blocking=True)
    *tables, owned, row_of, position_of, target = joined.split([len(part) for part in parts])
    tables = [table.view(len(ids), longest) for table in tables]
    position_ids = mask = None
    if shared:
        position_ids, segment = tables[1:]
        seen = (segment.unsqueeze(1) == 0) | (segment.unsqueeze(1) == segment.unsqueeze(2))
        mask = seen.tril().unsqueeze(1)
    return TokenBatch(tables[0], owned, row_of, position_of, target, position_ids, mask)


def shared_lines(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], limit: int) -> list[Line]:
    """Puts neighbours with the same prompt on one line of at most ``limit`` tokens; with 0, no line is shared."""
    lines: list[Line] = []
    length = 0
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        more = len(response) - 1
        if lines and list(prompts[lines[-1][0]]) == list(prompt) and length + more <= limit:
            lines[-1].append(index)
            length += more
        else:
            lines.append([index])
            length = len(prompt) + more
    return lines


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Groups line indices by similar length so that lines × longest line stays within the budget.

    A line longer than the budget forms a group of its own. Every index occurs exactly once.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # Lengths fall, so the first member of a group is its longest.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= token_budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Deals line indices to ranks: the longest first, each to the rank with the fewest tokens; each index occurs once.

    A rank's indices are in rising order, so that a single rank gets all of them in the given order.
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += lengths[index]
    return [sorted(share) for share in shares]
