"""The typed tree behind params.yaml, one module for each section, and what writes params.yaml.

A choice that changes a result is a field here. The package imports :mod:`sdpg.errors` and :mod:`sdpg.files` alone.
"""

from sdpg.params.base import BaseParams, HubModel, LocalModel, ScratchModel
from sdpg.params.data import (
    BenchmarkParams,
    ColumnMap,
    DataParams,
    FileSource,
    HubSource,
    PromptParams,
    ReasoningGymSource,
    Source,
    SyntheticSource,
)
from sdpg.params.method import MethodParams
from sdpg.params.reward import RewardParams
from sdpg.params.section import Imported, Name, Positive, Section
from sdpg.params.tree import (
    PARAMS_FILE,
    EvaluationParams,
    Params,
    ReportParams,
    RolloutParams,
    TrackingParams,
    load_params,
    parse_params,
    read_yaml,
)

__all__ = [
    "PARAMS_FILE",
    "BaseParams",
    "BenchmarkParams",
    "ColumnMap",
    "DataParams",
    "EvaluationParams",
    "FileSource",
    "HubModel",
    "HubSource",
    "Imported",
    "LocalModel",
    "MethodParams",
    "Name",
    "Params",
    "Positive",
    "PromptParams",
    "ReasoningGymSource",
    "ReportParams",
    "RewardParams",
    "RolloutParams",
    "ScratchModel",
    "Section",
    "Source",
    "SyntheticSource",
    "TrackingParams",
    "load_params",
    "parse_params",
    "read_yaml",
]
