"""Tests questions across methods: problems that none solves, that one alone solves, that flipped; two texts aligned."""

import itertools
from pathlib import Path
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import accuracy, aligned, differences, problem_kinds, sources
from app.sources import SAMPLE
from tests.helpers import pages

TABLE = pd.DataFrame(
    {"base": [0.0, 1.0, 0.0, 0.0, 0.5], "grpo": [0.0, 0.5, 0.0, np.nan, 0.0], "rlsd": [0.0, 0.25, 0.125, 0.5, 0.0]},
    index=["never", "all", "one", "unasked", "lost"],
)


def test_problems_that_no_method_solves_and_that_one_alone_solves() -> None:
    assert problem_kinds.failed(TABLE) == ["never", "lost"]
    assert problem_kinds.alone(TABLE) == {"one": "rlsd", "unasked": "rlsd"}
    assert problem_kinds.alone(TABLE.loc[["never"]]) == {} and problem_kinds.failed(TABLE.loc[["all"]]) == []


def test_flips_are_counted_from_one_evaluation_to_the_next() -> None:
    table = pd.DataFrame({10: [0.0, 0.5, 1.0, 0.2], 20: [0.75, 0.4, 1.0, 0.1], 30: [0.25, 0.6, 0.9, 0.3]},
                         index=["up and down", "back", "kept", "never"])  # fmt: skip
    found = problem_kinds.flipped({"grpo": table, "rlsd": table.iloc[2:]})
    assert found["problem"].tolist() == ["back", "up and down"] and set(found["key"]) == {"grpo"}
    assert found["path"].tolist() == ["●○●", "○●○"] and found["flips"].tolist() == [2, 2]
    assert found["first"].tolist() == [0.5, 0.0] and found["last"].tolist() == [0.6, 0.25]
    assert problem_kinds.flipped({}).empty


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's runs; in their larger samples RLSD alone solves one problem, and none another."""
    root = tmp_path_factory.mktemp("across") / "project"
    shutil.copytree(SAMPLE, root)
    for path in (root / "evaluations").glob("*/final.parquet"):
        table = pq.read_table(path)
        names = np.array(table["problem_id"].to_pylist())
        ours = np.array(table["benchmark"].to_pylist()) == "chain-3"
        one, none = sorted(set(names[ours]))[:2]
        status = np.array(table["status"].to_pylist(), dtype=object)
        status[ours & (names == none)] = "wrong"
        status[ours & (names == one)] = "correct" if path.parent.name == "rlsd-0" else "wrong"
        at = table.schema.get_field_index("status")
        pq.write_table(table.set_column(at, table.schema.field(at), pa.array(list(status), pa.string())), path)
    return root


def test_the_page_lists_each_kind(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = list(sources.discover(root).runs.values())
    table = accuracy.matrix(accuracy.solved(runs, "chain-3", accuracy.final_of("chain-3"), False)[0])
    first, second = sorted(table.index)[:2]
    shown = {}
    for kind in problem_kinds.KINDS:
        at = pages.opened("problems", root, monkeypatch, benchmark="chain-3", sorted=kind)
        assert not at.exception and not at.error
        shown[kind] = next(each.value for each in at.dataframe if "problem" in each.value)
    assert second in set(shown[problem_kinds.FAILED]["problem"]) and "base" in shown[problem_kinds.FAILED]
    alone = shown[problem_kinds.ALONE].set_index("problem")
    assert alone.loc[first, "method"] == "RLSD" and alone.loc[first, "right"] == 100
    assert set(shown[problem_kinds.FLIPPED]["evaluations"].str.len()) == {6}
    # The answers of a method that is right beside those of one that is wrong.
    at = pages.opened("problems", root, monkeypatch, benchmark="chain-3", problem=first)
    assert not at.exception and "Compare two answers" in [each.label for each in at.expander]


WORDS = [("", ""), ("a b c", "a b c"), ("a b c", "a x c"), ("a b", "a b c d"), ("x", ""), ("<b>1</b> 2", "<i>1</i> 3")]


@pytest.mark.parametrize(("left", "right"), [*WORDS, *((b, a) for a, b in WORDS)])
def test_blocks_hold_both_texts_and_what_they_share(left: str, right: str) -> None:
    parts = aligned.blocks(differences.words(left), differences.words(right))
    assert "".join(a for a, _, _ in parts) == left and "".join(b for _, b, _ in parts) == right
    assert all((a == b and bool(a)) if same else (a, b) != ("", "") for a, b, same in parts)
    assert all(one[2] != other[2] for one, other in itertools.pairwise(parts))


def test_long_random_texts_are_aligned_whole() -> None:
    source = np.random.default_rng(0)
    for _ in range(30):
        sides = [[f"{word} " for word in source.integers(0, 5, source.integers(0, 40))] for _ in range(2)]
        parts = aligned.blocks(*sides)
        assert ["".join(part[at] for part in parts) for at in (0, 1)] == ["".join(side) for side in sides]
        shared = "".join(a for a, _, same in parts if same).split()
        assert len(shared) == differences.difference(*sides).shared


@pytest.mark.parametrize("sides", [("<script>alert(1)</script>\u202e", ""), ("", "<img src=x onerror=alert(1)>\u202e")])
def test_no_text_is_markup_in_the_alignment(sides: tuple[str, str]) -> None:
    shown = aligned.html(*sides, ("<b>A</b>", "B & C"))
    assert "<script" not in shown and "<img" not in shown and "<b>" not in shown and "\u202e" not in shown
    assert "&lt;script&gt;alert(1)" in shown or "&lt;img src=x" in shown
    assert "&lt;b&gt;A" in shown and "B &amp; C" in shown


def test_the_diff_page_aligns_two_siblings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = pages.opened("diff", root, monkeypatch, run="rlsd-0", step="60", group="1", sibling="2", b_sibling="3")
    assert not at.exception and not at.error
    (table,) = [each for each in at.get("html") if "<table" in each.proto.body]
    assert table.proto.body.count("<tr>") >= 2 and "A · " in table.proto.body and ", answer " in table.proto.body
