"""Finds the project that a command is for, and the files of which a new one is made."""

from pathlib import Path


def find_project(folder: Path) -> Path | None:
    """Returns the project that a folder lies in: the nearest with dvc.yaml and pipelines/, or None."""
    for place in (folder, *folder.parents):
        if (place / "dvc.yaml").is_file() and (place / "pipelines" / "check.py").is_file():
            return place
    return None


def shipped_files() -> Path:
    """Returns the folder of what comes with the package: pipelines, app, profiles and the like.

    An installed package has it inside; beside a checkout's package, the files lie in the checkout.
    """
    package = Path(__file__).parents[1]
    inside = package / "project"
    return inside if inside.is_dir() else package.parent


def settings_file(folder: Path) -> Path:
    """Returns the params.yaml of a folder, or where it has none, that which comes with the package."""
    own = folder / "params.yaml"
    return own if own.is_file() else shipped_files() / "params.yaml"
