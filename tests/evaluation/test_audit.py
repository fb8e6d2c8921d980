"""Tests where two verifiers disagree about stored answers: ranked, with both reasons, on a page and in a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.evaluation.rescoring import find_run
from sdpg.files import write_json_lines
from sdpg.params import Imported
from sdpg.results import audit_report, sections
from sdpg.results.audit_report import write_comparison
from tests.evaluation.test_rescore import write_run
from tests.helpers.own_modules import own_modules


def compared(root: Path, first: Any, second: Any) -> tuple[str, list[dict[str, Any]]]:
    """Returns the page and the file's rows for the run that ``write_run`` wrote."""
    one, other = (find_run("grpo-0", {"verifier": verifier, "timeout": 20.0}, root) for verifier in (first, second))
    page = write_comparison([one], one.params, other.params, root / "audit")
    assert (root / "audit" / "report.md").read_text(encoding="utf-8") == page
    lines = (root / "audit" / "disagreements.jsonl").read_text(encoding="utf-8").splitlines()
    return page, [json.loads(line) for line in lines]


def test_disagreements_are_ranked_by_how_often_they_occur(tmp_path: Path) -> None:
    write_run(tmp_path)
    page, rows = compared(tmp_path, "math_verify", "math_verify_only")
    # 205=204 stands in two rollouts, in one evaluation, and twice in the final samples.
    assert [(row["count"], row["gold"], row["first"]["answer"]) for row in rows] == [(5, "204", "205=204")]
    assert rows[0]["first"] == {"answer": "205=204", "status": "wrong", "reason": "integer: another value"}
    assert rows[0]["second"] == {"answer": "205=204", "status": "correct", "reason": "math_verify_only: equal"}
    assert "Of 19 answers of grpo-0, one verifier alone takes 5 for right: 1 different ones." in page
    assert "| 5 | 204 | 205=204 | wrong (integer: another value) | correct (math_verify_only: equal) |" in page


def test_verifiers_that_extract_other_answers_are_compared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path)
    _, rows = compared(tmp_path, "string_match", "exact")
    assert [(row["count"], row["first"]["status"], row["second"]["status"]) for row in rows] == [
        (5, "correct", "wrong")
    ]
    monkeypatch.setattr(audit_report, "LISTED", 0)
    (tmp_path / "own_judge.py").write_text("def always(completion, gold):\n    return True\n")
    with own_modules(tmp_path):
        page, rows = compared(tmp_path, "math_verify", Imported(kind="import", path="own_judge:always"))
    assert [row["count"] for row in rows] == sorted((row["count"] for row in rows), reverse=True)
    assert rows[0]["second"] == {"answer": rows[0]["second"]["answer"], "status": "correct", "reason": ""}
    assert f"disagreements.jsonl holds {len(rows)} more." in page


def test_the_main_report_shows_the_commonest_of_each_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sections.audit_rows(tmp_path) == []
    one = {"gold": "204", "first": {"answer": None, "status": "no_answer", "reason": ""},
           "second": {"answer": "2", "status": "correct", "reason": "integer: x"}}  # fmt: skip
    for name, counts in (("exact-against-math_verify", (9000, 7, 7)), ("a-against-b", ())):
        write_json_lines(tmp_path / sections.AUDITS / name / "disagreements.jsonl",
                         [one | {"count": count} for count in counts])  # fmt: skip
    monkeypatch.setattr(sections, "AUDITED", 2)
    assert sections.audit_rows(tmp_path) == [
        ("a and b", "0", "–", "–", "–", "–"),
        ("exact and math_verify", "9,000", "204", "–", "no_answer", "correct (integer: x)"),
        ("exact and math_verify", "7", "204", "–", "no_answer", "correct (integer: x)"),
    ]
    write_json_lines(tmp_path / sections.AUDITS / "c-against-d" / "disagreements.jsonl", [{"gold": "204"}])
    with pytest.raises(UserError, match=r"c-against-d/disagreements\.jsonl is damaged .*sdpg audit again"):
        sections.audit_rows(tmp_path)


def test_the_same_verifier_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(UserError, match="both verifiers are exact: name two different ones"):
        compared(tmp_path, "exact", "exact")
