"""Turns a completion and a gold answer into a verdict and its reward.

The package imports :mod:`sdpg.params`; it imports no torch.
"""
