"""What a run writes down, and what it hangs on: Parquet schemas, digests of code and inputs, versions, MLflow, alarms.

Whoever looks at a run later reads these modules, so none of them imports torch. Imports :mod:`sdpg.params`.
"""
