"""Tests runs of other commits: every page shows records, tables and parameters with more or fewer fields than ours."""

import io
import json
from pathlib import Path
import shutil
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML
from streamlit.testing.v1 import AppTest

from app import accuracy, filters, run_rows, sources, store
from app.sources import SAMPLE, RunEntry
from sdpg.errors import UserError
from sdpg.records import schemas
from sdpg.records.parquet import VERSION_KEY
from sdpg.records.schemas import EVALUATION_SCHEMA, ROLLOUT_SCHEMA, read_rollouts
from tests.helpers.pages import opened

PAGES: dict[str, dict[str, str]] = {
    "overview": {}, "rollouts": {"scope": "whole run"}, "rollout": {}, "diff": {"pair": "two runs"}, "gating": {},
    "problems": {"benchmark": "training"}, "tables": {}, "provenance": {}, "compare": {"part": "Metrics"},
}  # fmt: skip
ADDED = ("truncated", "verifier", "verifier_version", "reason")
"""Columns that rollouts did not always have; evaluations lacked the first and the last."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(SAMPLE, tmp_path / "project")
    return tmp_path / "project"


def rewrite(project: Path, change: Any, pattern: str = "**/*.parquet") -> None:
    """Replaces each file of records by what ``change`` makes of its table."""
    for path in project.glob(pattern):
        pq.write_table(change(pq.ParquetFile(path).read()), path)


def as_first_version(table: pa.Table) -> pa.Table:
    """As commit e18aed7 wrote it; some responses were cut."""
    rollouts = "advantage" in table.column_names
    added = ADDED if rollouts else (ADDED[0], ADDED[-1])
    table = table.drop_columns([name for name in added if name in table.column_names])
    at = table.schema.get_field_index("status")
    statuses = ["truncated" if status == "no_answer" else status for status in table["status"].to_pylist()]
    table = table.set_column(at, table.schema.field(at), pa.array(statuses))
    return table.replace_schema_metadata({**table.schema.metadata, VERSION_KEY: b"1"})


def sound(project: Path, monkeypatch: pytest.MonkeyPatch, page: str, **params: str) -> AppTest:
    at = opened(page, project, monkeypatch, **{"run": "sdpg-ufkl-0", **PAGES[page], **params})
    assert not at.exception and not at.error, page
    assert not [each.value for each in at.warning if "damaged" in each.value or "version" in each.value], page
    return at


def strip(at: AppTest) -> dict[str, Any]:
    """What the token strip was given."""
    protos = [each.proto for each in at.main if hasattr(each, "proto")]
    return next(json.loads(each.json) for each in protos if getattr(each, "component_name", "") == "sdpg_token_strip")


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_runs_of_the_first_version(page: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(project, as_first_version)
    at = sound(project, monkeypatch, page)
    if page == "rollout":
        assert dict(fact[:2] for fact in strip(at)["facts"])["verifier"] == "not recorded"
    if page == "provenance":
        assert "as asked for" in at.dataframe[0].value.set_index("name")["value"]["Verifier"]
    if page == "rollouts":
        assert len(at.dataframe) == 2 and "KL recorded" in at.markdown[0].value


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_older_runs_when_the_schema_has_grown(
    page: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = pa.field("teacher_entropy", pa.list_(pa.float32())), pa.field("note", pa.string())
    for name, schema in (("ROLLOUT_SCHEMA", ROLLOUT_SCHEMA), ("EVALUATION_SCHEMA", EVALUATION_SCHEMA)):
        for field in longer:
            schema = schema.append(field)
        monkeypatch.setattr(schemas, name, schema)
    sound(project, monkeypatch, page)
    row = store.rollout(sources.discover(project).runs["grpo-0"], 60, 0, 0)
    assert row["note"] is None and row["teacher_entropy"] is None


def with_more(table: pa.Table) -> pa.Table:
    """With columns that this code does not know: a number, a list a token, and a moment."""
    lengths = table["length"].to_pylist()
    found = table.append_column("mood", pa.array([0.5, *[float("nan")] * (len(table) - 1)]))
    if "tokens" in table.column_names:
        found = found.append_column("surprise", pa.array([[0.25] * length for length in lengths]))
    return found.append_column("judged_at", pa.array([0] * len(table), pa.timestamp("s")))


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_records_with_unknown_columns(page: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(project, with_more)
    sound(project, monkeypatch, page)


def keys(run: RunEntry, **which: int) -> pd.DataFrame:
    index = store.index(run)[0]
    for name, value in which.items():
        index = index[index[name] == value]
    return index[["step", "group", "sibling"]]


def test_files_to_take_away_hold_unknown_columns(project: Path) -> None:
    rewrite(project, with_more, "runs/grpo-0/rollouts/step-000060*.parquet")
    run = sources.discover(project).runs["grpo-0"]
    chosen = keys(run, group=0)
    assert set(chosen["step"]) == {1, 20, 40, 60}, "files with the columns and files without"
    table = pq.read_table(io.BytesIO(filters.parquet_of(run, chosen)))
    assert table.column_names == [*ROLLOUT_SCHEMA.names, "mood", "surprise", "judged_at"]
    rows = {(row["step"], row["sibling"]): row for row in table.to_pylist()}
    assert rows[60, 0]["mood"] == 0.5 and rows[60, 3]["surprise"] == [0.25] * rows[60, 3]["length"]
    assert rows[1, 0]["mood"] is None and rows[1, 0]["tokens"] == store.rollout(run, 1, 0, 0)["tokens"]
    (project / "taken.parquet").write_bytes(filters.parquet_of(run, chosen))
    assert read_rollouts(project / "taken.parquet").num_rows == len(chosen)

    lines = [json.loads(line, parse_constant=pytest.fail) for line in filters.jsonl_of(run, chosen).splitlines()]
    last = [line for line in lines if line["step"] == 60]
    assert last[0]["mood"] == 0.5 and last[1]["mood"] is None and last[0]["judged_at"].startswith("1970-01-01")
    assert last[0]["surprise"] == [0.25] * last[0]["length"] and "mood" not in lines[0]
    short = [json.loads(line) for line in filters.jsonl_of(run, chosen, tokens=False).splitlines()]
    assert "surprise" not in short[-1] and "mood" in short[-1]


def test_unknown_columns_that_do_not_go_together_are_named(project: Path) -> None:
    run = sources.discover(project).runs["grpo-0"]
    for step, values in ((1, [1] * 128), (20, [[1]] * 128)):
        rewrite(project, lambda table, v=values: table.append_column("odd", pa.array(v)),
                f"runs/grpo-0/rollouts/step-{step:06d}*.parquet")  # fmt: skip
    with pytest.raises(UserError, match=r"rollouts do not go together .*odd"):
        filters.parquet_of(run, keys(run, group=0))
    assert filters.parquet_of(run, keys(run, group=0, step=20))


def test_newer_records_are_named_with_what_to_do(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(project, lambda table: table.replace_schema_metadata({**table.schema.metadata, VERSION_KEY: b"3"}),
            "runs/sdpg-ufkl-0/rollouts/*.parquet")  # fmt: skip
    at = opened("rollout", project, monkeypatch, run="sdpg-ufkl-0")
    assert not at.exception
    assert any("schema version 3" in each.value and "update this checkout" in each.value for each in at.error)


def test_an_answer_that_was_not_found_is_no_text(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = sources.discover(project).runs["sdpg-ufkl-0"]
    index = store.index(run)[0]
    none = index[index["status"] == "no_answer"].iloc[0]
    at = sound(project, monkeypatch, "rollouts", step=str(none["step"]), group=str(none["group"]), scope="this step")
    shown = at.dataframe[1].value.set_index("sibling")["answer"]
    assert shown[none["sibling"]] == ""
    assert "nan" not in set(shown)


def test_votes_say_in_words_that_no_answer_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    run = sources.discover(SAMPLE).runs["sdpg-ufkl-0"]
    rows = [row for row in store.final(run).to_pylist() if row["status"] == "no_answer" and row["temperature"] > 0]
    assert rows[0]["extracted_answer"] is None
    at = sound(SAMPLE, monkeypatch, "problems", benchmark=rows[0]["benchmark"], problem=rows[0]["problem_id"])
    votes = at.dataframe[0].value["answer"].tolist()
    assert "(no answer)" in votes and "nan" not in votes


def change_config(project: Path, change: Any) -> None:
    for path in project.glob("runs/*/config.yaml"):
        config = YAML(typ="safe").load(path)
        change(config)
        with path.open("w") as file:
            YAML().dump(config, file)


def of_another_commit(config: dict[str, Any]) -> None:
    """Parameters of which some were added or removed, at each depth, and sections that say less."""
    params = config["params"]
    params["sorcery"] = {"level": 3}
    params["train"]["wand"] = "holly"
    params["data"]["train"]["moon"] = "full"
    next(iter(params["data"]["benchmarks"].values()))["source"]["moon"] = "new"
    for method in params["methods"].values():
        method["zeta"] = 0.5
    params["watch"] |= {"max_joy": 1.0}
    params["watch"].pop("mentions")
    for name in ("prompts", "tracking", "tune"):
        params.pop(name, None)
    config["weather"] = "fair"
    config.pop("versions", None)


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_runs_whose_parameters_say_less_or_more(
    page: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(project, of_another_commit)
    at = sound(project, monkeypatch, page)
    if page == "tables":
        assert not any("Not in the tables" in each.value for each in at.warning)
        assert at.dataframe[0].value.equals(sound(SAMPLE, monkeypatch, page).dataframe[0].value)


def test_a_parameter_that_tables_read_and_means_something_else_is_named(project: Path) -> None:
    change_config(project, lambda config: config["params"]["report"].update(confidence="high"))
    with pytest.raises(UserError, match=r"report\.confidence"):
        accuracy.run_params(sources.discover(project).runs["grpo-0"])


def test_curves_with_words_or_without_a_column(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("metrics.csv", "curves.csv", "timing.csv"):
        for path in project.glob(f"runs/*/{name}"):
            table = pd.read_csv(path)
            gone = [each for each in ("entropy", "gate_rate", "kl_to_reference_k3", "peak_gpu_bytes") if each in table]
            table.drop(columns=gone).assign(phase="warmup", joy=0.5).to_csv(path, index=False)
    run = sources.discover(project).runs["sdpg-ufkl-0"]
    for read in (store.metrics, store.curves, store.timing):
        assert "phase" not in read(run) and set(read(run)["joy"]) == {0.5}
    for page in PAGES:
        sound(project, monkeypatch, page)
    at = sound(project, monkeypatch, "compare")
    assert "joy" in at.multiselect(key="logged").options


@pytest.mark.parametrize("watch", [None, {}, {"alarms": None}, {"leaks": {}}])
def test_a_summary_without_alarms_has_them_worked_out(watch: Any, project: Path) -> None:
    change_config(project, lambda config: config["params"]["watch"].update(min_entropy=100.0, window=2, patience=2))
    run = sources.discover(project).runs["grpo-0"]
    path = run.path("summary.json")
    summary = json.loads(path.read_text())
    expected = run_rows.computed_alarms(run)
    assert expected and "entropy" in expected
    path.write_text(json.dumps({**summary, "watch": watch, "mood": "fair"}))
    row = run_rows.read_row(run)
    assert row.alarms == expected and not row.unread
