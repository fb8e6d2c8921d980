"""Samples responses: one protocol, several engines.

The package imports :mod:`sdpg.models`, :mod:`sdpg.rewards` and what they import.
"""

from sdpg.rollouts.protocol import Completion, RolloutEngine, Sampling, WeightSource

__all__ = ["Completion", "RolloutEngine", "Sampling", "WeightSource"]
