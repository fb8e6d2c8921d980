"""Self-Distilled Policy Gradient: an experiment-tracking and reproducibility workbench."""

import os

# Nothing is reported to anybody, and nothing asks the network unless a hub source is named.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
