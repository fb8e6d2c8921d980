"""Writes down what a run did and what it depends on: Parquet schemas, digests of code and inputs, versions, MLflow,
alarms.

Whoever looks at a run later reads these modules, so none of them imports torch. The package imports
:mod:`sdpg.params`.
"""
