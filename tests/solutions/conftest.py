"""What tests of solutions share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdpg.solutions.store import AnswerStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnswerStore]:
    with AnswerStore(tmp_path / "answers") as opened:
        yield opened
