"""Samples rollouts by vLLM, which has a copy of the weights: the common part of its forms, in process and a server.

The order around a training step, on each rank:

1. ``generate`` samples rollouts.
2. ``rest``: with ``sleep``, vLLM goes to sleep. Its weights and its KV cache are dropped, and nothing of them is kept
   on the host, because the weights are out of date when it wakes (vLLM's level 2). The trainer verifies, and makes its
   passes and its update(s) with the memory to itself.
3. ``sync_weights``: with ``sleep``, the memory for weights alone is woken; the weights are handed over one by one, each
   gathered where it is sharded; only then the KV cache is woken, so that whole tensors of the trainer and the cache
   never stand beside each other; the prefix cache is emptied, because its keys and values come from the old weights;
   the canary compares log-probs (:mod:`sdpg.rollouts.canary`); where they differ too much, the weights are handed over
   and compared once more before the run ends.
4. ``generate`` samples the evaluation, and then the next rollouts.

Sleep needs a GPU, without which it is refused. All else is tested on CPUs with vLLM itself.

Siblings have their prompt in common: with the prefix cache it is read once. Log-probs are those of the distribution
that a token was drawn from (``logprobs_mode=processed_logprobs``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any
import warnings

import torch
from torch import distributed

from sdpg.errors import UserError
from sdpg.params.vllm import VllmInProcess, VllmServer
from sdpg.rollouts.canary import Canary, make_canary
from sdpg.rollouts.protocol import Completion, Sampling
from sdpg.rollouts.stopping import stop_ids
from sdpg.seeds import derive_seed

Progress = Callable[[int], object]


class VllmEngine(ABC):
    """The common part of both vLLM engines, a :class:`~sdpg.rollouts.protocol.RolloutEngine`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: VllmInProcess | VllmServer,
        dtype: torch.dtype,
        longest: int,
        examples: Sequence[Sequence[int]],
    ) -> None:
        """Prepares the engine.

        Args:
            model: the model whose weights are followed.
            tokenizer: the model's tokenizer.
            settings: the section ``rollout.vllm``.
            dtype: the dtype of the trainer's passes.
            longest: tokens of the longest sequence that vLLM takes.
            examples: prompts for the first canary, as token ids; later ones take those that were asked last.
        """
        self.model, self.settings, self.longest, self.dtype = model, settings, longest, dtype
        self.stop_ids = stop_ids(model, tokenizer)
        self.vocabulary, self.examples = len(tokenizer), examples
        self.synced = False
        self.difference = 0.0
        """The last difference that the canary measured, in nats per token."""

    @abstractmethod
    def send_weights(self) -> None:
        """Hands the weights over and empties the prefix cache; all ranks call this."""

    @abstractmethod
    def sample(
        self, prompts: Sequence[Sequence[int]], options: list[dict[str, Any]], seed: int, progress: Progress
    ) -> list[tuple[list[int], list[float]]]:
        """Draws a response per prompt under its ``SamplingParams``; returns (ids, log-probs) in the order of prompts.

        ``seed`` is used for responses without a random source of their own.
        """

    @property
    @abstractmethod
    def block(self) -> int:
        """Returns the number of tokens in a block of the prefix cache."""

    @property
    @abstractmethod
    def together(self) -> bool:
        """Says whether weights are handed over by all ranks at once, so that they must do it equally often."""

    @abstractmethod
    def rest(self) -> None:
        """Gives memory back that the trainer needs, see :class:`~sdpg.rollouts.protocol.RolloutEngine`."""

    def options(self, sampling: Sampling, count: int, stop: bool = True) -> list[dict[str, Any]]:
        """Returns the arguments of vLLM's ``SamplingParams`` for each of ``count`` prompts."""
        shared = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature > 0 else 1.0,
            "max_tokens": sampling.max_tokens,
            # vLLM returns the log-prob of the drawn token, and of no other.
            "logprobs": 0,
            # vLLM would add the end-of-sequence tokens of the model folder by itself, for the canary too.
            "ignore_eos": True,
            "stop_token_ids": self.stop_ids if stop else [],
            "detokenize": False,
        }
        if not self.settings.request_seeds or sampling.temperature == 0:
            return [shared] * count
        return [shared | {"seed": derive_seed(sampling.seed, "response", index)} for index in range(count)]

    def sync_weights(self) -> None:
        """Takes over the trainer's weights, and checks that vLLM samples from them.

        Raises:
            UserError: if the canary finds another distribution, twice, with other tokens and weights handed over anew.
        """
        canary = make_canary(self.examples or [range(self.vocabulary)], self.block, self.longest, self.dtype)
        differences = self._hand_over(canary, 0)
        if self._agreed():
            return
        warnings.warn(
            f"after the weights were handed to vLLM, its log-probs differ from the trainer's by {self.difference:.3g} "
            "nats per token on this process: the weights are handed over once more",
            stacklevel=2,
        )
        differences = self._hand_over(canary, 1)
        if self._agreed():
            return
        if self._right():
            raise UserError("another process of this run ends, because its vLLM differs from the trainer: see there")
        raise UserError(
            f"after the weights were handed to vLLM, its log-probs of {len(differences)} tokens differ from the "
            f"trainer's by {self.difference:.3g} nats per token, at most {max(differences):.3g}, at the second try too "
            f"(rollout.vllm.canary_tolerance: {self.settings.canary_tolerance:g}): it does not sample from the policy "
            "that is trained. With another dtype than train.dtype, raise the tolerance to what rounding explains; "
            "otherwise a weight, or the prefix cache, is not the current one, and training on would be off-policy. The "
            "run goes on from its last checkpoint when the same command is given again"
        )

    def _hand_over(self, canary: Canary, seed: int) -> list[float]:
        """Hands the weights over, and returns the canary's differences, by token."""
        self.send_weights()
        self.synced = True
        sampling = canary.sampling(seed)
        options = self.options(sampling, len(canary.prompts), stop=False)
        drawn = self.sample(canary.prompts, options, seed, lambda finished: None)
        differences = canary.differences(self.model, [Completion(*one, False) for one in drawn])
        self.difference = sum(differences) / len(differences)
        return differences

    def _right(self) -> bool:
        # Written this way round so that NaN does not pass.
        return self.difference <= self.settings.canary_tolerance

    def _agreed(self) -> bool:
        """Says whether the canary is right on each rank that must hand over weights when this one does."""
        if not self.together or not distributed.is_initialized():
            return self._right()
        found = [False] * distributed.get_world_size()
        distributed.all_gather_object(found, self._right())
        return all(found)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        progress: Progress = lambda finished: None,
    ) -> list[Completion]:
        """Generates one response per prompt, in the order of the prompts."""
        if not prompts:
            return []
        longest = max(map(len, prompts))
        if longest + sampling.max_tokens > self.longest:
            raise UserError(
                f"a prompt of {longest} tokens and a response of up to {sampling.max_tokens} take "
                f"{longest + sampling.max_tokens} tokens, but vLLM was started for sequences of {self.longest} "
                "(max_model_len): lower prompts.max_student_tokens, prompts.max_teacher_tokens or max_tokens, or start "
                "the server again with a larger --max-model-len"
            )
        # The next canary asks them again: should the prefix cache not be emptied by then, it holds them.
        self.examples = prompts
        if not self.synced:
            # The engine evaluates a policy that nobody trains, or has dropped its weights.
            self.sync_weights()
        drawn = self.sample(prompts, self.options(sampling, len(prompts)), sampling.seed, progress)
        return [Completion(ids, logprobs, ids[-1] not in self.stop_ids) for ids, logprobs in drawn]
