"""Samples and scores policies: the base, training's evaluations, final samples, any model folder, stored answers.

The package imports :mod:`sdpg.rollouts` and what it imports.
"""
