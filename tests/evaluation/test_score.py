"""Tests `python -m pipelines.score`: JSON lines in, JSON lines out, and nothing else on standard output."""

from argparse import ArgumentTypeError
import io
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest

from pipelines.column_options import answer_columns
from sdpg.errors import UserError
from sdpg.evaluation import scoring
from sdpg.evaluation.scoring import score_file
from sdpg.params import RewardParams
from sdpg.rewards.verifiers import RULES_VERSION, Verifier
from tests.helpers.row_files import write_rows

ROOT = Path(__file__).parents[2]


def line(**values: Any) -> str:
    return json.dumps({"id": "a", "completion": r"\boxed{5}", "answer": "5"} | values) + "\n"


def score(*arguments: str, cwd: Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-m", "pipelines.score", *arguments], cwd=cwd, env=environment, input=text,
                          capture_output=True, text=True, timeout=120)  # fmt: skip


def scored(tmp_path: Path, text: str, **params: Any) -> tuple[list[dict[str, Any]], scoring.Scored]:
    path, out = tmp_path / "answers.jsonl", io.StringIO()
    path.write_text(text, encoding="utf-8")
    with Verifier(RewardParams(**params)) as verifier:
        found = score_file(str(path), verifier, out, keep_pairs=True)
    return [json.loads(row) for row in out.getvalue().splitlines()], found


def test_columns_of_other_names_and_paths_are_read(tmp_path: Path) -> None:
    columns = answer_columns("id=index, completion=output[0].text,answer=reward_model.ground_truth,truncated=cut")
    rows = [
        {"index": at, "output": [{"text": rf"\boxed{{{at}}}"}, {"text": ""}], "reward_model": {"ground_truth": 2},
         "cut": at == 3, "answer": "of no concern"}
        for at in (1, 2, 3)
    ]  # fmt: skip
    rows[2]["output"][0]["text"] = "no end"
    path, out = tmp_path / "answers.jsonl", io.StringIO()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Verifier(RewardParams()) as verifier:
        score_file(str(path), verifier, out, columns=columns)
    found = [json.loads(row) for row in out.getvalue().splitlines()]
    assert [(row["id"], row["status"]) for row in found] == [(1, "wrong"), (2, "correct"), (3, "truncated")]
    for wrong, said in (("answer=gold", r"line 1: the field 'gold' is missing.*--columns answer=…"),
                        ("truncated=nope", r"the field 'nope' is missing"), ("answer=output", "'output' holds a list"),
                        ("completion=output[0].words", r"'output\[0\].words' is missing")):  # fmt: skip
        with Verifier(RewardParams()) as verifier, pytest.raises(UserError, match=said):
            score_file(str(path), verifier, out, columns=columns | answer_columns(wrong))
    for refused in ("gold=answer", "answer", "answer="):
        with pytest.raises(ArgumentTypeError, match="where part is one of id, completion, answer, truncated"):
            answer_columns(refused)


def test_lines_come_out_in_order_with_five_keys(tmp_path: Path) -> None:
    rows, found = scored(
        tmp_path,
        line(id=7)
        + "\n"
        + line(id="b", completion=r"\boxed{6}", more={"x": 1})
        + line(id="c", completion="none", truncated=True)
        + line(id="d", completion="none", truncated=None)
        + line(id="e", answer=5, completion=r"<think>\boxed{6}</think> \boxed{05}"),
    )
    assert rows == [
        {"id": 7, "status": "correct", "extracted_answer": "5", "reward": 1.0, "reason": "integer: the same text"},
        {"id": "b", "status": "wrong", "extracted_answer": "6", "reward": -1.0, "reason": "integer: another value"},
        {"id": "c", "status": "truncated", "extracted_answer": None, "reward": -1.0, "reason": "no answer"},
        {"id": "d", "status": "no_answer", "extracted_answer": None, "reward": -1.0, "reason": "no answer"},
        {"id": "e", "status": "correct", "extracted_answer": "05", "reward": 1.0, "reason": "integer: the same text"},
    ]
    assert list(rows[0]) == ["id", "status", "extracted_answer", "reward", "reason"]
    assert found.statuses == {"correct": 2, "wrong": 1, "truncated": 1, "no_answer": 1}
    assert found.pairs == {("5", "5"): 1, ("5", "6"): 1, ("5", "05"): 1}


def test_chunks_leave_no_line_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 7)
    rows, found = scored(tmp_path, "".join(line(id=n, completion=rf"\boxed{{{n % 9}}}") for n in range(50)))
    assert [row["id"] for row in rows] == list(range(50))
    assert [row["status"] == "correct" for row in rows] == [n % 9 == 5 for n in range(50)]
    assert found.answers == 50


def test_half_surrogates_and_nulls_survive(tmp_path: Path) -> None:
    rows, _ = scored(tmp_path, line(id="\ud800\x00", completion="\\boxed{\udfff\x00} \ud83d"))
    reason = r"integer: not understood: the sign '\udfff'"
    assert rows == [{"id": "\ud800\x00", "status": "wrong", "extracted_answer": "\udfff\x00", "reward": -1.0,
                     "reason": reason}]  # fmt: skip


@pytest.mark.parametrize(
    ("verifier", "statuses"),
    [
        ("math_verify", ["correct", "wrong", "correct"]),
        ("math_verify_only", ["correct", "correct", "correct"]),
        ("exact", ["wrong", "wrong", "correct"]),
        ("string_match", ["wrong", "correct", "wrong"]),
    ],
)
def test_verifiers_differ(tmp_path: Path, verifier: str, statuses: list[str]) -> None:
    text = line(completion=r"\boxed{\frac{10}{2}}") + line(completion=r"\boxed{6=5}") + line(completion=r"\boxed{5.0}")
    rows, _ = scored(tmp_path, text, verifier=verifier, timeout=20.0)
    assert [row["status"] for row in rows] == statuses


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "line 2: not valid JSON"),
        (b"[" * 100_000, "line 2: not valid JSON .brackets are nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "line 2: not valid JSON"),
        (b"\xff", "line 2: not UTF-8 text"),
        (b"[1]", "line 2: a JSON object is expected, not list"),
        (b'{"id": 1, "answer": "5"}', "line 2: the field 'completion' is missing; there are: id, answer. Add it"),
        (b"{}", "line 2: the field 'id' is missing; there are: none"),
        (b'{"id": 1.5, "completion": "", "answer": "5"}', "line 2: id is float 1.5"),
        (b'{"id": true, "completion": "", "answer": "5"}', "line 2: id is bool true"),
        (b'{"id": 1, "completion": null, "answer": "5"}', "line 2: completion is null"),
        (b'{"id": 1, "completion": ["x"], "answer": "5"}', "line 2: completion is list"),
        (b'{"id": 1, "completion": "", "answer": true}', "line 2: column 'answer' holds true"),
        (b'{"id": 1, "completion": "", "answer": [1, 2]}', r"line 2: column 'answer' holds a list of 2.*'answer\[0\]'"),
        (b'{"id": 1, "completion": "", "answer": "\\ud800"}', "line 2: column 'answer' holds half a character"),
        (b'{"id": 1, "completion": "", "answer": " "}', "line 2: answer is empty"),
        (b'{"id": 1, "completion": "", "answer": NaN}', "line 2: answer is empty"),
        (
            b'{"id": 1, "completion": "", "answer": "5", "truncated": 1}',
            "line 2: truncated is int 1; true, false or",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: bytes, message: str) -> None:
    path, out = tmp_path / "a.txt", io.StringIO()
    path.write_bytes(line().encode() + text)
    with Verifier(RewardParams()) as verifier, pytest.raises(UserError, match=message):
        score_file(str(path), verifier, out)
    assert out.getvalue() == ""


@pytest.mark.parametrize("name", ["a.csv", "a.CSV.gz", "a.parquet", "a.jsonl.gz"])
def test_files_of_other_kinds_are_scored_alike(tmp_path: Path, name: str) -> None:
    rows = [{"id": n, "completion": rf"\boxed{{{n}}}", "answer": n / 2} for n in range(4)]
    write_rows(tmp_path / name, rows)
    out = io.StringIO()
    with Verifier(RewardParams()) as verifier:
        score_file(str(tmp_path / name), verifier, out)
    found = [json.loads(row) for row in out.getvalue().splitlines()]
    assert [str(row["id"]) for row in found] == ["0", "1", "2", "3"]
    assert [row["status"] for row in found] == ["correct", "wrong", "wrong", "wrong"]


def test_a_bad_line_prints_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(line() * 3000 + "{\n")
    done = score("a.jsonl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: a.jsonl, line 3001: not valid JSON")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, said in (("missing.jsonl", "does not exist"), (".", "cannot be read")):
        done = score(name, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {name} {said}")


def test_standard_output_is_json_alone(tmp_path: Path) -> None:
    text = line() + line(id=2, completion=r"\boxed{\frac{10}{2}}") + line(id=3, completion=r"\boxed{6=5}")
    done = score("-", "--audit", "--workers", "1", cwd=tmp_path, text=text)
    assert done.returncode == 0
    assert [json.loads(row)["status"] for row in done.stdout.splitlines()] == ["correct", "correct", "wrong"]
    assert "3 answers in " in done.stderr and " with math_verify 0.9" in done.stderr
    assert "correct 2, wrong 1" in done.stderr
    assert "audit: exact match and math-verify disagree on 2 of 3 distinct pairs" in done.stderr


def test_values_of_params_yaml_and_options(tmp_path: Path) -> None:
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert "\n  verifier: math_verify\n" in params and "\n  wrong: -1.0\n" in params
    changed = params.replace("\n  verifier: math_verify\n", "\n  verifier: exact\n").replace(
        "\n  wrong: -1.0\n", "\n  wrong: 0.25\n"
    )
    (tmp_path / "params.yaml").write_text(changed, encoding="utf-8")
    text = line() + line(completion=r"\boxed{\frac{10}{2}}") + line(completion="Answer: 5")
    done = score("-", cwd=tmp_path, text=text)
    assert [json.loads(row)["reward"] for row in done.stdout.splitlines()] == [1.0, 0.25, 0.25]
    assert f" with exact {RULES_VERSION}: " in done.stderr
    done = score("-", "--verifier", "string_match", "--answer-format", "answer_line", cwd=tmp_path, text=text)
    assert [json.loads(row)["status"] for row in done.stdout.splitlines()] == ["no_answer", "no_answer", "correct"]
    for arguments in (["--timeout", "0"], ["--timeout", "nan"], ["--workers", "-1"], ["--verifier", "none"]):
        done = score("-", *arguments, cwd=tmp_path, text=text)
        assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(line(id="x" * 1000 + str(n)) for n in range(5000)))
    command = ["sh", "-c", f"{sys.executable} -m pipelines.score a.jsonl | head -n 1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert json.loads(done.stdout)["status"] == "correct"
    assert done.stderr == ""
