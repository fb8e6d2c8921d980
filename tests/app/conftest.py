"""What tests in a real browser share: a project with the sample's runs, the app on it, and the browser."""

from collections.abc import Iterator
from pathlib import Path
import shutil

from playwright.sync_api import Browser
import pytest

from app.sources import SAMPLE
from tests.helpers.browser import app, chromium


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the sample's runs as its own."""
    root = tmp_path_factory.mktemp("sample") / "project"
    shutil.copytree(SAMPLE, root)
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with app(root) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser
