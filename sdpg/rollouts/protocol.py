"""Defines what the trainer and the evaluation need from a rollout engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """Settings by which responses are decoded.

    Attributes:
        temperature: the softmax temperature; 0 is greedy decoding.
        top_p: the nucleus mass; 1 keeps the whole vocabulary.
        max_tokens: the limit of a response in tokens, the one that ends it included.
        seed: the seed of every random choice; equal prompts, weights and seeds give equal responses.
    """

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """A response.

    Attributes:
        ids: token ids as generated, with the token that ended it (:func:`sdpg.rollouts.stopping.stop_ids`) at the end
            unless truncated.
        rollout_logprobs: log-prob of each token under the distribution that it was drawn from (temperature and top-p
            applied); under greedy decoding, that of the distribution at temperature 1.
        truncated: whether the limit was reached before such a token.
    """

    ids: list[int]
    rollout_logprobs: list[float]
    truncated: bool


WeightSource = Callable[[], Iterator[tuple[str, Tensor]]]
"""Yields the trainer's weights by name, one whole tensor at a time, which is valid until the next one is taken. An
adapter comes merged into the weights that it is for, under their names; tied weights come once, under the name of the
input embedding. All ranks must take all of them: a sharded tensor is gathered from all ranks."""


class RolloutEngine(Protocol):
    """Samples from the current policy."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Callable[[int], object] = lambda finished: None,
    ) -> list[Completion]:
        """Returns one response per prompt, in order; ``progress`` is called with each finished batch's size."""
        ...

    def sync_weights(self) -> None:
        """Takes over the trainer's current weights; called after a step's updates, before anything is sampled."""
        ...

    def rest(self) -> None:
        """Gives memory back that the trainer needs, until the next ``sync_weights``; called when rollouts are drawn."""
        ...
