"""Tests the tree of seeds: every stream has a name that docs/reproduction.md lists, and no stream moves another."""

import ast
from pathlib import Path
import re
from typing import Any

import pytest

from sdpg.params import SyntheticSource, load_params
from sdpg.problems import sources
from sdpg.problems.sources import load_problems, split_validation
from sdpg.seeds import derive_seed
from sdpg.training import steps

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| [`\w., -]+ \| `([\w.]+)`[^|]*\|[^|]*\| `([\w/.]+)` \|$", re.MULTILINE)


def uses() -> list[tuple[str, str]]:
    """The stream and the module of every use of ``derive_seed``; a name that is no literal stands as it is written."""
    found = []
    for file in sorted((ROOT / "sdpg").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "derive_seed":
                found.append((ast.unparse(node.args[1]).strip("'"), file.relative_to(ROOT / "sdpg").as_posix()))
    return found


def test_every_stream_is_documented_and_has_one_consumer() -> None:
    documented = ROW.findall((ROOT / "docs/reproduction.md").read_text(encoding="utf-8"))
    assert sorted(uses()) == sorted(documented)
    names = [name for name, _ in uses()]
    assert len(set(names)) == len(names) > 10


def test_streams_do_not_meet() -> None:
    parts: list[str | int] = [0, 1, 11, "a", "train"]
    seeds = [derive_seed(seed, name, part) for seed in range(12) for name, _ in uses() for part in parts]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)


def drawn() -> dict[str, Any]:
    """What the streams give of which the data and the order of training are made."""
    steps._epoch_order.cache_clear()
    data = load_params(ROOT / "params.yaml").data
    source = SyntheticSource(kind="synthetic", families={"chain-3": 1}, count=30, wrong_hints=0.5)
    problems = load_problems(source, "train", data, needs_solution=True).problems
    rest, chosen = split_validation(problems, 8, data.seed, frozenset())
    return {
        "problems": [problem.problem for problem in problems],
        "hints": [type(problem).__name__ for problem in problems],
        "validation": [problems.index(problem) for problem in chosen],
        "epoch": steps.step_prompts(len(rest), 4, 3, seed=0),
    }


@pytest.mark.parametrize("stream", ["problems", "hints", "validation", "epoch"])
def test_another_seed_for_one_stream_leaves_the_others(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = drawn()

    def moved(seed: int, *purpose: str | int) -> int:
        return derive_seed(seed + (purpose[0] == stream), *purpose)

    for module in (sources, steps):
        monkeypatch.setattr(module, "derive_seed", moved)
    after = drawn()
    assert {name for name in before if before[name] != after[name]} == {stream}
