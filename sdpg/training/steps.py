"""The values that the stages of a training step pass on: sample → verify → credit → update → write; each is frozen.

Axes: P prompts, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
import random

from sdpg.models.columns import TokenColumn
from sdpg.models.experience import Experience, Rollouts
from sdpg.params import RewardParams
from sdpg.problems.hints import Group, Hint, HintDrawer
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
        hints: (B) what the teacher is shown; None where it is the prepared prompt of each problem.
        contrasts: (B) the wrong hints of the teacher's second pass; None where there is none.
    """

    problems: list[PreparedRow]
    rollouts: Rollouts
    texts: list[str]
    truncated: list[bool]
    hints: list[Hint] | None = None
    contrasts: list[Hint] | None = None

    def with_hints(self, drawer: HintDrawer, verdicts: Sequence[Verdict], step: int) -> "Sampled":
        """Returns the same with the hints of a step; the rollouts hold what each teacher is shown."""
        lengths = [len(ids) for ids in self.rollouts.responses]
        groups = Group.cut(self.problems, self.texts, lengths, verdicts)
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
    order = list(range(count))
    random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
    return order
