"""Sampling and scoring policies: the base, training's evaluations, final samples, any model folder, stored answers
again.

Imports :mod:`sdpg.rollouts` and what it imports.
"""
