"""Runs Algorithm 1: the loop, one update, checkpoints, metrics, the records of a step, and the train stage.

The package imports :mod:`sdpg.evaluation` and what it imports.
"""
