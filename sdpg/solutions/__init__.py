"""Finds worked solutions for training problems that have none: in datasets, at an endpoint, or by the local engine.

The package holds the sources of solutions, their checks by the verifier, and the files that they are kept in. It
imports :mod:`sdpg.rollouts` and what it imports.
"""
