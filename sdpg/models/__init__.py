"""Policies and how they are read: loading, adapters, batches of tokens, forward passes, the exact head, several
processes.

Imports :mod:`sdpg.objective`, :mod:`sdpg.problems` and what these import.
"""
