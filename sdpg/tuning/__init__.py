"""Runs studies: which trials to make, which worker runs them, and what came of them.

The package imports :mod:`sdpg.training` and :mod:`sdpg.results`; no stage of the pipeline imports it.
"""
