"""Tests that params.yaml cannot exhaust who reads it, and that no value passes for another type's."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
import pytest

from sdpg.errors import UserError
from sdpg.params import load_params, parse_params, read_yaml
from sdpg.params.tree import DEEPEST, MOST_VALUES

ROOT = Path(__file__).parents[2]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, f"unfolds to more than {MOST_VALUES:,} values, by aliases"),
        ("".join(f"- {n}\n" for n in range(MOST_VALUES + 1)), f"unfolds to more than {MOST_VALUES:,} values"),
        ("[" * 3000 + "]" * 3000, f"more than {DEEPEST} deep"),
        ("a: " + "{b: " * 3000 + "1" + "}" * 3000, f"more than {DEEPEST} deep"),
        ("".join(" " * n + "a:\n" for n in range(300)), f"more than {DEEPEST} deep"),
        ("[" * 3000, f"more than {DEEPEST} deep"),
        ("a: &a [*a]", r"an alias \*a within what it names"),
        ("a: *b", r"an alias \*b within|is not valid YAML"),
        ("? [1, 2]\n: 3", "is not valid YAML|is not valid"),
        ("when: 2026-02-31", "is not valid YAML"),
        ("a: 1\na: 2", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid"),
        ("a: \x00", "is not valid YAML"),
        ("a: '\udcff'", "is not valid YAML"),
    ],
)
def test_hostile_files_are_refused_soon(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    begin = time.process_time()
    with pytest.raises(UserError, match=rf"params\.yaml.*{said}") as raised:
        load_params(path)
    assert time.process_time() - begin < 5 and len(str(raised.value)) < 10_000


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)  # fmt: skip
@given(data=st.data())
def test_a_damaged_file_is_another_one_or_is_named(tmp_path: Path, data: st.DataObject) -> None:
    whole = (ROOT / "params.yaml").read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(st.sampled_from([
        whole[:at],
        whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :],
        whole[:at] + data.draw(st.text(max_size=4)).encode() + whole[at:],
        whole[:at] + whole[data.draw(st.integers(at, min(at + 200, len(whole)))) :],
    ]))  # fmt: skip
    path = tmp_path / "params.yaml"
    path.write_bytes(damaged)
    try:
        load_params(path)
    except UserError as error:
        assert "params.yaml" in str(error) and len(str(error)) < 10_000


def test_aliases_and_merges_that_stay_small_are_read(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(
        "a: &a {x: 1, y: [2]}\nb: *a\nc: {<<: *a, x: 3}\n" + "d: " + "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    )
    tree = read_yaml(path)
    assert (tree["b"], tree["c"]) == ({"x": 1, "y": [2]}, {"x": 3, "y": [2]})


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yields the path and value of every leaf; options and choices have the types of what they are for."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if key not in ("options", "choices"):
            yield from leaves(value, (*path, key)) if isinstance(value, dict | list) else [((*path, key), value)]


def others(value: Any) -> list[Any]:
    match value:
        case bool():
            return [int(value), str(value).lower(), "yes", 1.0]
        case int():
            return [True, str(value), float(value), f"{value}.0"]
        case float():
            return [True, str(value), "1e-3"]
        case str():
            return [True, 7, 7.5]
    return []


def test_no_value_passes_for_one_of_another_type() -> None:
    tree = read_yaml(ROOT / "params.yaml")
    whole, taken = parse_params(tree), []
    for path, value in list(leaves(tree)):
        for other in others(value):
            changed = deepcopy(tree)
            _set(changed, path, other)
            try:
                found = parse_params(changed)
            except UserError:
                continue
            # A float's field that happens to hold a whole number takes any number.
            if not (isinstance(value, int) and isinstance(other, float) and not isinstance(value, bool)):
                taken.append((path, value, other, found == whole))
    assert taken == []


def _set(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


@pytest.mark.parametrize("value", [True, "8", 8.0, 8.5, None, [8]])
def test_steps_is_a_whole_number(value: Any) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["train"]["steps"] = value
    with pytest.raises(UserError, match=r"train\.steps: Input should be a valid integer"):
        parse_params(tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tree: tree["rollout"].update(top_p=0.95), r"rollout\.top_p is 0\.95: .*set it to 1"),
        (lambda tree: tree["train"].update(updates_per_batch=2),
         r"updates_per_batch of methods\..* is 2 .*clipped_weight .*or updates_per_batch to 1"),
    ],
)  # fmt: skip
def test_choices_that_no_formula_stands_behind_are_refused(change: Callable[[Any], None], said: str) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    change(tree)
    with pytest.raises(UserError, match=said):
        parse_params(tree)


def test_what_stands_behind_a_formula_is_accepted() -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["evaluation"]["top_p"], tree["train"]["updates_per_batch"] = 0.95, 2
    for method in tree["methods"].values():
        if method["outcome"] == "reinforce":
            method["outcome"] = "clipped_weight"
    parse_params(tree)
    # A method that is not trained may have any outcome.
    tree["methods"]["alone"] = {"title": "Alone", "outcome": "reinforce"}
    parse_params(tree)
