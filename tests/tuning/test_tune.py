"""Tests studies with real training on the micro profile: killed, resumed, by two workers, default against tuned."""

from collections.abc import Iterator
import csv
import json
import multiprocessing
import os
from pathlib import Path
import random
import sys
import time
from typing import Any

import mlflow
import pytest

from pipelines import tune
from sdpg.params import load_params, read_yaml
from sdpg.tuning.study import open_study
from sdpg.tuning.worker import work
from tests.helpers.clones import commit, run
from tests.helpers.forked import run_forked
from tests.helpers.forked import start as start_fork

pytestmark = pytest.mark.slow

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def project(with_base: Path) -> Path:
    return with_base


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_leaves_results(project: Path) -> None:
    said = run_forked(project, "pipelines.tune", "sdpg-ufkl", "--trials", "3").stdout
    assert "3 complete" in said or "pruned" in said
    folder = project / "reports/tune/sdpg-ufkl"
    summary = json.loads((folder / "study.json").read_text())
    assert summary["counts"]["complete"] + summary["counts"]["pruned"] == 3
    assert summary["storage"] == "sqlite:///tune.db" and summary["default_trial"] == 0
    assert (folder / "report.html").read_text().count("data:image/svg+xml") >= 8
    trials = rows(folder / "trials.csv")
    for trial in trials:
        run_folder = project / trial["run"]
        assert (run_folder / "COMPLETE").exists() and not (run_folder / "policy").exists()
        assert int(trial["steps"]) == len(rows(run_folder / "metrics.csv"))
        curve = rows(run_folder / "curves.csv")
        assert list(curve[0]) == ["step", "validation"], "no benchmark is asked in a trial"
        assert float(trial["value"]) == float(curve[-1]["validation"])
        config = read_yaml(run_folder / "config.yaml")
        assert config["params"]["methods"]["sdpg-ufkl"]["beta"] == float(trial["param:methods.sdpg-ufkl.beta"])
        assert config["seed"] == 1000
    assert not list((project / ".state").glob("*/checkpoint*")), "work in progress is gone"
    applied = [float(row["beta"]) for row in rows(folder / "curves.csv") if row["trial"] == "1" and row["step"] != "0"]
    recorded = {row["step"]: float(row["beta"]) for row in rows(project / trials[1]["run"] / "metrics.csv")}
    assert applied == pytest.approx([recorded[row["step"]] for row in rows(folder / "curves.csv")
                                     if row["trial"] == "1" and row["step"] != "0"])  # fmt: skip


def test_a_study_that_is_finished_trains_nothing_more(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (project / "reports/tune/sdpg-ufkl/trials.csv").read_bytes()
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["tune", "sdpg-ufkl", "--trials", "3", "--ready"])
    tune.main()
    assert (project / "reports/tune/sdpg-ufkl/trials.csv").read_bytes() == before


def test_trials_are_children_of_the_studys_run(project: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sdpg")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [entry for entry in runs if entry.info.run_name == "tune sdpg-ufkl"]
    assert len(parents) == 1
    children = {entry.info.run_name: entry for entry in runs
                if entry.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id}  # fmt: skip
    assert set(children) == {"sdpg-ufkl/0", "sdpg-ufkl/1", "sdpg-ufkl/2"}
    assert {entry.info.status for entry in children.values()} == {"FINISHED"}
    assert "accuracy/validation" in children["sdpg-ufkl/1"].data.metrics
    assert parents[0].info.status == "FINISHED" and "best_value" in parents[0].data.metrics
    assert {file.path for file in client.list_artifacts(parents[0].info.run_id)} >= {"study.json", "trials.csv"}


def best_words(project: Path) -> list[str]:
    """The best values as options of ``dvc exp run``."""
    words = run_forked(project, "pipelines.tune", "sdpg-ufkl", "--best").stdout.split()
    assert words[0] == "-S" and any(word.startswith("methods.sdpg-ufkl.beta=") for word in words)
    assert len(read_yaml(project / "reports/tune/sdpg-ufkl/best.yaml")) == words.count("-S")
    return words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("grpo", "--study", "sdpg-ufkl", "--workers", "2"), "belongs to another method"),
        (("ppo",), "'ppo' is not under methods"),
        (("grpo", "--trials", "0"), "at least 1"),
        (("grpo", "--study", "../x"), "small letters"),
    ],
)
def test_bad_input_is_one_message(project: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run_forked(project, "pipelines.tune", *arguments, "--ready", check=False)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1, "said once, however many workers were to start"


KILLS = 10
ENDLESS = 1000


@pytest.fixture
def longer(project: Path) -> Iterator[Path]:
    """Trials of 10 steps, so that a kill has something to hit."""
    path = project / "params.yaml"
    original = path.read_text()
    assert original.count("\n  steps: 4\n  eval_every: 1\n") == 1
    path.write_text(original.replace("\n  steps: 4\n  eval_every: 1\n", "\n  steps: 10\n  eval_every: 2\n")
                    .replace("  retries: 3\n", "  retries: 20\n"))  # fmt: skip
    yield project
    path.write_text(original)


def worker(budget: int, opened: Any) -> None:
    """``python -m pipelines.tune sdpg-ufkl --study killed --trials <budget> --ready``."""
    study = open_study(load_params(), "sdpg-ufkl", "killed", budget)
    opened.set()
    work([study])
    os._exit(0)


def test_a_worker_killed_at_ten_random_moments_loses_no_trial(
    longer: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(longer)
    folder, source = longer / "reports/tune/killed", random.Random(1)

    def start(budget: int) -> tuple[Any, Any]:
        opened = FORK.Event()
        process = start_fork(longer, lambda: worker(budget, opened), longer / "killed.log")
        # Where the test fails, nobody else would end it.
        request.addfinalizer(process.kill)
        return process, opened

    # No machine is fast enough to end a study of this budget, or so slow that every kill comes before the first trial.
    workers = [start(ENDLESS), start(ENDLESS)]
    while not (folder / "study.json").exists():
        assert workers[0][0].is_alive() and workers[1][0].is_alive(), (longer / "killed.log").read_text()[-3000:]
        time.sleep(0.05)
    for kill in range(KILLS):
        victim, opened = workers[kill % 2]
        if kill % 3:
            opened.wait(120)
        time.sleep(source.uniform(0.0, 1.0))
        assert victim.is_alive(), (longer / "killed.log").read_text()[-3000:]
        victim.kill()
        victim.join()
        # Readable whenever one looks.
        summary = json.loads((folder / "study.json").read_text())
        assert summary["counts"]["failed"] == 0 and len(rows(folder / "trials.csv")) >= 1
        workers[kill % 2] = start(ENDLESS)
    for victim, _ in workers:
        victim.kill()
        victim.join()
    # Whatever has been begun by now, and two more.
    budget = len(open_study(load_params(), "sdpg-ufkl", "killed", ENDLESS).counted()) + 2
    workers = [start(budget), start(budget)]
    for process, _ in workers:
        process.join(600)
        assert process.exitcode == 0, (longer / "killed.log").read_text()[-3000:]
    summary = json.loads((folder / "study.json").read_text())
    assert summary["counts"]["complete"] + summary["counts"]["pruned"] == budget, summary["counts"]
    assert summary["counts"]["running"] == summary["counts"]["waiting"] == summary["counts"]["failed"] == 0
    trials = rows(folder / "trials.csv")
    lost = [trial["number"] for trial in trials if trial["state"] == "lost"]
    assert lost and sorted(t["retry_of"] for t in trials if t["retry_of"]) == sorted(lost), "each has one successor"
    counted = [trial for trial in trials if trial["state"] != "lost"]
    complete = sorted(path.parent.name for path in (longer / "runs/tune/killed").glob("*/COMPLETE"))
    assert complete == sorted(trial["number"] for trial in counted), "one run folder for each trial that counts"
    for trial in counted:
        steps = [row["step"] for row in rows(longer / trial["run"] / "metrics.csv")]
        assert steps == [str(step) for step in range(1, int(trial["steps"]) + 1)], "no step is missing or there twice"


def test_default_against_tuned_on_fresh_seeds(project: Path) -> None:
    path = project / "params.yaml"
    original = path.read_text()
    # Without the default among the trials, the best one is another setting.
    path.write_text(original.replace("seeds: [2000, 2001, 2002]", "seeds: [2000, 2001]")
                    .replace("default_first: true", "default_first: false"))  # fmt: skip
    command = ("pipelines.tune_all", "--trials", "2", "--workers", "2", "--study", "all", "--ready")
    try:
        said = run_forked(project, *command).stdout
        assert "Each study was given 2 trials × 4 steps × 8 rollouts" in said
        found = json.loads((project / "reports/tune/comparison.json").read_text())
        assert {row["study"] for row in found["budgets"]} == {"grpo-all", "sdpg-ufkl-all"}
        assert {(row["trials"], row["steps"], row["rollouts"]) for row in found["budgets"]} == {(2, 4, 8)}
        table = {(row["group"], row["setting"], row["benchmark"]): row for row in found["rows"]}
        assert len(table) == 2 * 2 * 4 and {row["seeds"] for row in found["rows"]} == {2}
        for (group, setting, benchmark), row in table.items():
            low, high = row["over_problems"]["low"], row["over_problems"]["high"]
            assert low <= row["mean"] <= high and row["over_both"] is not None
            if setting == "tuned":
                default = table[group, "default", benchmark]
                assert row["gain"]["mean"] == pytest.approx(row["mean"] - default["mean"])
                assert row["p_holm"] >= row["gain"]["p_value"]
        assert "Default against tuned" in (project / "reports/tune/index.html").read_text()
        stamps = {p: p.stat().st_mtime_ns for p in (project / "evaluations/tune").rglob("final.parquet")}
        assert len(stamps) == 2 * 2 * 2
        run_forked(project, *command, "--workers", "1")
        assert {p: p.stat().st_mtime_ns for p in stamps} == stamps, "what is there is not asked again"
    finally:
        path.write_text(original)


def test_a_grid_of_queued_experiments_around_the_best_values(project: Path) -> None:
    best = best_words(project)
    commit(project, "micro")
    grid = ("-S", "methods.sdpg-ufkl.beta=0.5,2.0")
    run(project, "dvc", "exp", "run", "--queue", *best, *grid, "train@sdpg-ufkl-0")
    run(project, "dvc", "queue", "start", "--jobs", "1")
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        states = run(project, "dvc", "queue", "status").stdout
        if states.count("Success") == 2 or "Failed" in states:
            break
        time.sleep(2)
    assert states.count("Success") == 2, states
    table = json.loads(run(project, "dvc", "exp", "show", "--json", "--no-pager").stdout)
    found = [
        revision["data"]["params"]["params.yaml"]["data"]
        for entry in table for group in entry.get("experiments") or [] for revision in group["revs"]
    ]  # fmt: skip
    assert sorted(tree["methods"]["sdpg-ufkl"]["beta"] for tree in found) == [0.5, 2.0]
    tuned = read_yaml(project / "reports/tune/sdpg-ufkl/best.yaml")
    lr = tuned["methods.sdpg-ufkl.train.lr"]
    assert [tree["methods"]["sdpg-ufkl"]["train"]["lr"] for tree in found] == [lr] * 2
    shared = read_yaml(project / "params.yaml")["train"]["lr"]
    assert [tree["train"]["lr"] for tree in found] == [shared] * 2, "other methods keep their rate"
    assert all("train" not in tree["methods"]["grpo"] for tree in found)
    run(project, "dvc", "queue", "stop", "--kill", check=False)
