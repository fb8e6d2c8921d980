"""Holds policies and passes tokens through them: loading, adapters, batches, forward passes, the exact head, several
processes.

The package imports :mod:`sdpg.objective`, :mod:`sdpg.problems` and what these import.
"""
