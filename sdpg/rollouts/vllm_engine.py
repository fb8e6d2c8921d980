"""Samples rollouts by vLLM, which has a copy of the weights: the common part of its forms, in process and a server.

The order around a training step, on each rank:

1. ``generate`` samples rollouts. With ``sleep``, vLLM then goes to sleep: its weights move to the CPU, its KV cache is
   dropped.
2. The trainer verifies, and makes its passes and its update(s) with the memory to itself.
3. ``sync_weights``: with ``sleep``, the memory for weights alone is woken; the weights are handed over one by one, each
   gathered where it is sharded; only then the KV cache is woken, so that whole tensors of the trainer and the cache
   never stand beside each other; the prefix cache is emptied, because its keys and values come from the old weights;
   the canary compares log-probs (:mod:`sdpg.rollouts.canary`).
4. ``generate`` samples the evaluation, or the next rollouts. A sleeping engine, which two generations without an
   update between them meet, is woken with the weights that it had.

Sleep needs a GPU, without which it is refused, and has not been tested. All else is tested on CPUs with vLLM itself.

Siblings have their prompt in common: with the prefix cache it is read once. Log-probs are those of the distribution
that a token was drawn from (``logprobs_mode=processed_logprobs``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sdpg.errors import UserError
from sdpg.params.vllm import VllmInProcess, VllmServer
from sdpg.problems.tokenizer import pad_and_eos
from sdpg.rollouts.canary import SAMPLING, Canary, canary_prompt
from sdpg.rollouts.protocol import Completion, Sampling
from sdpg.seeds import derive_seed

Progress = Callable[[int], object]


class VllmEngine(ABC):
    """The common part of both vLLM engines, a :class:`~sdpg.rollouts.protocol.RolloutEngine`."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: VllmInProcess | VllmServer, dtype: torch.dtype, longest: int
    ) -> None:
        """Prepares the engine.

        Args:
            model: the model whose weights are followed.
            tokenizer: the model's tokenizer.
            settings: the section ``rollout.vllm``.
            dtype: the dtype of the trainer's passes.
            longest: tokens of the longest sequence that vLLM takes.
        """
        self.model, self.settings, self.longest, self.dtype = model, settings, longest, dtype
        _, self.eos_id = pad_and_eos(tokenizer)
        self.vocabulary = len(tokenizer)
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

    def options(self, sampling: Sampling, count: int, stop: bool = True) -> list[dict[str, Any]]:
        """Returns the arguments of vLLM's ``SamplingParams`` for each of ``count`` prompts."""
        shared = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature > 0 else 1.0,
            "max_tokens": sampling.max_tokens,
            # vLLM returns the log-prob of the drawn token, and of no other.
            "logprobs": 0,
            # One token ends a response, whatever the model folder's own settings say.
            "ignore_eos": True,
            "stop_token_ids": [self.eos_id] if stop else [],
            "detokenize": False,
        }
        if not self.settings.request_seeds or sampling.temperature == 0:
            return [shared] * count
        return [shared | {"seed": derive_seed(sampling.seed, "response", index)} for index in range(count)]

    def sync_weights(self) -> None:
        """Takes over the trainer's weights, and checks that vLLM samples from them.

        Raises:
            UserError: if the canary finds another distribution.
        """
        self.send_weights()
        self.synced = True
        prompt = canary_prompt(self.vocabulary, self.block, self.longest)
        options = self.options(SAMPLING, 1, stop=False)
        ids, logprobs = self.sample([prompt], options, SAMPLING.seed, lambda finished: None)[0]
        canary = Canary(prompt, self.settings.canary_tolerance, self.dtype)
        self.difference = canary.check(self.model, Completion(ids, logprobs, False))

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
        if not self.synced:
            # The engine evaluates a policy that nobody trains.
            self.sync_weights()
        drawn = self.sample(prompts, self.options(sampling, len(prompts)), sampling.seed, progress)
        return [Completion(ids, logprobs, ids[-1] != self.eos_id) for ids, logprobs in drawn]
