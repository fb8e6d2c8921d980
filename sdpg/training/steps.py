"""The values that the stages of a training step pass on: sample → verify → credit → update → write; each is frozen.

Axes: P prompts, G responses per prompt, B = P·G rollouts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sdpg.models.columns import TokenColumn
from sdpg.models.experience import Experience, Rollouts
from sdpg.params import RewardParams
from sdpg.problems.prompts import PreparedRow
from sdpg.rewards.verifiers import Status, Verdict


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
