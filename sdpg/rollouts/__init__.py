"""Samples responses: one protocol, several engines."""

from sdpg.rollouts.protocol import Completion, RolloutEngine, Sampling, WeightSource

__all__ = ["Completion", "RolloutEngine", "Sampling", "WeightSource"]
