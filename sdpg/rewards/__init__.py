"""From a completion and a gold answer to a verdict and its reward.

Imports :mod:`sdpg.params`; no torch.
"""
