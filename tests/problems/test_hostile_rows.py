"""Tests that rows of a source which no parser or file takes are named by their line, and are no tracebacks."""

from pathlib import Path

import pytest

from sdpg.errors import UserError
from sdpg.files import read_json_lines
from sdpg.params import ColumnMap, FileSource
from sdpg.problems.raw_rows import cell, read_rows

GOOD = '{"problem": "What is 1+1?", "answer": "2"}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000, r"not valid JSON \("), ('{"problem": ' * 100_000, r"not valid JSON \("),
        ('{"problem": ' + "9" * 5000 + "}", r"not valid JSON \(.*4300"), ("[1]", "a JSON object is expected"),
        ('{"problem": "a', r"not valid JSON \("),
    ],
)  # fmt: skip
def test_the_third_row_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n\n{GOOD}\n{line}\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 4: {said}"):
        read_json_lines(path)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (r'"half \ud800 a character"', "'problem' holds half a character"), (r'"\udfff"', "half a character"),
        ("[" * 500 + "]" * 500, "'problem' holds a list"), ('{"a": 1}', "'problem' holds an object of a"),
        ("1" * 4200, "'problem' holds a int"), ("true", "'problem' holds true"),
        ('{"\\\\udc00": 1}', "'problem' holds an object of"),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_text_is_named(value: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{GOOD}\n\n{GOOD}\n{{"problem": {value}, "answer": "2"}}\n')
    columns = ColumnMap(problem="problem", answer="answer")
    rows = read_rows(FileSource(kind="file", path="rows.jsonl", columns=columns), "data.train", tmp_path)
    found = list(rows.rows)
    assert cell(rows, 1, found[1], "problem") == "What is 1+1?"
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 4: column {said if said[0] == chr(39) else '.*' + said}"):
        cell(rows, 2, found[2], "problem")


def test_a_whole_pair_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"problem": "\\ud83d\\ude00", "answer": 12345678901234567890}\n')
    columns = ColumnMap(problem="problem", answer="answer")
    rows = read_rows(FileSource(kind="file", path="rows.jsonl", columns=columns), "data.train", tmp_path)
    [row] = rows.rows
    assert (cell(rows, 0, row, "problem"), cell(rows, 0, row, "answer")) == ("😀", "12345678901234567890")
