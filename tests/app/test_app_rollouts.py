"""Tests the list of rollouts: filters, groups, search, files of a selection."""

from functools import partial
import io
import json
import math
from pathlib import Path
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app import filters, sources, store
from app.filters import Filter
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.records.schemas import ROLLOUT_SCHEMA, SCHEMA_VERSION, VERSION_KEY
from tests.helpers import pages

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "app" / "sample"


@pytest.fixture
def run() -> RunEntry:
    found = sources.discover(Path("/nonexistent"))
    return next(entry for entry in found.runs.values() if entry.method == "grpo")


opened = partial(pages.opened, "rollouts")


def rollouts(*rows: tuple[int, int, int, float, str, float, int, float | None]) -> pd.DataFrame:
    """step, group, sibling, reward, status, gate, length, KL."""
    names = ["step", "group", "sibling", "reward", "status", "gate", "length", "kl_to_teacher"]
    table = pd.DataFrame(rows, columns=names)
    table["kl_to_teacher"] = table["kl_to_teacher"].astype(float)
    return table.assign(problem_id="p" + table["group"].astype(str))


INDEX = rollouts(
    (1, 0, 0, 1.0, "correct", 1.0, 10, 0.5),
    (1, 0, 1, -1.0, "wrong", 0.0, 20, 1.5),
    (1, 1, 0, -1.0, "truncated", 0.0, 30, None),
    (1, 1, 1, -1.0, "no_answer", 0.0, 5, 2.5),
    (2, 0, 1, 1.0, "correct", 1.0, 40, 3.5),
    (2, 0, 0, -1.0, "timeout", 0.0, 8, None),
)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Filter(), [0, 1, 2, 3, 4, 5]),
        (Filter(statuses=("wrong", "timeout")), [1, 5]),
        (Filter(rewards=(1.0,)), [0, 4]),
        (Filter(gate="open"), [0, 4]),
        (Filter(gate="closed"), [1, 2, 3, 5]),
        (Filter(shortest=10, longest=30), [0, 1, 2]),
        (Filter(flagged=True), [2, 3]),
        (Filter(kl=(0.0, 0.5)), [0, 1]),
        (Filter(kl=(0.5, 1.0)), [3, 4]),
        (Filter(gate="closed", longest=10), [3, 5]),
    ],
)
def test_filters(chosen: Filter, expected: list[int]) -> None:
    assert INDEX.index[filters.passing(INDEX, chosen)].tolist() == expected


def test_hits_of_a_search_and_a_filter_both_hold() -> None:
    hits = {(1, 0, 1), (2, 0, 1)}
    assert INDEX.index[filters.passing(INDEX, Filter(gate="open"), hits)].tolist() == [4]
    assert not filters.passing(INDEX, Filter(), set()).any()
    nowhere = INDEX.assign(kl_to_teacher=float("nan"))
    assert not filters.passing(nowhere, Filter(kl=(0.2, 1.0))).any()


def test_groups_are_described_by_all_siblings_and_listed_by_those_that_pass() -> None:
    table = filters.groups(INDEX, filters.passing(INDEX, Filter(gate="open")))
    assert list(zip(table["step"], table["group"], strict=True)) == [(1, 0), (2, 0)]
    first, second = table.to_dict("records")
    assert first["marks"] == "●○" and first["size"] == 2 and first["passing"] == 1
    assert first["reward"] == 0.0 and first["correct"] == 0.5 and first["gate"] == 0.5 and not first["flagged"]
    assert (first["shortest"], first["length"], first["longest"]) == (10, 15.0, 20)
    assert first["kl"] == 1.0 and first["recorded"] == 2
    assert second["marks"] == "◔●"  # in the order of siblings
    everything = filters.groups(INDEX, pd.Series(True, index=INDEX.index))
    assert everything["flagged"].tolist() == [False, True, False]
    assert math.isnan(filters.groups(INDEX.iloc[[2]], pd.Series([True], index=[2]))["kl"][0])


def test_search_is_literal_and_whatever_the_case(run: RunEntry) -> None:
    steps = store.rollout_steps(run)
    everything = store.index(run)[0]
    assert len(filters.search(run, steps, r"\BOXED{", ["completion"])) > 0.9 * len(everything)
    assert filters.search(run, steps, ".*", ["completion"]) == set()
    step = steps[0]
    hits = filters.search(run, [step], "im_start", ["student_prompt"])
    assert hits == {(step, row.group, row.sibling) for row in everything[everything["step"] == step].itertuples()}
    assert filters.search(run, [step], "Hint", ["completion", "student_prompt"]) == set()
    assert filters.search(run, [step], "hint", ["teacher_prompt"]) == hits


def test_parquet_of_a_selection_is_a_record(run: RunEntry) -> None:
    index, _ = store.index(run)
    steps = store.rollout_steps(run)
    chosen = index[(index["sibling"] == 1) & index["step"].isin(steps[:2])][["step", "group", "sibling"]]
    table = pq.read_table(io.BytesIO(filters.parquet_of(run, chosen)))
    assert table.schema.equals(ROLLOUT_SCHEMA) and table.schema.metadata[VERSION_KEY] == SCHEMA_VERSION.encode()
    got = {
        (row["step"], row["group"], row["sibling"]) for row in table.select(["step", "group", "sibling"]).to_pylist()
    }
    assert got == set(chosen.itertuples(index=False, name=None)) and len(table) == len(chosen)
    original = store.rollout(run, steps[0], int(chosen.iloc[0]["group"]), 1)
    assert table.slice(0, 1).to_pylist()[0] == original


def test_jsonl_of_a_selection(run: RunEntry) -> None:
    index, _ = store.index(run)
    chosen = index.iloc[[5, 0]][["step", "group", "sibling"]]
    lines = [json.loads(line) for line in filters.jsonl_of(run, chosen).decode().splitlines()]
    assert {(row["group"], row["sibling"]) for row in lines} == {tuple(row) for row in
                                                                  chosen[["group", "sibling"]].to_numpy()}  # fmt: skip
    assert list(lines[0]) == ROLLOUT_SCHEMA.names and len(lines[0]["logprob"]) == lines[0]["length"]
    short = [json.loads(line) for line in filters.jsonl_of(run, chosen, tokens=False).decode().splitlines()]
    assert "logprob" not in short[0] and "tokens" not in short[0] and short[0]["completion"] == lines[0]["completion"]


def test_jsonl_has_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    path = next((tmp_path / "runs/grpo-0/rollouts").iterdir())
    table = pq.read_table(path)
    at = table.schema.get_field_index("advantage")
    broken = pa.array([float("nan"), float("inf"), *table["advantage"].to_pylist()[2:]])
    pq.write_table(table.set_column(at, table.schema.field(at), broken), path)
    run = sources.discover(tmp_path).runs["grpo-0"]
    index, _ = store.index(run)
    step = table["step"][0].as_py()
    text = filters.jsonl_of(run, index[index["step"] == step][["step", "group", "sibling"]])
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [row["advantage"] for row in rows[:2]] == [None, None] and rows[2]["advantage"] is not None


def test_page_shows_the_last_step_and_its_first_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch)
    assert not at.exception and not at.error
    groups, siblings = at.dataframe[0].value, at.dataframe[1].value
    assert groups["group"].tolist() == sorted(groups["group"])
    assert len(siblings) == len(groups["siblings"][0])
    assert "Step" in at.subheader[0].value


def test_a_deep_link_selects_step_group_and_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = sources.discover(tmp_path)
    run = next(entry for entry in found.runs.values() if entry.method == "sdpg-ufkl")
    step = store.rollout_steps(run)[1]
    at = opened(tmp_path, monkeypatch, run=run.id, step=str(step), group="3")
    assert not at.exception and f"Step {step}, group 3" in at.subheader[0].value
    at = opened(tmp_path, monkeypatch, run=run.id, step=str(step), gate="open", scope="whole run")
    index = store.index(run)[0]
    inside = index[index["gate"] > 0]
    assert f"{len(inside):,} of {len(index):,} rollouts" in at.markdown[0].value
    assert "step" in at.dataframe[0].value.columns
    assert len(at.dataframe[0].value) == inside.groupby(["step", "group"]).ngroups


def test_unknown_selections_give_way_and_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"step": "77", "group": "<b>", "gate": "ajar", "status": "odd", "min_length": "1e400", "kl": "9-x",
             "max_length": "-3"}  # fmt: skip
    at = opened(tmp_path, monkeypatch, **asked)
    assert not at.exception and not at.error and len(at.dataframe) == 2
    said = at.warning[0].value.replace("\\", "")
    assert all(value in said for value in asked.values())
    assert dict(at.query_params) == asked


def test_filters_are_named_as_they_are_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, status=["wrong", "odd"], min_length="", gate="open", max_length="40")
    said = next(each.value for each in at.caption if each.value.startswith("Filtered"))
    assert said == "Filtered\\: status wrong; gate open; 40 tokens or fewer\\."
    assert at.button_group(key="gate").value == "open"
    at.button_group(key="gate").set_value("any").run()
    assert "gate" not in at.query_params and at.button_group(key="gate").value == "any"


def test_search_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch, q="no such text anywhere")
    assert not at.exception and any("No rollout passes" in each.value for each in at.info)
    at = opened(tmp_path, monkeypatch, q="HINT", within="prompts")
    assert len(at.dataframe) == 2


def test_a_damaged_step_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    files = sorted((tmp_path / "runs/grpo-0/rollouts").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:100])
    at = opened(tmp_path, monkeypatch, run="grpo-0")
    assert not at.exception and len(at.dataframe) == 2
    assert any(files[0].name in each.value.replace("\\", "") for each in at.warning)


def test_text_is_shown_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    path = max((tmp_path / "runs/grpo-0/rollouts").iterdir())
    table = pq.read_table(path)
    hostile = "<script>alert(1)</script> **bold** :material/home: \u202e $x$ " + "y" * 5000
    for name in ("completion", "extracted_answer", "gold", "student_prompt"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array([hostile] * len(table)))
    pq.write_table(table, path)
    page = opened(tmp_path, monkeypatch, run="grpo-0")
    assert not page.exception
    assert all("<script>" not in each.value for each in page.markdown)
    assert "\u202e" not in "".join(each.value for each in page.code)
    assert max(len(each.value) for each in page.code) < 1400


def test_without_rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs/grpo-0/rollouts")
    at = opened(tmp_path, monkeypatch, run="grpo-0")
    assert not at.exception and any("no rollouts on record" in each.value for each in at.info)


def test_suspects() -> None:
    index = INDEX.assign(
        extracted_answer=["7", " 8 ", None, None, "7", None], gold=["7", "8", "8", "8", "7", "7"],
        truncated=[True, None, None, False, False, None], gate=[0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        leaks=[False, False, False, True, True, False],
    )  # fmt: skip
    expected = {
        "wrong, and the longest of its group": [1, 2], "judged wrong with the gold's answer": [1],
        "correct with a closed gate": [0], "truncated": [0, 2], "leaks the privileged prompt": [3, 4],
    }  # fmt: skip
    for name, rows in expected.items():
        assert index.index[filters.passing(index, Filter(suspects=(name,)))].tolist() == rows, name
    both = Filter(suspects=("truncated", "correct with a closed gate"), longest=20)
    assert index.index[filters.passing(index, both)].tolist() == [0]
    assert expected.keys() == filters.SUSPECTS.keys()


def test_a_regular_expression_finds_what_matches(run: RunEntry) -> None:
    steps = store.rollout_steps(run)
    everything = store.index(run)[0]
    hits = filters.search(run, steps, r"^\d$", ["extracted_answer"], regular=True)
    short = everything[everything["extracted_answer"].str.fullmatch(r"\d", na=False)]
    assert hits == set(zip(short["step"], short["group"], short["sibling"], strict=True)) and hits
    with pytest.raises(UserError, match="is no regular expression"):
        filters.search(run, steps, "(", ["completion"], regular=True)


def test_the_flat_list_is_sorted_and_filtered_as_the_address_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"listing": "rollouts", "scope": "whole run", "status": "wrong", "sort": "tokens", "falling": "true"}
    at = opened(tmp_path, monkeypatch, **asked, columns=["tokens", "step", "answer"])
    (table,) = at.dataframe
    assert not at.exception and list(table.value.columns) == ["tokens", "step", "answer"]
    run = next(iter(at.session_state["_found"].runs.values()))
    wrong = store.index(run)[0].query("status == 'wrong'")
    assert len(table.value) == len(wrong) and table.value["tokens"].tolist() == sorted(wrong["length"], reverse=True)
    assert set(wrong["step"]) == set(table.value["step"]) != {60}
    at.selectbox(key="sort").set_value("step").run()
    assert at.dataframe[0].value["step"].is_monotonic_decreasing and dict(at.query_params)["sort"] in ("step", ["step"])
