"""What the trainer and the evaluation ask of a rollout engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to decode.

    Attributes:
        temperature: of the softmax; 0 is greedy decoding.
        top_p: nucleus mass; 1 keeps the whole vocabulary.
        max_tokens: limit of a response, EOS included.
        seed: fixes every random choice; equal prompts, weights and seeds give equal responses.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """One response.

    Attributes:
        ids: token ids as generated, with EOS at the end unless truncated.
        rollout_logprobs: log-prob of each token under the distribution that it was drawn from (temperature and top-p
            applied); under greedy decoding, that of the distribution at temperature 1.
        truncated: the limit was reached before EOS.
    """

    ids: list[int]
    rollout_logprobs: list[float]
    truncated: bool


WeightSource = Callable[[], Iterator[tuple[str, Tensor]]]
"""Yields the trainer's weights by name, one whole tensor at a time, which is good until the next one is asked for; an
adapter comes merged into the weights that it is for, under their names; tied weights come once, under the name of the
input embedding. All ranks must ask for all of them: a sharded tensor is gathered from all."""


class RolloutEngine(Protocol):
    """Samples from the current policy."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda finished: None,
    ) -> list[Completion]:
        """One response per prompt, in the order of the prompts. ``progress`` is told of each finished batch's size."""
        ...

    def sync_weights(self) -> None:
        """Takes over the trainer's current weights; called after a step's updates, before anything is sampled."""
        ...
