"""Computes group-relative advantages. Axes: P prompts, G responses per prompt."""

from typing import Literal

import torch
from torch import Tensor


def group_advantages(
    rewards: Tensor, std: Literal["population", "sample"], eps: float, kept: Tensor | None = None
) -> Tensor:
    """Returns A_i = (R_i - mean_G R) / (std_G R + ε), Eq. 2.1 of arXiv 2606.04036; exactly 0 in a group of equal
    rewards.

    Args:
        rewards: (P, G) the rewards, with G at least 2.
        std: the standard deviation over G (population) or with G-1 (sample).
        eps: ε_std, added outside the square root.
        kept: (P, G) which rewards are known, all of them by default. The others leave mean and standard deviation, and
            have advantage 0; so has a whole group in which fewer than two are known.

    Returns:
        (P, G) advantages.
    """
    rewards = rewards.double()
    if kept is not None and not kept.all():
        advantages = torch.zeros_like(rewards)
        for row, known in enumerate(kept):
            if known.sum() >= 2:
                advantages[row, known] = group_advantages(rewards[row, known][None], std, eps)[0]
        return advantages
    deviation = rewards.std(dim=1, correction=int(std == "sample"), keepdim=True)
    advantages = (rewards - rewards.mean(dim=1, keepdim=True)) / (deviation + eps)
    # Rounding in the mean must not turn a uniform group into one with tiny advantages of one sign.
    uniform = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(uniform, torch.zeros_like(advantages), advantages)
