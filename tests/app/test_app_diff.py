"""Tests the comparison of two rollouts, and the page that shows it."""

from pathlib import Path
import random
import shutil
import sys
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest
from streamlit.testing.v1 import AppTest

from app import differences, sources, store
from app.differences import common, difference, runs, token_marks, words
from app.places import places

PROJECT = Path(__file__).parents[2]
items = st.lists(st.sampled_from("abcd"), max_size=14)


def longest(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence by the table that every textbook has."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if left == right else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(items, items)
def test_as_much_is_shared_as_can_be(a: list[str], b: list[str]) -> None:
    pairs = common(a, b)
    assert len(pairs) == longest(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert pairs == sorted(pairs, reverse=True)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    found = difference(a, b)
    assert found.shared == longest(a, b) == found.right.count(False)
    assert [x for x, mark in zip(a, found.left, strict=True) if not mark] == [
        x for x, mark in zip(b, found.right, strict=True) if not mark
    ]


def test_marks_what_the_other_lacks() -> None:
    found = difference(["the", "cat", "sat"], ["the", "black", "cat", "lay"])
    assert found.left == [False, False, True] and found.right == [False, True, False, True]
    assert found.first == 1 and found.shared == 2
    assert difference(["a"], ["a"]).first is None


def test_long_texts_take_no_time() -> None:
    at = random.Random(0)
    a = [at.choice("abcdefgh") for _ in range(4096)]
    b = [at.choice("abcdefgh") for _ in range(4096)]
    began = time.process_time()
    assert difference(a, b).shared > 2000
    assert time.process_time() - began < 5


def test_beyond_the_limit_the_middle_is_marked_whole_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "LONGEST", 3)
    found = difference(list("xabcdy"), list("xaccey"))
    assert found.exact and found.left == [False, False, True, False, True, False]
    found = difference(list("xabcdey"), list("xdcbaqy"))
    assert not found.exact
    assert found.left == [False, True, True, True, True, True, False]


@given(st.text())
def test_words_are_the_text(text: str) -> None:
    assert "".join(words(text)) == text


def test_runs_join_neighbours() -> None:
    assert runs(["a", " ", "b", "c"], [False, False, True, True]) == [("a ", False), ("bc", True)]


def rollout(*tokens: str) -> dict[str, object]:
    starts = [sum(map(len, tokens[:place])) for place in range(len(tokens))]
    ends = [start + len(token) for start, token in zip(starts, tokens, strict=True)]
    return {"completion": "".join(tokens), "tokens": [*tokens, "<end>"], "token_starts": [*starts, ends[-1]],
            "token_ends": [*ends, ends[-1]]}  # fmt: skip


def test_a_token_is_marked_for_any_word_that_it_belongs_to() -> None:
    """`twelve` and `twenty` share a token, but not the word."""
    rows = (rollout("is", " twe", "lve", "."), rollout("is", " twe", "nty", "."))
    marked, found = token_marks(rows, "tokens")
    assert marked == [[False, False, True, False, False]] * 2 and found.shared == 4
    marked, found = token_marks(rows, "words")
    assert marked == [[False, True, True, False, False]] * 2 and found.shared == 3 and found.first == 2


def page(monkeypatch: pytest.MonkeyPatch, root: Path, **query: str) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=30)
    for name, value in query.items():
        at.query_params[name] = value
    at.switch_page("views/diff.py").run()
    assert not at.exception
    return at


def test_siblings_of_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(iter(sources.discover(sources.SAMPLE).runs.values()))
    table = store.step_rollouts(run, store.rollout_steps(run)[0])
    statuses: dict[int, dict[int, str]] = {}
    for group, sibling, status in zip(
        *(table[name].to_pylist() for name in ("group", "sibling", "status")), strict=True
    ):
        statuses.setdefault(group, {})[sibling] = status
    group = next(group for group, found in statuses.items() if len(set(found.values())) > 1)
    at = page(
        monkeypatch, sources.SAMPLE, run=run.id, step=str(store.rollout_steps(run)[0]), group=str(group), sibling="0"
    )
    other = int(at.session_state["b_sibling"])
    assert statuses[group][other] != statuses[group][0], "a sibling with another verdict tells the most"
    assert "in common" in at.markdown[-1].value or "same text" in at.markdown[-1].value


def test_two_runs_at_the_same_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(sources.discover(sources.SAMPLE).runs.values())
    problem, stands = next(iter(places(found[0]).items()))
    step, group = stands[0]
    at = page(monkeypatch, sources.SAMPLE, run=found[0].id, step=str(step), group=str(group), pair="two runs")
    assert at.session_state["b_run"] in [run.id for run in found[1:] if problem in places(run)]
    assert at.session_state["b_step"] == str(step)
    assert not at.error


def test_a_problem_that_the_other_run_has_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first, second = list(sources.discover(sources.SAMPLE).runs.values())[:2]
    steps = store.rollout_steps(first)
    for run, step in ((first, steps[0]), (second, steps[-1])):
        shutil.copytree(sources.SAMPLE / run.folder, tmp_path / run.folder)
        for path in (tmp_path / run.folder / "rollouts").glob("*.parquet"):
            if not path.name.startswith(f"step-{step:06d}"):
                path.unlink()
    at = page(monkeypatch, tmp_path, run=first.name, pair="two runs")
    assert f"{second.name} has no rollout of the problem" in at.error[0].value.replace("\\", "")


def test_the_other_run_is_one_of_the_same_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They met the same problems at the same steps."""
    found = list(sources.discover(sources.SAMPLE).runs.values())[:3]
    for run in found:
        shutil.copytree(sources.SAMPLE / run.folder, tmp_path / run.folder)
    path = tmp_path / found[1].folder / "config.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("\nseed: 0\n", "\nseed: 7\n"), encoding="utf-8")
    assert sources.discover(tmp_path).runs[found[1].name].seed == 7
    at = page(monkeypatch, tmp_path, run=found[0].name, pair="two runs")
    assert at.session_state["b_run"] == found[2].name


def test_any_two(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(sources.discover(sources.SAMPLE).runs.values())
    last = store.rollout_steps(found[1])[-1]
    chosen = {"b_run": found[1].id, "b_step": str(last), "b_group": "1", "b_sibling": "3"}
    at = page(monkeypatch, sources.SAMPLE, pair="any two", by="words", **chosen)
    assert {name: at.query_params[name] for name in chosen} == chosen
    assert "words" in at.markdown[-1].value


def test_the_same_rollout_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    at = page(monkeypatch, sources.SAMPLE, sibling="2", b_sibling="2")
    assert "same rollout" in at.markdown[-1].value
