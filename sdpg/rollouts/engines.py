"""The engine that ``rollout.engine`` names."""

from typing import Any, Literal

from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.protocol import RolloutEngine, WeightSource


def make_engine(
    name: Literal["transformers"], model: Any, tokenizer: Any, batch: int, weights: WeightSource | None = None
) -> RolloutEngine:
    """An engine that samples from ``model``, ``batch`` sequences at once.

    ``weights``: whose values the model takes over at each sync, where it is not the very module that is trained.
    """
    match name:
        case "transformers":
            return EmbeddedEngine(model, tokenizer, batch, weights)
