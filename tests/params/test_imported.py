"""Tests own parts: an error names the part's field and path, and says what to do."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
import pytest

from sdpg.errors import UserError
from sdpg.params import Imported, Section, load_params
from sdpg.params.imported import check_call, imported_parts, load_part
from tests.helpers.own_modules import own_modules

FIELD = "reward.verifier"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "own_rule.py").write_text("LIMIT = 3\n\n\ndef judge(a, b, scale=1):\n    return a == b\n")
    with own_modules(tmp_path):
        yield tmp_path


def part(path: str, **options: object) -> Imported:
    return Imported(kind="import", path=path, options=options)


def test_a_part_comes_from_the_projects_folder_or_from_a_package(project: Path) -> None:
    assert load_part(part("own_rule:judge"), FIELD)(1, 1)
    assert load_part(part("json.decoder:JSONDecoder"), FIELD).__name__ == "JSONDecoder"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("own_rules:judge", r"there is no module own_rules: write own_rules\.py beside params\.yaml"),
        ("own_rule.part:judge", r"there is no module own_rule\.part"),
        ("own_rule:judges", r"own_rule\.py has no judges; it has: judge\. Correct the path"),
        ("own_rule:LIMIT", r"which is int 3: name a function or a class"),
        ("own_broken:judge", r"importing own_broken raises ZeroDivisionError: division by zero"),
        ("own_needs:judge", r"importing own_needs raises ModuleNotFoundError: No module named 'own_missing'"),
    ],
)
def test_a_part_that_cannot_be_had_is_an_error_for_people(project: Path, path: str, said: str) -> None:
    Path("own_broken.py").write_text("1 / 0\n")
    Path("own_needs.py").write_text("import own_missing\n")
    with pytest.raises(UserError, match=rf"^reward\.verifier\.path is '{path}', .*{said}"):
        load_part(part(path), FIELD)


def test_a_part_is_called_with_its_options_by_name(project: Path) -> None:
    judge = load_part(part("own_rule:judge"), FIELD)
    check_call(judge, part("own_rule:judge", scale=2), FIELD, "completion", "gold")
    with pytest.raises(UserError, match=r"judge\(a, b, scale=1\) cannot be called as \(completion, gold, sale=2\): "):
        check_call(judge, part("own_rule:judge", sale=2), FIELD, "completion", "gold")
    with pytest.raises(UserError, match=r"cannot be called as \(problem\): missing a required argument: 'b'"):
        check_call(judge, part("own_rule:judge"), FIELD, "problem")


@pytest.mark.parametrize("path", ["own_rule", "own_rule:", ":judge", "own rule:judge", "own_rule.py:judge:", "../a:b"])
def test_a_path_has_a_module_and_an_attribute(path: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        part(path)


def test_every_own_part_of_a_section_is_found() -> None:
    class Inner(Section):
        rule: str | Imported

    class Outer(Section):
        one: Inner
        many: dict[str, Inner]

    found = Outer(one=Inner(rule="math"), many={"a": Inner(rule=part("own_rule:judge"))})
    assert list(imported_parts(found, "outer")) == [("outer.many.a.rule", part("own_rule:judge"))]
    assert not list(imported_parts(load_params(Path(__file__).parents[2] / "params.yaml"), "params"))
