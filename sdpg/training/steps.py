"""The values that the stages of a training step pass on: sample → verify → credit → update → write; each is frozen.

Axes: P prompts, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
import random
from typing import Any

from sdpg.models.columns import TokenColumn
from sdpg.models.experience import Experience, Rollouts
from sdpg.params import RewardParams
from sdpg.problems.prompts import PreparedRow
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.seeds import derive_seed


@dataclass(frozen=True)
class Sampled:
    """The responses of a step, before they are verified.

    Attributes:
        problems: (P) the step's problems.
        rollouts: (B) prompts and responses as token ids.
        texts: (B) the responses, decoded without special tokens.
        truncated: (B) whether the response ended without an end-of-sequence token.
    """

    problems: list[PreparedRow]
    rollouts: Rollouts
    texts: list[str]
    truncated: list[bool]

    def with_group(self, place: int, other: "Sampled", at: int) -> "Sampled":
        """Returns the same with one group, at ``place``, taken from another's place ``at``."""
        siblings = len(self.texts) // len(self.problems)
        here, there = (slice(group * siblings, (group + 1) * siblings) for group in (place, at))

        def joined(ours: list[Any], theirs: list[Any]) -> list[Any]:
            return [*ours[: here.start], *theirs[there], *ours[here.stop :]]

        parts = {name: joined(ours, getattr(other.rollouts, name)) for name, ours in vars(self.rollouts).items()}
        problems = [*self.problems[:place], other.problems[at], *self.problems[place + 1 :]]
        return Sampled(
            problems, Rollouts(**parts), joined(self.texts, other.texts), joined(self.truncated, other.truncated)
        )


@dataclass(frozen=True)
class Update:
    """The optimiser updates of one rollout batch.

    Attributes:
        loss: the mean loss over the updates.
        grad_norm: the mean gradient norm over the updates, before clipping.
        lr: the learning rate.
        columns: the per-token values of the passes with gradient; the first rank has those of all ranks; see
            :class:`sdpg.training.update.Accumulated`.
    """

    loss: float
    grad_norm: float
    lr: float
    columns: dict[str, TokenColumn]


@dataclass(frozen=True)
class Step:
    """A finished step; metrics and records read it on the first rank.

    Attributes:
        sampled: the responses.
        verdicts: (B) the verifier's verdicts.
        experience: (B) rollouts with advantages and gates.
        update: the optimiser updates made with them.
        diagnosed: per-token values of sampled rollouts, gate open or not; see :mod:`sdpg.training.diagnostics`.
        kept: (B) whether the rollout's reward counts in its group; None if all do.
    """

    sampled: Sampled
    verdicts: list[Verdict]
    experience: Experience
    update: Update
    diagnosed: dict[str, TokenColumn]
    kept: list[bool] | None = None

    @property
    def siblings(self) -> int:
        """Returns the number of responses per prompt, G."""
        return len(self.sampled.texts) // len(self.sampled.problems)

    @cached_property
    def rollout_logprob(self) -> TokenColumn:
        """The sampler's log-prob of each response token, of all rollouts."""
        return TokenColumn.of(dict(enumerate(self.experience.rollout_logprobs)))

    @property
    def columns(self) -> tuple[dict[str, TokenColumn], dict[str, TokenColumn]]:
        """Returns the per-token values of the update and those of the diagnostic pass."""
        return self.update.columns, self.diagnosed


def kept_rollouts(verdicts: Sequence[Verdict], reward: RewardParams) -> list[bool]:
    """Returns for each rollout whether its reward counts in its group's mean and standard deviation.

    A verifier that failed says nothing of the answer: such a rollout leaves them, unless ``reward.on_failure`` is
    ``wrong``.
    """
    return [reward.on_failure == "wrong" or verdict.status is not Status.TIMEOUT for verdict in verdicts]


def step_prompts(count: int, per_step: int, step: int, seed: int) -> list[int]:
    """Returns the indices of step k's problems, of ``count``: each epoch has an order of its own and is cut into steps.

    The order depends on the seed alone, so that methods see the same problems at the same step.
    """
    places = (divmod(place, count) for place in range((step - 1) * per_step, step * per_step))
    return [_epoch_order(count, seed, epoch)[position] for epoch, position in places]


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> list[int]:
    return shuffled(count, derive_seed(seed, "epoch", epoch))


def shuffled(count: int, seed: int) -> list[int]:
    """Returns the numbers below ``count`` in an order that the seed alone decides."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def refill(
    sampled: Sampled,
    verdicts: list[Verdict],
    spare: Sequence[PreparedRow],
    rounds: int,
    sample: Callable[[list[PreparedRow], int], Sampled],
    verify: Callable[[Sampled], list[Verdict]],
) -> tuple[Sampled, list[Verdict], float]:
    """Replaces groups of equal rewards by groups of other problems, DAPO's dynamic sampling (arXiv 2503.14476).

    Args:
        sampled: the step's responses.
        verdicts: their verdicts.
        spare: further problems, in the order in which they are taken; those of the step are left out.
        rounds: the number of rounds; what is still of equal rewards after the last stays as it was first sampled.
        sample: a function from problems and the round's number, from 1 on, to responses.
        verify: a function from responses to their verdicts.

    Returns:
        Responses, verdicts, and the number of groups that were replaced.
    """
    count, verdicts, replaced = len(sampled.problems), list(verdicts), 0
    siblings = len(verdicts) // count
    used = {row.id for row in sampled.problems}
    left = iter([row for row in spare if row.id not in used])
    for number in range(1, rounds + 1):
        empty = [group for group in range(count) if _is_uniform(verdicts, group, siblings)]
        if not (chosen := list(islice(left, len(empty)))):
            break
        more = sample(chosen, number)
        judged = verify(more)
        useful = [group for group in range(len(chosen)) if not _is_uniform(judged, group, siblings)]
        for place, group in zip(empty, useful, strict=False):
            sampled = sampled.with_group(place, more, group)
            verdicts[place * siblings : (place + 1) * siblings] = judged[group * siblings : (group + 1) * siblings]
        replaced += len(useful)
    return sampled, verdicts, float(replaced)


def _is_uniform(verdicts: Sequence[Verdict], group: int, siblings: int) -> bool:
    return len({verdict.reward for verdict in verdicts[group * siblings : (group + 1) * siblings]}) < 2
