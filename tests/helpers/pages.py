"""Runs pages of the app without a browser."""

from pathlib import Path
import sys

import pytest
from streamlit.testing.v1 import AppTest

PROJECT = Path(__file__).parents[2]


def opened(page: str, root: Path, monkeypatch: pytest.MonkeyPatch, **params: str) -> AppTest:
    """A page with the parameters of its address, as the app that was started in ``root`` shows it."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app/main.py"), default_timeout=30)
    for key, value in params.items():
        at.query_params[key] = value
    at.switch_page(f"views/{page}.py")
    return at.run()
