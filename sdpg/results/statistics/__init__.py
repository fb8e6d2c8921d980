"""Estimates with intervals, paired comparisons, pass@k, and the simulation that checks their coverage.

Imports nothing of the project but :mod:`sdpg.errors`, :mod:`sdpg.params` and :mod:`sdpg.seeds`.
"""
