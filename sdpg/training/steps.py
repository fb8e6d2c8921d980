"""The values that the stages of a training step pass on: sample → verify → credit → update → write; each is frozen.

Axes: P prompts, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import islice
import math
import random
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdpg.models.columns import TokenColumn
from sdpg.models.experience import Experience, Rollouts
from sdpg.objective.advantages import group_advantages
from sdpg.objective.coefficients import gate_of
from sdpg.objective.gates import group_credits
from sdpg.params import MethodParams, RewardParams
from sdpg.params.train import TrainParams
from sdpg.problems.hints import Group, Hint, HintDrawer
from sdpg.problems.prompts import PreparedRow
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.seeds import derive_seed

T = TypeVar("T")


@dataclass(frozen=True)
class Sampled:
    """The responses of a step, before they are verified.

    Attributes:
        problems: (P) the step's problems.
        rollouts: (B) prompts and responses as token ids.
        texts: (B) the responses, decoded without special tokens.
        truncated: (B) whether the response ended without an end-of-sequence token.
        hints: (B) what the teacher is shown; None where it is the prepared prompt of each problem.
        contrasts: the wrong hints of the teacher's further passes, (B) for each pass; None where there is none.
    """

    problems: list[PreparedRow]
    rollouts: Rollouts
    texts: list[str]
    truncated: list[bool]
    hints: list[Hint] | None = None
    contrasts: list[list[Hint]] | None = None

    @property
    def lengths(self) -> list[int]:
        """Returns the number of tokens of each response, (B)."""
        return [len(ids) for ids in self.rollouts.responses]

    def with_hints(self, drawer: HintDrawer, verdicts: Sequence[Verdict], step: int) -> "Sampled":
        """Returns the same with the hints of a step; the rollouts hold what each teacher is shown."""
        groups = Group.cut(self.problems, self.texts, self.lengths, verdicts)
        hints = drawer.draw(groups, step)
        rollouts = replace(self.rollouts, teacher_prompts=[hint.ids for hint in hints])
        return replace(self, rollouts=rollouts, hints=hints, contrasts=drawer.draw_contrast(groups, step))

    @property
    def shown_problems(self) -> list[PreparedRow]:
        """Returns the problems with what their rollouts' teachers were shown, joined, as their teacher prompt."""
        if self.hints is None:
            return self.problems
        size = len(self.texts) // len(self.problems)
        shown = [hint.prompt or "" for hint in self.hints]
        return [
            replace(problem, teacher_prompt="\n".join(dict.fromkeys(shown[at * size : (at + 1) * size])))
            for at, problem in enumerate(self.problems)
        ]

    def with_group(self, place: int, other: "Sampled", at: int) -> "Sampled":
        """Returns the same with one group, at ``place``, taken from another's place ``at``."""
        siblings = len(self.texts) // len(self.problems)
        here, there = (slice(group * siblings, (group + 1) * siblings) for group in (place, at))

        def joined(ours: list[Any], theirs: list[Any]) -> list[Any]:
            return [*ours[: here.start], *theirs[there], *ours[here.stop :]]

        given = {name: ours for name, ours in vars(self.rollouts).items() if ours is not None}
        parts = {name: joined(ours, getattr(other.rollouts, name)) for name, ours in given.items()}
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
        parts: rewards beside the verifier's, weighted, by name: (B) each; see :mod:`sdpg.rewards.parts`.
    """

    sampled: Sampled
    verdicts: list[Verdict]
    experience: Experience
    update: Update
    diagnosed: dict[str, TokenColumn]
    kept: list[bool] | None = None
    parts: Mapping[str, list[float]] = field(default_factory=dict)

    @property
    def siblings(self) -> int:
        """Returns the number of responses per prompt, G."""
        return len(self.sampled.texts) // len(self.sampled.problems)

    @cached_property
    def rollout_logprob(self) -> TokenColumn:
        """The sampler's log-prob of each response token, of all rollouts."""
        return TokenColumn.of(dict(enumerate(self.experience.rollout_logprobs)))

    @cached_property
    def rewards(self) -> list[float]:
        """Returns what each rollout's advantage is made from: the verifier's reward and the parts beside it."""
        return [sum(values) for values in zip((one.reward for one in self.verdicts), *self.parts.values(), strict=True)]

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
    return shuffled(range(count), derive_seed(seed, "epoch", epoch))


def shuffled(values: Sequence[T], seed: int) -> list[T]:
    """Returns the values in an order that the seed and their number alone decide."""
    order = list(values)
    random.Random(seed).shuffle(order)
    return order


def group_credit(
    method: MethodParams, train: TrainParams, rewards: Tensor, verdicts: Sequence[Verdict], reward: RewardParams
) -> tuple[list[float], list[float]]:
    """Returns the advantage and the gate of each rollout.

    Args:
        method: says which gate.
        train: baseline and divisor of the advantage, among others.
        rewards: (B,) the rewards, a penalty included.
        verdicts: (B) the verdicts.
        reward: says what becomes of rollouts whose verifier failed.
    """
    groups = rewards.view(-1, train.responses_per_prompt)
    kept = torch.tensor(kept_rollouts(verdicts, reward)).view_as(groups)
    advantages = group_advantages(groups, train.advantage_std, train.advantage_eps, kept, train.advantage_baseline)
    values = advantages.flatten().tolist()
    correct = [verdict.status is Status.CORRECT for verdict in verdicts]
    gate = gate_of(method)
    credits = group_credits(values, rewards.tolist(), correct, train.responses_per_prompt)
    return values, [float(gate.row(each)) for each in credits]


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


def mini_batches(rollouts: Rollouts, updates: int) -> list[range]:
    """Returns the rows of each optimiser update: whole groups, as ``updates`` divides the number of prompts."""
    size = len(rollouts.responses) // updates
    return [range(start, start + size) for start in range(0, len(rollouts.responses), size)]


def mixed_logprobs(passes: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """Returns the logarithm of the mean of a response's token probabilities over the passes that scored it.

    Each pass holds (B) log-probs, (T,) of a response, or None where it did not score it.
    """
    scored = [[values for values in row if values is not None] for row in zip(*passes, strict=True)]
    return [torch.stack(row).logsumexp(0) - math.log(len(row)) if row else None for row in scored]
