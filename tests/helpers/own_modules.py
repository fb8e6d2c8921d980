"""A folder whose modules can be imported as a user's own, and are forgotten afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import sys

import pytest


@contextmanager
def own_modules(folder: Path) -> Iterator[Path]:
    """Works in a folder; modules whose names begin with ``own_`` are not taken from an earlier test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "path", list(sys.path))
        yield folder
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
