"""Tests joining by problem text, and what a dataset's rows become."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdpg.errors import UserError
from sdpg.params import FileSource, HubSource
from sdpg.problems.sources import Problem
from sdpg.solutions.joining import DatasetSource, join_key
from sdpg.solutions.settings import KNOWN, DatasetSettings, parse_dataset, parse_source

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Find  $x$\nif $x + 1 = 2$.", "Find \\(x\\) if \\(x+1=2\\)."),
        ("Let $\\left( a \\right)$", "Let $( a )$"),
        ("Compute $\\dfrac{1}{2}$.", "Compute \\[\\frac{1}{2}\\]."),
        ("Compute $\\tfrac{1}{2}$.", "Compute $\\frac{1}{2}$."),
        ("$1,\\!000$ – or −3", "$1,000$ - or -3"),
        ("It’s “x”", 'It\'s "x"'),
        (DAPO.format("What is $2+2$?"), "What is $2+2$?"),
        ("Return your final response within \\boxed{}. What is 2+2?", "What is 2+2?"),
        ("What is 2+2?\nPlease reason step by step, and put your final answer within \\boxed{}.", "What is 2+2?"),
        ("cafe\u0301 has 3", "caf\u00e9 has 3"),
        ("a\u00a0b", "a b"),
    ],
)
def test_equal_problems(one: str, other: str) -> None:
    assert join_key(one) == join_key(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 1 2?", "What is 12?"),
        ("Find $a b$", "Find $ab$"),
        ("Find $A$", "Find $a$"),
        ("What is $2^2$?", "What is $22$?"),
        ("What is x\u00b2?", "What is x2?"),
        ("$x+1$", "$x-1$"),
        ("\\frac{1}{2}", "\\frac{2}{1}"),
        ("It costs \\$5", "It costs 5"),
        ("\\leftarrow 2", "arrow 2"),
    ],
)
def test_different_problems(one: str, other: str) -> None:
    assert join_key(one) != join_key(other)


def problem(identifier: str, text: str) -> Problem:
    return Problem(identifier, text, "4", "", "hand")


def test_every_row_of_a_problem_in_order(tmp_path: Path) -> None:
    table = pa.table(
        {
            "q": ["What is $2+2$?", "other", "What is $2 + 2$?", None, "What is $2+2$?", "What is 1+3?"],
            "work": ["first", "x", "second", "y", None, "  "],
        }
    )
    pq.write_table(table, tmp_path / "worked.parquet")
    source = FileSource.model_validate(
        {"kind": "file", "path": "worked.parquet", "columns": {"problem": "q", "solution": "work"}}
    )
    way = DatasetSource(DatasetSettings(name="worked", source=source), tmp_path)
    twins = [problem("a", "What is 2+2?"), problem("b", "What is 1+3?"), problem("c", "What is $2+ 2$?")]
    found = way.find_candidates(twins, 0)
    assert [[one.text for one in many] for many in found] == [["first", "second"], [], ["first", "second"]]
    assert {one.origin for many in found for one in many} == {f"{tmp_path}/worked.parquet:work"}
    assert way.used() == {"rows": 6, "joined": 2}


def test_a_hub_dataset_from_a_local_folder(tmp_path: Path) -> None:
    folder = tmp_path / "open-thoughts/OpenThoughts-114k"
    (folder / "metadata").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: metadata\n  data_files:\n  - split: train\n    path: metadata/*.parquet\n---\n"
    )
    table = pa.table({"problem": ["What is 2+2?"], "deepseek_solution": ["4 it is"], "ground_truth_solution": ["true"]})
    pq.write_table(table, folder / "metadata/train-00000-of-00001.parquet")
    for name, text in (("openthoughts", "4 it is"), ("openthoughts-ground-truth", "true")):
        [[found]] = DatasetSource(parse_dataset(name), tmp_path).find_candidates([problem("a", "What is $2+2$?")], 0)
        assert found.text == text and found.origin.startswith("open-thoughts/OpenThoughts-114k/metadata:")
        assert found.origin.endswith("@main")


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["a"], "work": ["b"]}), tmp_path / "w.parquet")
    way = parse_dataset("{kind: file, path: w.parquet, columns: {problem: q, solution: steps}}")
    with pytest.raises(UserError, match=r"there is no column 'steps'; there are: q, work"):
        DatasetSource(way, tmp_path).find_candidates([], 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothought", "not a known dataset; there are: openthoughts, openthoughts-ground-truth"),
        ("{kind: file, path: a.jsonl}", "columns.solution names no column"),
        ("{kind: file", "not valid YAML"),
        ("{kind: " + "[" * 3000 + "]" * 3000 + "}", "--dataset has brackets or indents more than 40 deep"),
        ("{a: &a [x, x], " + ", ".join(f"b{n}: &a [*a, *a, *a]" for n in range(20)) + "}", "unfolds to more than"),
        ("{kind: file, path: !!bool maybe}", "--dataset is not valid YAML"),
        ("{kind: synthetic, families: {a: 1}, count: 3}", "have solutions already"),
        ("{kind: hub, id: a/b}", "hub.revision: Field required"),
        ("{kind: file, path: a, colums: {}}", "file.colums: Extra inputs"),
    ],
)
def test_a_wrong_dataset_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_dataset(text)


def test_sources_are_written_as_in_params_yaml() -> None:
    parsed = parse_source("{kind: hub, id: a/b, revision: main, columns: {problem: p, solution: s}}", "--dataset")
    assert isinstance(parsed, HubSource) and parsed.columns.solution == "s"
    assert all(source.columns.solution for source in KNOWN.values())
