"""Tests the Overview page: rows of runs, filters, links, and runs in progress."""

import json
import os
from pathlib import Path
import shutil
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from app import run_rows, store
from app.run_rows import LAST_STEPS, duration, progress, read_row
from app.sources import SAMPLE, RunEntry, discover
from sdpg.records.schemas import read_evaluations
from sdpg.results.statistics.estimates import count_correct, mean_interval

PROJECT = Path(__file__).parents[2]
RUN = sorted(path.name for path in (SAMPLE / "runs").iterdir())[0]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    shutil.copytree(SAMPLE, root)
    return root


def app(root: Path, monkeypatch: pytest.MonkeyPatch, **params: str | list[str]) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=60)
    for name, value in params.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def begin(root: Path, steps: int, name: str = "feed") -> Path:
    """A run in progress, made of a finished one's first steps."""
    run, state = root / "runs" / RUN, root / ".state" / name
    state.mkdir(parents=True)
    config = (run / "config.yaml").read_text()
    fingerprint = (run / "COMPLETE").read_text().strip()
    (state / "config.yaml").write_text(config.replace(fingerprint, name))
    for file in ("metrics.csv", "timing.csv"):
        lines = (run / file).read_text().splitlines(keepends=True)
        (state / file).write_text("".join(lines[: steps + 1]))
    return state


def entry(root: Path, id: str = RUN) -> RunEntry:
    return discover(root).runs[id]


def test_last_and_best_are_those_of_the_statistics(project: Path) -> None:
    run = entry(project)
    row, curves = read_row(run), store.curves(run)
    step = int(curves["step"].iloc[-1])
    table = read_evaluations(run.path(f"evaluations/step-{step:06d}.parquet"))
    counts = count_correct(table, "")
    assert set(row.scores) == set(store.benchmarks(run))
    for name, score in row.scores.items():
        found = counts[run.method, name, False]
        assert score.last == mean_interval(found.accuracy, 0.95)
        assert score.last.mean == pytest.approx(curves[name].iloc[-1])
        assert (score.problems, score.samples) == (len(found.problems), found.samples)
        assert score.best == curves[name].max()
        assert score.best_step == int(curves["step"].to_numpy()[np.argmax(curves[name].to_numpy())])
    assert not row.unread


def test_reward_and_duration(project: Path) -> None:
    run = entry(project)
    row = read_row(run)
    metrics, timing = store.metrics(run), store.timing(run)
    assert row.reward == pytest.approx(np.mean(metrics["reward"].to_numpy()[-LAST_STEPS:]))
    parts = [name for name in timing if name.endswith("_seconds")]
    assert row.seconds == pytest.approx(np.nansum(timing[parts].to_numpy())) and len(parts) > 3


def test_a_row_is_read_anew_when_its_files_change(project: Path) -> None:
    run = entry(project)
    before = read_row(run)
    path = project / "runs" / RUN / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert read_row(run).steps == before.steps - 1
    assert read_row(run) is read_row(run)


def test_alarms_of_the_summary_and_worked_out_for_a_run_in_progress(project: Path) -> None:
    path = project / "runs" / RUN / "summary.json"
    summary = json.loads(path.read_text())
    summary["watch"]["alarms"]["length"] = {"first_step": 7, "steps": 3}
    path.write_text(json.dumps(summary))
    assert read_row(entry(project)).alarms == {"length": 7}
    path.unlink()
    assert read_row(entry(project)).alarms == {}
    metrics = project / "runs" / RUN / "metrics.csv"
    table = store.metrics(entry(project)).copy()
    table["entropy"] = 0.0
    table.to_csv(metrics, index=False)
    config = (project / "runs" / RUN / "config.yaml").read_text()
    window, patience = (int(config.split(f"    {name}: ")[1].split()[0]) for name in ("window", "patience"))
    assert read_row(entry(project)).alarms == {"entropy": window + patience - 1}


@pytest.mark.parametrize("summary", ["{", "[" * 200_000])
def test_damage_is_named_and_hides_nothing_else(project: Path, summary: str) -> None:
    (project / "runs" / RUN / "metrics.csv").write_text("step,reward\n1,text\n2,3\n")
    (project / "runs" / RUN / "summary.json").write_text(summary)
    row = read_row(entry(project))
    assert np.isnan(row.reward) and row.scores and row.seconds > 0
    assert {Path(text.split()[0]).name for text in row.unread} == {"metrics.csv", "summary.json"}


def test_without_answers_last_has_no_interval(project: Path) -> None:
    shutil.rmtree(project / "runs" / RUN / "evaluations")
    for score in read_row(entry(project)).scores.values():
        assert np.isnan(score.last.low) and score.problems == 0 and score.last.mean > 0


def test_an_incomplete_evaluation_is_named(project: Path) -> None:
    path = max((project / "runs" / RUN / "evaluations").iterdir())
    pq.write_table(pq.read_table(path).slice(1), path)
    assert any("incomplete" in text for text in read_row(entry(project)).unread)


def test_progress_of_a_run(project: Path) -> None:
    state = begin(project, 4)
    run = entry(project, "in-progress-feed")
    written = (state / "metrics.csv").stat().st_mtime
    at = progress(run, written + 12)
    seconds = run_rows.step_seconds(store.timing(run))
    total = run.params["train"]["steps"]
    assert (at.step, at.total) == (4, total) and at.share == pytest.approx(4 / total)
    assert at.per_second == pytest.approx(1 / seconds.mean())
    assert at.left == pytest.approx((total - 4) * seconds.mean())
    assert at.ago == pytest.approx(12) and not at.quiet
    assert progress(run, written + 61 + 5 * seconds.max()).quiet
    assert not progress(run, written + 59).quiet


def test_a_run_before_its_first_step(project: Path) -> None:
    begin(project, 0)
    run = entry(project, "in-progress-feed")
    at = progress(run, time.time())
    assert (at.step, at.share, at.quiet) == (0, 0.0, False) and np.isnan(at.per_second)
    assert np.isnan(read_row(run).reward)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (3599.7, "1 h 00 min"), (90061, "1 d 1 h")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_table_has_every_run_and_filters_leave_some_out(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = app(project, monkeypatch)
    names = sorted(path.name for path in (project / "runs").iterdir())
    table = at.dataframe[0].value
    assert len(table) == len(names)
    assert {"Method", "Seed", "Alarms", "Reward", "Minutes", "Commit"} <= set(table.columns)
    assert table.filter(like=": Last").iloc[0].str.match(r"^0\.\d{3} \(0\.\d{3}–0\.\d{3}\)$").all()
    at.text_input(key="filter").set_value(names[-1]).run()
    assert not at.exception and len(at.dataframe[0].value) == 1
    at.text_input(key="filter").set_value("nothing like it").run()
    assert not at.exception and not at.dataframe and "No run passes" in at.info[0].value


def test_filters_come_with_the_link(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = entry(project).method
    at = app(project, monkeypatch, filter_method=[method, "unknown"])
    assert at.multiselect(key="filter_method").value == [method]
    assert len(at.dataframe[0].value) == 1


def test_a_run_in_progress_and_an_interrupted_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(project, 4)
    state = begin(project, 3, "dead")
    old = time.time() - 7200
    os.utime(state / "metrics.csv", (old, old))
    at = app(project, monkeypatch)
    said = " ".join(each.value for each in at.markdown)
    assert "running" in said and "interrupted?" in said and "2 h 00 min" in said
    assert [each.value for each in at.code] == [str(entry(project, "in-progress-dead").config["command"])]
    assert len(at.dataframe[0].value) == len(list((project / "runs").iterdir())) + 2


def test_hostile_names_are_text(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "runs" / RUN / "config.yaml"
    text = path.read_text()
    title = '"<script>alert(1)</script> **x** \\u202e"'
    path.write_text(text.replace("title: GRPO", f"title: {title}"))
    at = app(project, monkeypatch)
    assert any("<script>" in value and "⟨U+202E⟩" in value for value in at.dataframe[0].value["Method"])


def test_two_hundred_runs_are_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(200):
        target = tmp_path / "runs" / f"grpo-{seed}"
        shutil.copytree(SAMPLE / "runs" / RUN, target, ignore=shutil.ignore_patterns("rollouts"),
                        copy_function=os.link)  # fmt: skip
    at = app(tmp_path, monkeypatch)
    assert len(at.dataframe[0].value) == 200
    start = time.process_time()
    at.run()
    assert not at.exception and time.process_time() - start < 3


def test_a_run_in_training_is_followed_on_other_pages(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = begin(project, 20)
    rollouts = sorted((project / "runs" / RUN / "rollouts").iterdir())
    (state / "rollouts").mkdir()
    shutil.copy(rollouts[0], state / "rollouts")
    run = "in-progress-feed"
    at = app(project, monkeypatch)
    links = {each.proto.label: each.proto.query_string for each in at.get("page_link")}
    assert links["Their curves"] == f"runs={run}" and len(at.get("vega_lite_chart")) >= 2
    for page in ("compare", "rollouts"):
        at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=60).switch_page(f"views/{page}.py")
        at.query_params["runs" if page == "compare" else "run"] = run
        at.run()
        assert not at.exception and not at.error
        assert any("running" in each.value for each in at.markdown), page
        if page == "rollouts":
            assert at.selectbox(key="step").value == "1"
            shutil.copy(rollouts[1], state / "rollouts")
            assert at.run().selectbox(key="step").value == str(store.rollout_steps(entry(project, run))[-1]) != "1"
