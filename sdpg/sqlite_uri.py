"""Turns the address of a sqlite file, as SQLAlchemy and MLflow read it, into its path, and back."""

from pathlib import Path

from sqlalchemy import URL, make_url

SQLITE = "sqlite:///"


def file_of(uri: str, root: Path) -> Path | None:
    """Returns the file that an address names, a relative one below ``root``; None if it is not sqlite's."""
    if not uri.startswith(SQLITE):
        return None
    return root / (make_url(uri).database or "")


def uri_of(file: Path) -> str:
    """Returns the address of a file; SQLAlchemy decodes it, so that a percent sign in a path has to be written so."""
    return URL.create("sqlite", database=str(file)).render_as_string()
