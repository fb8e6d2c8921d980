"""Runs studies: which trials to make, which worker runs them, and what came of them.

The package holds searches, workers, retraining and the reports of studies. It imports :mod:`sdpg.training`,
:mod:`sdpg.results` and what these import; no stage of the pipeline imports it.
"""
