"""Holds one thin entry point per stage of dvc.yaml."""
