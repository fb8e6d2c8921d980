"""Tests what the Problems page shows of audits: two verifiers' disagreements, none, none made, a damaged file."""

import json
from pathlib import Path
import shutil

import pytest

from app import audits
from app.sources import SAMPLE
from tests.helpers import pages

ROWS = [
    {"gold": "1/2", "count": 7, "first": {"answer": "0.5", "status": "correct", "reason": "exact_rational"},
     "second": {"answer": "0.5", "status": "wrong", "reason": ""}},
    {"gold": "<b>3</b>", "count": 2, "first": {"answer": None, "status": "no_answer", "reason": ""},
     "second": {"answer": "\u202e3", "status": "correct", "reason": "text"}},
]  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "project")
    return tmp_path / "project"


def written(project: Path, pair: str, text: str) -> None:
    folder = project / audits.FOLDER / pair
    folder.mkdir(parents=True)
    (folder / audits.FILE).write_text(text, encoding="utf-8")


def test_disagreements_of_the_chosen_pair_are_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(project, "math_verify-against-exact", "")
    written(project, "math_verify-against-string_match", "".join(json.dumps(row) + "\n" for row in ROWS))
    at = pages.opened("problems", project, monkeypatch, benchmark="chain-3")
    assert not at.exception and not at.error
    assert any("agree on every answer" in each.value for each in at.success)
    at.selectbox(key="verifiers").set_value("math_verify against string_match").run()
    assert not at.exception and "string_match" in str(dict(at.query_params)["verifiers"])
    (table,) = [each.value for each in at.dataframe if "Answers" in each.value.columns]
    assert list(table.columns) == ["Answers", "Gold", "Answer by math_verify", "math_verify", "Answer by string_match",
                                   "string_match"]  # fmt: skip
    assert table.iloc[0].tolist() == [7, "1/2", "0.5", "correct (exact_rational)", "0.5", "wrong"]
    # Text stays text, and what would turn its direction is shown by its code.
    assert table.iloc[1]["Gold"] == "<b>3</b>" and table.iloc[1]["Answer by math_verify"] == "–"
    assert table.iloc[1]["Answer by string_match"] == "⟨U+202E⟩3"


@pytest.mark.parametrize("text", ["[1]\n", '{"gold": "1"}\n', "{", json.dumps(ROWS[0] | {"first": None})])
def test_a_damaged_file_is_named(project: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    written(project, "a-against-b", text)
    at = pages.opened("problems", project, monkeypatch, benchmark="chain-3")
    assert not at.exception and any("disagreements" in each.value for each in at.error)


def test_without_an_audit_its_command_is_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = pages.opened("problems", project, monkeypatch, benchmark="chain-3")
    assert any("sdpg audit grpo-0 base" in each.value for each in at.code)
