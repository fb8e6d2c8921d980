"""Makes the engine that ``rollout.engine`` names."""

from collections.abc import Sequence
from typing import Any

import torch

from sdpg.params import RolloutParams
from sdpg.params.vllm import VllmInProcess
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.protocol import RolloutEngine, WeightSource
from sdpg.rollouts.vllm_in_process import InProcessVllm
from sdpg.rollouts.vllm_server import ServedVllm


def make_engine(
    rollout: RolloutParams,
    model: Any,
    tokenizer: Any,
    batch: int,
    longest: int,
    dtype: torch.dtype | None = None,
    weights: WeightSource | None = None,
    examples: Sequence[Sequence[int]] = (),
) -> RolloutEngine:
    """Returns an engine that samples from ``model``.

    Args:
        rollout: the rollout section, which names the engine.
        model: the model whose weights are used, also after they have changed.
        tokenizer: the model's tokenizer.
        batch: the largest number of sequences at once.
        longest: tokens of the longest prompt with the longest response that will be asked for.
        dtype: the dtype of the trainer's passes, with which a copy of the weights is compared; None: that of vLLM's own
            passes, for a model that nobody trains.
        weights: for transformers, a source of weights that the model takes over at each sync, where it is not the very
            module that is trained. vLLM has a copy of its own and reads the model's weights, sharded or not.
        examples: prompts as token ids, behind which vLLM's copy is compared before it is asked any.
    """
    if rollout.engine == "transformers":
        return EmbeddedEngine(model, tokenizer, batch, weights)
    settings = rollout.vllm
    assert settings is not None, "checked when params.yaml was read"
    if isinstance(settings, VllmInProcess):
        return InProcessVllm(model, tokenizer, settings, dtype, longest, batch, examples)
    return ServedVllm(model, tokenizer, settings, dtype, longest, batch, examples)
