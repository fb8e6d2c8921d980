"""The engine that ``rollout.engine`` names."""

from typing import Any, Literal

from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.protocol import RolloutEngine


def make_engine(name: Literal["transformers"], model: Any, tokenizer: Any, batch: int) -> RolloutEngine:
    """An engine that samples from ``model``, ``batch`` sequences at once."""
    match name:
        case "transformers":
            return EmbeddedEngine(model, tokenizer, batch)
