"""Tests the ranking of a run's tokens, their marks, and the most probable tokens that the rollout page shows."""

from collections import defaultdict
import math
from pathlib import Path
import shutil
from typing import Any

import pytest

from app import sources, store, token_ranking, tokens
from app.sources import SAMPLE, RunEntry
from sdpg.records.schemas import TOP_TOKENS, read_rollouts, write_rollouts
from tests.helpers import pages

RUN = "sdpg-ufkl-0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's runs, of which one has the two most probable tokens at the rollouts that the teacher scored."""
    root = tmp_path_factory.mktemp("tokens") / "project"
    shutil.copytree(SAMPLE, root)
    for path in (root / "runs" / RUN / "rollouts").iterdir():
        rows = read_rollouts(path).to_pylist()
        for row in rows:
            if row["teacher_logprob"]:
                for name in TOP_TOKENS:
                    row[name] = [text for token in row["tokens"] for text in (token, f"{name}<b>")]
                    row[f"{name}_logprob"] = [value for _ in row["tokens"] for value in (math.log(0.75), -2.5)]
        write_rollouts(path, rows)
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> RunEntry:
    return sources.discover(root).runs[RUN]


def everything(run: RunEntry, by: str) -> list[tuple[float, tuple[int, int, int], int, str]]:
    """The value, rollout, place and text of every token that has a value, worked out one by one."""
    counts = store.metrics(run).set_index("step")["response_tokens"]
    found = []
    for step in store.rollout_steps(run):
        for row in store.step_rollouts(run, step).to_pylist():
            lists = [row[name] for name in token_ranking.NEEDS[by]]
            if any(values is None for values in lists):
                continue
            for at, values in enumerate(zip(*lists, strict=True)):
                value = values[0] - values[1] if len(values) == 2 else values[0]
                value *= counts[step] if by == "loss" else 1
                found.append((value, (step, row["group"], row["sibling"]), at, row["tokens"][at]))
    return found


@pytest.mark.parametrize("by", list(token_ranking.SIGNALS))
def test_the_largest_are_those_of_all_tokens(run: RunEntry, by: str) -> None:
    expected = sorted(everything(run, by), key=lambda token: -abs(token[0]))
    found = token_ranking.largest(run, store.rollout_steps(run), by, None, 40)
    assert found["value"].tolist() == pytest.approx([token[0] for token in expected[:40]], rel=1e-5)
    known = {(key, at): text for _, key, at, text in expected}
    for row in found.itertuples():
        assert known[(row.step, row.group, row.sibling), row.at] == row.token  # pyright: ignore
    # Of some rollouts alone, and of one text alone.
    keys = {key for _, key, _, _ in expected[100:110]}
    some = token_ranking.largest(run, store.rollout_steps(run), by, keys, 5)
    assert abs(some["value"][0]) == pytest.approx(
        max(abs(token[0]) for token in expected if token[1] in keys), rel=1e-5
    )
    text = expected[7][3]
    of_text = token_ranking.largest(run, store.rollout_steps(run), by, None, 5, text)
    assert set(of_text["token"]) == {text}
    assert abs(of_text["value"][0]) == pytest.approx(
        max(abs(token[0]) for token in expected if token[3] == text), rel=1e-5
    )


def test_texts_are_ranked_by_their_share_of_the_whole(run: RunEntry) -> None:
    by_text: dict[str, list[float]] = defaultdict(list)
    for value, _, _, text in everything(run, "disagreement"):
        by_text[text].append(value)
    sums = {text: sum(map(abs, values)) for text, values in by_text.items()}
    table = token_ranking.by_text(run, store.rollout_steps(run), "disagreement", None)
    assert table["token"].tolist()[:10] == sorted(sums, key=lambda text: -sums[text])[:10]
    first = table.iloc[0]
    values = by_text[str(first["token"])]
    assert first["count"] == len(values) and first["mean"] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert first["share"] == pytest.approx(sums[str(first["token"])] / sum(sums.values()), rel=1e-4)
    assert float(table["share"].sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "inside"),
    [(r"so \boxed{12} ok", ["12"]), (r"\boxed {a{b}c}", ["a{b}c"]), (r"\boxed{1}\boxed{2", ["1", "2"]), ("none", []),
     (r"\boxed{}", [""]), (r"boxed{1}", [])],
)  # fmt: skip
def test_boxes(text: str, inside: list[str]) -> None:
    assert [text[start:end] for start, end in token_ranking.boxes(text)] == inside


def test_the_end_and_the_box_are_marked(run: RunEntry) -> None:
    row: dict[str, Any] = {
        "completion": r"a \boxed{12}b", "tokens": ["a ", r"\boxed{", "1", "2", "}b", "<end>"],
        "token_starts": [0, 2, 9, 10, 11, 13], "token_ends": [2, 9, 10, 11, 13, 13],
    }  # fmt: skip
    assert token_ranking.marks_of(row) == {2: "boxed", 3: "boxed", 5: "EOS"}
    row |= {"tokens": row["tokens"][:5], "token_starts": row["token_starts"][:5], "token_ends": row["token_ends"][:5]}
    assert token_ranking.marks_of(row) == {2: "boxed", 3: "boxed"}
    assert token_ranking.marks_of({"completion": "", "tokens": [], "token_starts": [], "token_ends": []}) == {}


def test_the_page_ranks_what_the_filters_leave(root: Path, run: RunEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"listing": "tokens", "scope": "whole run", "status": "wrong"}
    at = pages.opened("rollouts", root, monkeypatch, run=RUN, **asked)
    assert not at.exception and not at.error
    table = at.dataframe[0].value
    index = store.index(run)[0]
    wrong = set(index.query("status == 'wrong'")[["step", "group", "sibling"]].itertuples(index=False, name=None))
    expected = [token for token in everything(run, "disagreement") if token[1] in wrong]
    assert table["disagreement"][0] == pytest.approx(max(expected, key=lambda token: abs(token[0]))[0], rel=1e-5)
    assert table["place"].min() >= 1 and {"EOS", "boxed"} & set(table["mark"])
    at = pages.opened("rollouts", root, monkeypatch, run=RUN, **asked, each="by text", rank="entropy")
    assert list(at.dataframe[0].value.columns) == ["token", "places", "mean", "mean size", "share of all"]
    at = pages.opened("rollouts", root, monkeypatch, run=RUN, **asked, piece="}", rank="loss")
    assert set(at.dataframe[0].value["token"]) == {"}"}
    at.button[0].click().run()
    assert "piece" not in at.query_params and len(set(at.dataframe[0].value["token"])) > 1


def test_without_a_teacher_the_page_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "runs/grpo-0/rollouts").iterdir():
        rows = [row | {"teacher_logprob": None, "kl_to_teacher": None} for row in read_rollouts(path).to_pylist()]
        write_rollouts(path, rows)
    at = pages.opened("rollouts", tmp_path, monkeypatch, run="grpo-0", listing="tokens")
    assert not at.exception and "record\\_rows" in at.info[0].value
    assert [each.value for each in at.code] == ["dvc repro train@grpo-0"]


def test_the_strip_gets_both_lists_at_each_token(run: RunEntry) -> None:
    rows = store.step_rollouts(run, 60).to_pylist()
    row = next(row for row in rows if row["teacher_top"])
    top = tokens.top_tokens(row)
    assert top is not None and top["k"] == 2
    assert top["teacher"]["texts"][:4] == [row["tokens"][0], "teacher_top<b>", row["tokens"][1], "teacher_top<b>"]
    assert top["student"]["logprobs"][:2] == pytest.approx([math.log(0.75), -2.5], rel=1e-5)
    assert len(top["student"]["texts"]) == 2 * row["length"]
    assert tokens.top_tokens(next(row for row in rows if not row["teacher_top"])) is None
    assert tokens.top_tokens({"tokens": [], "student_top": [], "teacher_top": []}) is None
