"""Checks that an engine samples from the policy that is trained, by its log-probs of fixed tokens.

They are compared with the trainer's log-probs of the same tokens.

An engine with a copy of the weights can go wrong without a word: a weight that was not taken over (a tied head), keys
and values of old weights in the prefix cache, log-probs of another distribution than the one that tokens are drawn
from. Each shows in the log-probs of a response that is drawn behind a fixed prompt after every sync:

- The prompt is the same each time and longer than a block of the cache, so that stale blocks would be used.
- The temperature is not 1, so that log-probs of the unscaled distribution would be noticed.

One update of a small learning rate moves log-probs by less than bfloat16 rounds them: a weight that is never taken over
is noticed when the updates have added up to more than the tolerance, in float32 at once.
"""

from dataclasses import dataclass
import random
from typing import Any

import torch

from sdpg.errors import UserError
from sdpg.models.batches import token_batch
from sdpg.models.loading import response_logits
from sdpg.rollouts.protocol import Completion, Sampling

TOKENS = 16
"""Tokens of the canary's response."""
SAMPLING = Sampling(temperature=0.8, top_p=1.0, max_tokens=TOKENS, seed=0)


@dataclass(frozen=True)
class Canary:
    """A fixed prompt, after which an engine's log-probs are compared with the trainer's.

    Attributes:
        prompt: token ids without meaning.
        tolerance: the largest mean absolute difference per token, in nats.
        dtype: the dtype of the trainer's passes.
    """

    prompt: list[int]
    tolerance: float
    dtype: torch.dtype

    def expected(self, model: Any, response: list[int]) -> list[float]:
        """Returns the trainer's log-probs of a response; sharded weights are gathered, so all ranks call this."""
        device = next(model.parameters()).device
        batch = token_batch([self.prompt], [response], 0, device)
        training = model.training
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            logits = response_logits(model, batch, SAMPLING.temperature)
        model.train(training)
        if hasattr(model, "reshard"):
            # A pass leaves the outermost weights of a sharded model whole, in memory that is needed for other things.
            model.reshard()
        return logits.log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1).tolist()

    def check(self, model: Any, completion: Completion) -> float:
        """Compares what an engine drew behind the prompt with the trainer; returns the mean difference in nats.

        Raises:
            UserError: if the difference is beyond the tolerance.
        """
        expected = self.expected(model, completion.ids)
        differences = [abs(a - b) for a, b in zip(expected, completion.rollout_logprobs, strict=True)]
        mean = sum(differences) / len(differences)
        # Written this way round so that NaN does not pass.
        if not mean <= self.tolerance:
            raise UserError(
                f"after the weights were handed to vLLM, its log-probs of a fixed prompt differ from the trainer's by "
                f"{mean:.3g} nats per token, at most {max(differences):.3g} (rollout.vllm.canary_tolerance: "
                f"{self.tolerance:g}): it does not sample from the policy that is trained. With another dtype than "
                "train.dtype, raise the tolerance to what rounding explains; otherwise a weight, or the prefix cache, "
                "is not the current one, and training on would be off-policy. The run goes on from its last checkpoint "
                "when the same command is given again"
            )
        return mean


def canary_prompt(vocabulary: int, block: int, longest: int) -> list[int]:
    """Returns token ids that fill two blocks of the prefix cache and begin a third, as far as ``longest`` allows."""
    source = random.Random(0)
    return [source.randrange(vocabulary) for _ in range(max(1, min(2 * block + 1, longest - TOKENS)))]
