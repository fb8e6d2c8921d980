"""Self-Distilled Policy Gradient: an experiment-tracking and reproducibility workbench."""
