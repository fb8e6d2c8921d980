"""Turns finished runs into tables, claims, figures and the report.

The package imports :mod:`sdpg.records` and :mod:`sdpg.evaluation`; no module here trains.
"""
