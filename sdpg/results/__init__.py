"""From finished runs to tables, claims, figures and the report.

Imports :mod:`sdpg.records` and :mod:`sdpg.evaluation`; no module here trains.
"""
