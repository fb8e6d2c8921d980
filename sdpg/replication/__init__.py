"""Lays out a study over several bases and seeds, and turns its finished runs into tables that hold beyond one base.

The package imports :mod:`sdpg.results`; the runs themselves are made by the stages of the pipeline.
"""
