"""Problems of a user's own function go the way of a file's rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.params import Imported, load_params
from sdpg.problems.sources import load_problems
from tests.helpers.own_modules import own_modules

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Any]:
    with own_modules(tmp_path):
        yield lambda body: (tmp_path / "own_problems.py").write_text(f"def problems(count=2):\n    {body}\n")


def load(needs_solution: bool = False, **options: Any) -> Any:
    source = Imported(kind="import", path="own_problems:problems", options=options)
    data = load_params(ROOT / "params.yaml").data
    return load_problems(source, "train", data, needs_solution=needs_solution)


def test_rows_are_cleaned_and_counted_like_those_of_a_file(write: Any) -> None:
    write("return [{'problem': f' {n}+1 ', 'answer': n + 1.0, 'solution': None} for n in [*range(count), 0]]")
    found = load(count=3)
    assert (found.read, dict(found.dropped)) == (4, {"duplicate": 1})
    assert [(one.id, one.problem, one.answer, one.solution, one.source) for one in found.problems] == [
        (f"train-{n}", f"{n}+1", str(n + 1), "", "own_problems:problems") for n in range(3)
    ]
    assert dict(load(needs_solution=True).dropped) == {"no_solution": 3}


def test_ids_and_solutions_are_kept(write: Any) -> None:
    write("yield {'problem': '1+1', 'answer': '2', 'solution': 'It is 2.', 'id': 'one'}")
    [problem] = load(needs_solution=True).problems
    assert (problem.id, problem.solution) == ("one", "It is 2.")


@pytest.mark.parametrize(
    ("body", "options", "said"),
    [
        (
            "yield {'problem': '1+1'}",
            {},
            r"own_problems:problems, row 1: a dict with problem.*\['problem'\]",
        ),
        ("yield {'problem': '1', 'answer': '1', 'hint': ''}", {}, r"row 1: .*\['answer', 'hint', 'problem'\]"),
        ("yield '1+1'", {}, r"row 1: .*not str '1\+1'"),
        ("yield {'problem': ['1', '2'], 'answer': '1'}", {}, r"row 1: column 'problem' holds a list of 2, not text"),
        ("return [{'problem': n, 'answer': n, 'id': 'a'} for n in (1, 2)]", {}, r"row 2: id 'a' belongs to another"),
        ("return None", {}, r"data\.train: own_problems:problems raised TypeError after 0 rows: 'NoneType'"),
        ("yield {'problem': '1', 'answer': '1'}; 1 / 0", {}, r"raised ZeroDivisionError after 1 rows"),
        ("yield {}", {"size": 2}, r"data\.train: problems\(count=2\) cannot be called as \(size=2\)"),
    ],
)
def test_what_is_no_problem_is_named(write: Any, body: str, options: dict[str, Any], said: str) -> None:
    write(body)
    with pytest.raises(UserError, match=said):
        load(**options)
