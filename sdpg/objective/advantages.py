"""Computes group-relative advantages. Axes: P prompts, G responses per prompt."""

from typing import Literal, get_args

import torch
from torch import Tensor

Baseline = Literal["group", "leave_one_out", "batch"]
Deviation = Literal["population", "sample", "none", "batch"]


def group_advantages(
    rewards: Tensor, std: Deviation, eps: float, kept: Tensor | None = None, baseline: Baseline = "group"
) -> Tensor:
    """Returns A_i = (R_i - mean_G R) / (std_G R + ε), Eq. 2.1 of arXiv 2606.04036; exactly 0 in a group of equal
    rewards.

    Other baselines and divisors are those of RLOO (arXiv 2402.14740), REINFORCE++ (arXiv 2501.03262) and Dr. GRPO
    (arXiv 2503.20783).

    Args:
        rewards: (P, G) the rewards, with G at least 2.
        std: the standard deviation of the group, over G (population) or G-1 (sample); none, for no division; or batch,
            for (A - mean A)/(std A + ε) over all rollouts, of what the baseline leaves.
        eps: ε_std, added outside the square root.
        kept: (P, G) which rewards are known, all of them by default. The others leave mean and standard deviation, and
            have advantage 0; so has a whole group in which fewer than two are known.
        baseline: what is subtracted first: the mean of the group, that of a rollout's G-1 siblings, or that of all
            rollouts, which goes with ``std`` none or batch.

    Returns:
        (P, G) advantages, float64.

    Raises:
        ValueError: if ``std`` or ``baseline`` is none of these.
    """
    for name, value, allowed in (("std", std, Deviation), ("baseline", baseline, Baseline)):
        if value not in get_args(allowed):
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(get_args(allowed))}")
    rewards = rewards.double()
    kept = torch.ones_like(rewards, dtype=torch.bool) if kept is None else kept
    if baseline == "batch":
        advantages = _centred(rewards, kept)
    elif kept.all():
        advantages = _of_groups(rewards, std, eps, baseline)
    else:
        advantages = torch.zeros_like(rewards)
        for row, known in enumerate(kept):
            if known.sum() >= 2:
                advantages[row, known] = _of_groups(rewards[row, known][None], std, eps, baseline)[0]
    if std != "batch":
        return advantages
    centred = _centred(advantages, kept)
    return centred / (centred[kept].std(correction=0) + eps) if kept.any() else centred


def _of_groups(rewards: Tensor, std: Deviation, eps: float, baseline: Baseline) -> Tensor:
    """Returns the advantages of groups whose rewards are all known; ``std`` batch divides by nothing yet."""
    advantages = rewards - rewards.mean(dim=1, keepdim=True)
    if baseline == "leave_one_out":
        advantages = advantages * (rewards.shape[1] / (rewards.shape[1] - 1))
    if std in ("population", "sample"):
        advantages = advantages / (rewards.std(dim=1, correction=int(std == "sample"), keepdim=True) + eps)
    # Rounding in the mean must not turn a uniform group into one with tiny advantages of one sign.
    uniform = (rewards == rewards[:, :1]).all(dim=1, keepdim=True)
    return torch.where(uniform, torch.zeros_like(advantages), advantages)


def _centred(values: Tensor, kept: Tensor) -> Tensor:
    """Returns the differences of known values from their mean; 0 for the others, and where all are equal."""
    known = values[kept]
    if not len(known) or bool((known == known[0]).all()):
        return torch.zeros_like(values)
    return torch.where(kept, values - known.mean(), 0.0)
