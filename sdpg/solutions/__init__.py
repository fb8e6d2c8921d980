"""Finds worked solutions for training problems that have none: in datasets, at an endpoint, or by the local engine.

The package imports :mod:`sdpg.rollouts` and what it imports.
"""
