"""Turns the address of a sqlite file, as SQLAlchemy and MLflow read it, into its path, and back."""

from contextlib import suppress
import os
from pathlib import Path
import re
from urllib.parse import quote

from sqlalchemy import make_url

SQLITE = "sqlite:///"
RESERVED = re.compile("[%?#]")


def file_of(uri: str, root: Path) -> Path | None:
    """Returns the file that an address names, a relative one below ``root``; None if it is not sqlite's."""
    if not uri.startswith(SQLITE):
        return None
    return root / (make_url(uri).database or "")


def uri_of(file: Path) -> str:
    """Returns the address of a file. SQLAlchemy decodes it, and these characters alone would mean something else."""
    return SQLITE + RESERVED.sub(lambda found: quote(found[0]), str(file))


def remove_stray_folders(file: Path) -> None:
    """Removes the empty folders that MLflow makes of an address that it has not decoded."""
    if (raw := Path(uri_of(file).removeprefix(SQLITE))) != file:
        with suppress(OSError):
            os.removedirs(raw.parent)
