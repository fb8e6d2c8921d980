"""Checks that an engine samples from the policy that is trained, by its log-probs of the tokens that it draws.

They are compared with the trainer's log-probs of the same tokens. An engine with a copy of the weights can go wrong
without a word: a weight that was not taken over (a tied head), keys and values of old weights in the prefix cache,
log-probs of another distribution than the one that tokens are drawn from. Each shows in responses that are drawn behind
a few prompts after every sync:

- The prompts are those that were asked last, longer than two blocks of the cache, so that stale blocks would be used.
- They are problems as the run asks them. Behind ids without meaning a model is in a state that it was never trained
  for, where rounding says nothing about that in training.
- The temperature is not 1, so that log-probs of the unscaled distribution would be noticed.

**The statistic** is the mean over all tokens of |log π_engine − log π_trainer|, :data:`PROMPTS` × :data:`TOKENS` =
256 of them at most.

**The tolerance.** With bfloat16 on both sides, logits in float32 and weights that are rounded alike, engine and trainer
differ by how they round hidden states. Let ε be the relative difference of their last hidden states. A logit is the
product of such a state with a row of the head, so ε times the spread s of the logits over the vocabulary is the
difference of a logit, and that of a token of probability p is (1 − p) ε s / T. The mean absolute value of a normal
variable is 0.8 of its root mean square:

    mean |log π_engine − log π_trainer| ≈ 0.8 · ε · s / T · mean(1 − p)

In random models of 2 to 36 layers this is right to 15%, with ε from 0.017 to 0.05 (measured on a CPU; 4 layers are
tested). A trained model rounds less, as each of its layers adds little to the stream. With ε = 0.05, s = 3, T = 0.8 and
mean(1 − p) = 0.15, assumed for answers to problems, 0.023 is to be expected at the most; the default, 0.05, is twice
that. Behind ids without meaning, mean(1 − p) is 0.8, and rounding alone could reach 0.12. The mean of 256 values whose
root mean square is twice their mean varies by √3/√256 = 11% of itself: chance adds little.

A copy that was never taken over shows once the updates have moved log-probs by the tolerance on average; one update of
a small learning rate moves them by less than bfloat16 rounds them. In float32 differences are below 1e-5, and 1e-3
notices a single update.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdpg.models.batches import token_batch
from sdpg.models.fused_head import fused_head
from sdpg.models.loading import with_head
from sdpg.rollouts.protocol import Completion, Sampling

EXAMPLES = 32
"""Prompts of a run from which those of the first canary are made."""
PROMPTS = 4
"""Prompts that are asked after each sync, at most."""
TOKENS = 64
"""Tokens of each response."""
LONGEST_PROMPT = 256
"""Tokens at which a prompt is cut."""
HEAD_BYTES = 64 << 20
"""Bytes of the logits that the trainer's pass holds at once."""


@dataclass(frozen=True)
class Canary:
    """Prompts, behind which an engine's log-probs are compared with the trainer's.

    Attributes:
        prompts: (R) token ids.
        tokens: tokens of each response.
        dtype: the dtype of the trainer's passes.
        temperature: what logits are divided by, on both sides.
    """

    prompts: list[list[int]]
    tokens: int
    dtype: torch.dtype
    temperature: float = 0.8

    def sampling(self, seed: int) -> Sampling:
        """Returns how the responses are drawn."""
        return Sampling(temperature=self.temperature, top_p=1.0, max_tokens=self.tokens, seed=seed)

    def expected(self, model: Any, responses: Sequence[list[int]]) -> list[float]:
        """Returns the trainer's log-probs of the responses to the prompts, one after the other, without gradient.

        Sharded weights are gathered, so all ranks call this.
        """
        device = next(model.parameters()).device
        batch = token_batch(self.prompts, responses, 0, device)
        found: list[torch.Tensor] = []

        def head(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            loss, values = fused_head(
                hidden, weight, bias, batch.targets, None, memory_bytes=HEAD_BYTES, temperature=self.temperature
            )
            found.append(values.logprobs)
            return loss

        training = model.training
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            with_head(model, batch, head)
        model.train(training)
        if hasattr(model, "reshard"):
            # A pass leaves the outermost weights of a sharded model whole, in memory that is needed for other things.
            model.reshard()
        return found[0].tolist()

    def differences(self, model: Any, completions: Sequence[Completion]) -> list[float]:
        """Returns by how much the log-probs of each token differ between engine and trainer, in nats."""
        expected = self.expected(model, [one.ids for one in completions])
        drawn = [value for one in completions for value in one.rollout_logprobs]
        return [abs(a - b) for a, b in zip(expected, drawn, strict=True)]


def make_canary(examples: Sequence[Sequence[int]], block: int, longest: int, dtype: torch.dtype) -> Canary:
    """Returns a canary whose prompts fill two blocks of the prefix cache and begin a third, as far as they can.

    Args:
        examples: prompts as the engine is asked them, as token ids; equal ones count once. Those that are too short are
            joined with the next.
        block: tokens of a block of the prefix cache.
        longest: tokens of the longest sequence that the engine takes.
        dtype: the dtype of the trainer's passes.
    """
    tokens = min(TOKENS, longest // 2)
    room = min(LONGEST_PROMPT, longest - tokens)
    prompts: list[list[int]] = []
    joined: list[int] = []
    for ids in dict.fromkeys(map(tuple, examples)):
        joined += ids
        if len(joined) > min(2 * block, room - 1):
            prompts.append(joined[:room])
            joined = []
        if len(prompts) == PROMPTS:
            break
    return Canary(prompts or [joined], tokens, dtype)
