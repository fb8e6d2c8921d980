"""Tests the real ``dvc repro`` on the micro profile in a clone of its own: built, repeated, changed, killed."""

from collections.abc import Iterator
import hashlib
import json
import os
from pathlib import Path
import re
import resource
import shutil
import signal
import subprocess
import time
from typing import Any

from dvc.repo import Repo
import mlflow
import pytest
from safetensors.torch import load_file
import torch

from pipelines.check import check_inputs
from sdpg.errors import UserError
from sdpg.models.weight_files import folder_digest
from sdpg.params import load_params
from sdpg.records.schemas import TOKEN_SIGNALS, read_evaluations, read_rollouts
from tests.helpers.clones import ENVIRONMENT, clone, commit, run
from tests.helpers.forked import run_forked

pytestmark = pytest.mark.slow

METHODS = ("grpo", "sdpg-ufkl")
TRAIN = ("pipelines.train", "sdpg-ufkl", "0")


def repro(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(folder, "dvc", "repro", *arguments, check=check)


def edit(folder: Path, before: str, after: str) -> None:
    path = folder / "params.yaml"
    text = path.read_text()
    assert text.count(before) == 1, before
    path.write_text(text.replace(before, after))


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def digest(folder: Path) -> dict[str, str]:
    """What must be equal when a run is made again: weights, metrics, curves."""
    paths = [folder / "metrics.csv", folder / "curves.csv", *sorted((folder / "policy").glob("*.safetensors"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def processor_seconds() -> float:
    """Those of finished child processes, which do not grow where other work makes everything slow."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree, on the micro profile, with the whole pipeline run by ``sdpg repro --jobs 2``."""
    folder = tmp_path_factory.mktemp("clone")
    change = clone(folder, " ".join(METHODS))
    assert "+profile: micro" in change
    before = processor_seconds()
    said = run(folder / "docs", "python", "-m", "sdpg.commands", "repro", "--jobs", "2").stdout
    assert "params.yaml stays as it is." in said and "Seconds per stage" in said
    (folder / "seconds").write_text(str(processor_seconds() - before))
    return folder


def test_the_whole_pipeline_ends_in_tables_within_two_minutes_of_a_processor(project: Path) -> None:
    assert float((project / "seconds").read_text()) < 120
    rows = json.loads((project / "reports/table.json").read_text())
    keys = {"method", "benchmark", "last", "best", "ci_low", "ci_high", "problems", "samples", "seeds"}
    assert all(keys <= row.keys() for row in rows)
    assert {row["method"] for row in rows} >= set(METHODS)
    assert len({row["benchmark"] for row in rows}) == 3
    assert all(row["ci_low"] <= row["last"] <= row["ci_high"] for row in rows)
    for name in ("table.md", "table.csv", "table.tex", "curves.svg", "curves.png", "report.html", "choices.md"):
        assert (project / "reports" / name).stat().st_size > 0


def test_records_hold_every_rollout_and_every_answer(project: Path) -> None:
    rollouts = project / "runs/sdpg-ufkl-0/rollouts"
    assert len(list(rollouts.iterdir())) == 4
    for row in read_rollouts(rollouts / "step-000002-rank-0.parquet").to_pylist():
        assert "<|im_start|>" in row["student_prompt"] and "Hint" in row["teacher_prompt"]
        assert all(len(row[name]) == row["length"] for name in TOKEN_SIGNALS if row[name] is not None)
        spans = zip(row["token_starts"], row["token_ends"], strict=True)
        assert "".join(row["completion"][start:end] for start, end in spans) == row["completion"]
    recorded = read_rollouts(rollouts / "step-000002-rank-0.parquet", ["kl_to_teacher"]).column(0).to_pylist()
    assert sum(values is not None for values in recorded) == 4
    assert all(kl > -1e-6 for values in recorded if values is not None for kl in values)
    final = read_evaluations(project / "evaluations/grpo-0/final.parquet").to_pylist()
    assert len(final) == (3 * 8 + 8) * (4 + 1)
    assert {row["verifier"] for row in final} == {"math_verify"}


def test_mlflow_holds_one_parent_and_a_child_per_stage_run(project: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("sdpg")
    assert experiment is not None
    runs = {entry.info.run_name: entry for entry in client.search_runs([experiment.experiment_id])}
    parent = runs.pop("pipeline micro paper")
    assert set(runs) == {"base", "tabulate", "grpo-0", "sdpg-ufkl-0", "evaluate grpo-0", "evaluate sdpg-ufkl-0"}
    assert {entry.data.tags["mlflow.parentRunId"] for entry in runs.values()} == {parent.info.run_id}
    assert {entry.info.status for entry in (parent, *runs.values())} == {"FINISHED"}
    child = runs["sdpg-ufkl-0"]
    assert (child.data.params["beta"], child.data.tags["method"], child.data.tags["seed"]) == ("1.0", "sdpg-ufkl", "0")
    assert "beta" not in runs["grpo-0"].data.params and runs["evaluate grpo-0"].data.params["seed"] == "0"
    table = json.loads((project / "reports/metrics/digits-a/grpo.json").read_text())
    assert parent.data.metrics["digits-a/grpo/last"] == table["last"]
    answers = client.load_table(experiment.experiment_id, "answers.json", [runs["evaluate grpo-0"].info.run_id])
    assert len(answers) == 2 * 4 * 8 and set(answers["benchmark"]) == {"digits-a", "digits-b", "digits-c", "validation"}
    assert {"prompt", "completion", "status"} <= set(answers.columns)
    assert {"rollout_seconds", "update_tokens_per_second"} <= child.data.metrics.keys()
    assert child.data.tags["sdpg.version.torch"].startswith("2.13")
    assert child.data.tags["mlflow.source.git.commit"] == run(project, "git", "rev-parse", "HEAD").stdout.strip()
    assert {given.dataset.name for given in child.inputs.dataset_inputs} == {"prepared", "base", "base-evaluations"}
    history = client.get_metric_history(child.info.run_id, "reward")
    assert [point.step for point in history] == [1, 2, 3, 4]
    stored = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"params.yaml", "table.md", "table.json", "curves.svg", "report.html"} <= stored


def test_transformers_loads_the_policy_as_its_card_in_mlflow_says(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sdpg")
    assert experiment is not None
    cards = {
        each.name: each.tags["mlflow.note.content"] for each in client.search_logged_models([experiment.experiment_id])
    }
    assert set(cards) == {"grpo-0", "sdpg-ufkl-0"}
    (code,) = re.findall(r"```python\n(.*?)```", cards["grpo-0"], re.DOTALL)
    loaded: dict[str, Any] = {}
    monkeypatch.chdir(project)
    exec(code, loaded)
    weights = load_file(project / "runs/grpo-0/policy/model.safetensors")
    assert all(torch.equal(loaded["model"].state_dict()[name], tensor) for name, tensor in weights.items())
    assert loaded["tokenizer"]("1 + 1").input_ids


def test_work_in_progress_is_gone_when_the_tables_are_made(project: Path) -> None:
    assert {folder.name for folder in (project / ".state").iterdir() if folder.is_dir()} <= {"locks", "tracking"}


def test_a_second_repro_runs_nothing(project: Path) -> None:
    assert stages_run(repro(project).stdout) == {"check"}


def test_the_first_steps_come_out_the_same_in_a_clean_clone(project: Path) -> None:
    result = run(project, "python", "-m", "pipelines.verify", "grpo-0", "--quick", "2", check=False)
    assert (result.returncode, result.stdout) == (0, "grpo-0: bit-identical: the first 2 steps\n"), result.stderr
    assert not (project / ".state/verify").exists()


def test_a_changed_beta_reruns_that_method_alone_and_changing_back_trains_nothing(project: Path) -> None:
    before = digest(project / "runs/sdpg-ufkl-0")
    path = project / "params.yaml"
    original = path.read_text()
    head, tail = original.split("\n  sdpg-ufkl:\n")
    path.write_text(head + "\n  sdpg-ufkl:\n" + tail.replace("beta: 1.0", "beta: 0.25", 1))
    output = repro(project).stdout
    assert stages_run(output) == {"check", "train@sdpg-ufkl-0", "evaluate@sdpg-ufkl-0", "tabulate"}
    path.write_text(original)
    output = repro(project).stdout
    assert stages_run(output) <= {"check"}, "everything else comes from the cache"
    assert digest(project / "runs/sdpg-ufkl-0") == before


def test_experiments_on_the_report_alone_train_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(project, "finished")
    monkeypatch.chdir(project)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    commit_id = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    policies = {name: (project / f"runs/{name}-0/policy/model.safetensors").stat().st_mtime_ns for name in METHODS}
    with Repo() as repo:
        # One waits in the queue and runs in a copy of the project, the other runs here.
        repo.experiments.run(queue=True, name="queued", params=["report.confidence=0.9"])
        repo.experiments.run(name="here", params=["report.confidence=0.8"])
        assert policies == {name: (project / f"runs/{name}-0/policy/model.safetensors").stat().st_mtime_ns
                            for name in METHODS}  # fmt: skip
        run(project, "git", "checkout", "--", "params.yaml", "dvc.lock")
        repo.checkout(force=True)
        repo.experiments.run(run_all=True)
        found = {}
        for row in repo.experiments.ls()[commit_id]:
            read = repo.metrics.show(revs=[row[1]])[row[1]]["data"]["reports/metrics/digits-a/sdpg-ufkl.json"]["data"]
            found[row[0]] = read["last"], read["high"] - read["low"]
        assert found["here"][0] == found["queued"][0] and found["here"][1] < found["queued"][1]
        shown = repo.plots.diff(revs=["here", "queued"])
        sources = [shown[revision]["sources"]["data"]["reports/plots/reward.csv"]["data"] for revision in shown]
        assert sources[0] == sources[1] and len(sources[0]) == 2 * 4, "two methods, four steps"
        repo.experiments.remove(all_commits=True)


def test_the_base_is_bundled_and_another_project_starts_from_it(project: Path) -> None:
    refused = run_forked(project, "pipelines.bundle", "--name", "../elsewhere", check=False)
    assert refused.returncode == 2 and "without a path" in refused.stderr
    said = run_forked(project, "pipelines.bundle", "--name", "mine").stdout
    folder = project / "inputs/models/mine"
    digest = folder_digest(folder)
    card = (folder / "README.md").read_text()
    assert digest in said and digest in card and "| digits-b | 0." in card
    weights = folder / "model.safetensors"
    assert weights.read_bytes() == (project / "models/base/model.safetensors").read_bytes()
    shutil.rmtree(folder)


@pytest.fixture
def longer(project: Path) -> Iterator[Path]:
    """The project with a training run that is long enough to be killed."""
    original = (project / "params.yaml").read_text()
    edit(project, "train:\n  steps: 4\n", "train:\n  steps: 12\n")
    edit(project, "  checkpoint_every: 1\n", "  checkpoint_every: 3\n")
    yield project
    (project / "params.yaml").write_text(original)


def kill_when(project: Path, table: str, lines: int) -> bool:
    """Starts ``dvc repro`` and kills its process group when a table has so many lines; False if it ended first."""
    process = subprocess.Popen(
        ["dvc", "repro", "train@sdpg-ufkl-0"], cwd=project, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None:
        if any(len(file.read_text().splitlines()) >= lines for file in project.glob(table)):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    return False


def test_killed_between_checkpoints_it_ends_bit_identical(longer: Path) -> None:
    # tests/attack kills stages at other moments, also while a checkpoint is written; here DVC is killed with them.
    assert kill_when(longer, ".state/*/metrics.csv", 6), "metrics and records run ahead of the checkpoint"
    repro(longer, "train@sdpg-ufkl-0")
    resumed = digest(longer / "runs/sdpg-ufkl-0")
    client = mlflow.MlflowClient(f"sqlite:///{longer / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("sdpg")
    assert experiment is not None
    newest = client.search_runs([experiment.experiment_id], "attributes.run_name = 'sdpg-ufkl-0'")[0]
    steps = [point.step for point in client.get_metric_history(newest.info.run_id, "reward")]
    assert steps == list(range(1, 13)), "the resumed run goes on in its own MLflow run, and logs no step twice"
    rollouts = sorted(path.name for path in (longer / "runs/sdpg-ufkl-0/rollouts").iterdir())
    assert rollouts == [f"step-{step:06d}-rank-0.parquet" for step in range(1, 13)]
    # Killed after its last step, before DVC took the outputs over: nothing is trained again.
    shutil.rmtree(longer / "runs/sdpg-ufkl-0")
    repro(longer, "--force", "--single-item", "train@sdpg-ufkl-0")
    assert digest(longer / "runs/sdpg-ufkl-0") == resumed
    assert client.get_run(newest.info.run_id).info.end_time > newest.info.end_time, "and it is the same MLflow run"
    for state in (longer / ".state").glob("*/"):
        shutil.rmtree(state)
    shutil.rmtree(longer / "runs/sdpg-ufkl-0")
    run_forked(longer, *TRAIN)
    assert digest(longer / "runs/sdpg-ufkl-0") == resumed, "never interrupted, it comes out the same"


SYNTHETIC = """      source:
        kind: synthetic
        families:
          digit-2: 1
        count: 8
    digits-b:
"""
FILE = """      source: {kind: file, path: own.jsonl}
    digits-b:
"""


def test_bad_input_ends_in_one_message_and_touches_nothing(project: Path) -> None:
    refused(project, "profile: micro", "profile: micro\ntypo: 1", "typo: unknown key")
    path = project / "inputs/problems/own.jsonl"
    path.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "1+2", "answer"\n')
    refused(project, SYNTHETIC, FILE, "line 2")
    path.unlink()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("  methods: [grpo, sdpg-ufkl]", "  methods: [grpo, ppo]", "'ppo'"),
        ("      digit-2: 1\n    count: 100", "      digit-9: 1\n    count: 100", "digit-9"),
        ("  max_teacher_tokens: 160", "  max_teacher_tokens: 2000", "prompts.max_teacher_tokens"),
    ],
)
def test_the_first_stage_refuses_what_cannot_be(
    project: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, message: str
) -> None:
    said_by_check(project, monkeypatch, before, after, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "own.jsonl does not exist"), ('{"question": "1+1", "answer": "2"}\n', "problem"), ("", "digits-a")],
    ids=["missing", "column", "empty"],
)
def test_the_first_stage_refuses_files_that_cannot_be_read(
    project: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, message: str
) -> None:
    path = project / "inputs/problems/own.jsonl"
    if content is not None:
        path.write_text(content)
    try:
        said_by_check(project, monkeypatch, SYNTHETIC, FILE, message)
    finally:
        path.unlink(missing_ok=True)


def said_by_check(project: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, message: str) -> None:
    monkeypatch.chdir(project)
    original = (project / "params.yaml").read_text()
    try:
        edit(project, before, after)
        with pytest.raises(UserError, match=re.escape(message)):
            check_inputs(load_params())
    finally:
        (project / "params.yaml").write_text(original)


def refused(project: Path, before: str, after: str, message: str) -> None:
    """Edits params.yaml, expects one message from ``dvc repro``, and every earlier output as it was."""

    def outputs() -> dict[Path, bytes]:
        folders = [project / name for name in ("data", "models", "runs", "evaluations", "reports")]
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        # DVC removes what check writes before check runs; the next good one writes the same again.
        checked = {project / "data/check.json", *(project / "data/code").glob("*")}
        return {path: path.read_bytes() for path in files if path not in checked}

    original, earlier = (project / "params.yaml").read_text(), outputs()
    assert len(earlier) > 20
    try:
        edit(project, before, after)
        result = repro(project, check=False)
    finally:
        (project / "params.yaml").write_text(original)
    said = result.stdout + result.stderr
    assert result.returncode != 0
    assert message in said and "Traceback" not in said
    assert outputs() == earlier
