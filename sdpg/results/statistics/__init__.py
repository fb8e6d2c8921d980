"""Computes intervals, paired comparisons, pass@k, and the simulation that checks their coverage.

The package imports nothing of the project but :mod:`sdpg.errors`, :mod:`sdpg.params` and :mod:`sdpg.seeds`.
"""
