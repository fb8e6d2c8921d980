"""One thin entry point per stage of dvc.yaml."""
