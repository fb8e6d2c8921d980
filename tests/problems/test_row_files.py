"""Tests that problems are read from the files that people have, and from the layouts in which sets are published."""

import gzip
import json
from pathlib import Path
import re
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.params import ColumnMap, DataParams
from sdpg.params.tree import parse_yaml
from sdpg.problems.rows.columns import text_of, value_at
from sdpg.problems.sources import Problem, load_problems, read_benchmark
from tests.helpers.row_files import write_rows

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = [
    {"problem": "1+1?", "answer": "2", "solution": "It is 2."},
    {"problem": "Zeile\nzwei: ¾ + ¼?", "answer": "027", "solution": 'A "quoted", long step.'},
    {"problem": "third", "answer": "3.50", "solution": ""},
]


def load(folder: Path, **source: object) -> list[Problem]:
    data = DataParams.model_validate({
        "folder": str(folder), "train": source | {"kind": "file"}, "validation_size": 1,
        "benchmarks": {"none": {"title": "None", "source": source | {"kind": "file"}}},
    })  # fmt: skip
    return load_problems(data.train, "train", data).problems


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.JSONL", "a.jsonl.gz", "a.json", "a.csv", "a.CSV", "a.csv.GZ", "a.parquet", "a.parquet.gz"]
)
def test_every_kind_of_file_gives_the_same_problems(tmp_path: Path, name: str, mark: bytes, line_end: str) -> None:
    write_rows(tmp_path / "sub" / name, ROWS, line_end, mark)
    found = load(tmp_path, path=f"sub\\{name}", columns={"solution": "solution"})
    assert [(one.problem, one.answer, one.solution) for one in found] == [
        ("1+1?", "2", "It is 2."),
        ("Zeile\nzwei: ¾ + ¼?", "27", 'A "quoted", long step.'),
        ("third", "3.50", ""),
    ]
    assert [one.problem for one in read_benchmark(tmp_path / "sub" / name).problems] == [one.problem for one in found]


def test_a_json_file_may_hold_lines(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.jsonl").rename(tmp_path / "a.json")
    assert [one.answer for one in load(tmp_path, path="a.json")] == ["2", "27", "3.50"]


BEFORE = "Solve the following math problem step by step. The last line has to be of the form Answer: $Answer."
BEHIND = 'Remember to put your answer on its own line after "Answer:".'
DAPO = [
    # As DAPO-Math-17k and verl's own scripts write it: a chat with instructions around the problem.
    {"data_source": "math_dapo",
     "prompt": [{"role": "user", "content": f"{BEFORE}\n\n{problem}\n\n{BEHIND}"}],
     "ability": "MATH", "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
     "extra_info": {"index": key}}
    for problem, answer, key in (("What is 1+1?", "2", "k-0"), ("And 17 · 2?", "34", "k-1"), ("Third?", "-3", "k-2"))
]  # fmt: skip


@pytest.mark.parametrize("name", ["dapo.parquet", "dapo.jsonl.gz"])
@pytest.mark.parametrize("problem", ["prompt", "prompt[0].content"])
def test_raw_verl_layout(tmp_path: Path, name: str, problem: str) -> None:
    write_rows(tmp_path / name, DAPO)
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    stated = parse_yaml(re.search(r"(?s)    columns:\n(?:      .*?\n)+", page)[0], "docs")["columns"]  # pyright: ignore
    assert stated["problem"] == "prompt"
    columns = stated | {"problem": problem}
    found = load(tmp_path, path=name, columns=columns)
    assert [(one.id, one.problem, one.answer) for one in found] == [
        ("k-0", "What is 1+1?", "2"), ("k-1", "And 17 · 2?", "34"), ("k-2", "Third?", "-3"),
    ]  # fmt: skip
    # sdpg evaluate takes the same map.
    assert [one.problem for one in read_benchmark(tmp_path / name, ColumnMap.model_validate(columns)).problems] == [
        one.problem for one in found
    ]


def test_a_chat_with_a_system_message_and_an_answer_is_its_one_question(tmp_path: Path) -> None:
    messages = [{"role": role, "content": f"{role} says"} for role in ("system", "user", "assistant")]
    write_rows(tmp_path / "a.jsonl", [{"messages": messages, "answer": [5.0]}])
    columns = {"problem": "messages", "solution": "messages[2].content"}
    [one] = load(tmp_path, path="a.jsonl", columns=columns)
    assert (one.problem, one.answer, one.solution) == ("user says", "5", "assistant says")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"), (204.0, "204"), (1.6e-19, "1.6e-19"), (float("nan"), ""), (float("-inf"), ""), (None, ""),
        (True, UserError), ([], ""), (["$2$"], "2"), ([7], "7"), ([None], ""), ([1, 2], UserError),
        ([[1]], UserError), ({"a": 1}, UserError), (-0.0, "0"), (10**25, str(10**25)), ("  x ", "x"),
    ],
)  # fmt: skip
def test_loaders_and_benchmarks_read_the_same_values(tmp_path: Path, value: Any, text: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"problem": "p", "answer": value}) + "\n" + json.dumps(ROWS[0]) + "\n")
    readers = (lambda: load(tmp_path, path="a.jsonl"), lambda: read_benchmark(path).problems)
    for reader in readers:
        if text is UserError:
            with pytest.raises(UserError, match=r"a\.jsonl, line 1: column 'answer' holds"):
                reader()
        elif text:
            assert reader()[0].answer == text
    if text == "":
        assert [one.answer for one in load(tmp_path, path="a.jsonl")] == ["2"]
        with pytest.raises(UserError, match=r"line 1: 'answer' is empty"):
            read_benchmark(path)


NESTED = {"a": {"b": [{"c": 1}, {"c": "third"}], "d": None}, "a.b": "whole", "x[0]": 7, "d": [], "empty": None}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("a.b", "whole"), ("x[0]", 7), ("a.b[1].c", "third"), ("a.d", None), ("a.d.e", None), ("d[3]", None),
        ("empty.more[2]", None),
    ],
)  # fmt: skip
def test_paths_lead_into_columns(column: str, value: Any) -> None:
    assert value_at(NESTED, column) == value


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("q", r"no column 'q'; there are: a, a\.b, d"), ("q.b", r"no column 'q\.b'"),
        ("a.c", r"no column 'a\.c'; there are: a\.b, a\.d"), ("a[0]", "'a' holds an object of b, d"),
        ("a.b.c", r"'a\.b' holds a list of 2"), ("a.b[0].c.d", r"'a\.b\[0\]\.c' holds a int"),
        ("a..b", r"no column 'a\.\.b'"), ("", "no column ''"),
    ],
)  # fmt: skip
def test_paths_that_lead_nowhere_are_named(column: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        text_of(value_at(NESTED, column), column)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"problem,answer\n1+1?,2,3\n", r"a\.csv, line 2: 3 cells, but the first line names 2"),
        ("a.csv", b"problem,answer,answer\n", "the columns answer come twice"),
        ("a.csv", b'problem,answer\n"1+1?,2\n', r"a\.csv, line 2: not valid CSV"),
        ("a.csv", b"problem,answer\n\xff,2\n", "not UTF-8 text"),
        ("a.csv", b"problem;answer\n1;2\n", "no column 'problem'; there are: problem;answer"),
        ("a.jsonl.gz", gzip.compress(b'{"problem": "1", "answer": "1"}\n' * 99, mtime=0)[:-9], "damaged or cut off"),
        ("a.json", b'[{"problem": "1", "answer": "1"}, 2]', "row 2: a JSON object is expected, not int"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'[{"problem": "1"', "not valid JSON"),
        ("a.jsonl", b'{"problem": "1", "answer": "1"}\n' + b'{"a": ' * 100_000, "line 2: .*nested too deeply"),
        ("a.jsonl", '{"problem": "1"}'.encode("utf-16"), "line 1: not UTF-8 text"),
    ],
)  # fmt: skip
def test_damage_is_one_message(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        load(tmp_path, path=name)
    (tmp_path / "sub").mkdir()
    with pytest.raises(UserError, match=r"sub\.jsonl does not exist"):
        load(tmp_path, path="sub.jsonl")
    with pytest.raises(UserError, match=r"outside data\.folder"):
        load(tmp_path, path="sub\\..\\..\\a.jsonl")
