"""Plots of a study."""

from pathlib import Path

from sdpg.tuning.study import Study


def write_pictures(study: Study, folder: Path) -> None:
    """To be drawn."""
