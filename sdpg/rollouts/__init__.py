"""Samples responses from policies: one protocol, several engines (transformers' generate, vLLM), and what starts them.

Everything that generates responses belongs here. The package imports :mod:`sdpg.models`, :mod:`sdpg.rewards` and what
these import.
"""

from sdpg.rollouts.protocol import Completion, RolloutEngine, Sampling, WeightSource

__all__ = ["Completion", "RolloutEngine", "Sampling", "WeightSource"]
