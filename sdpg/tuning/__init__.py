"""Runs studies: which trials to make, which worker runs them, and what came of them.

No stage of the pipeline imports this package.
"""
