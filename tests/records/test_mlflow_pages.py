"""Tests what MLflow's own pages and searches have of a run: parameters, tags, data sets, tables, times, the policy."""

import json
from pathlib import Path
import re
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
import pytest

from sdpg.params import Params, TrackingParams, load_params, parse_params, read_yaml
from sdpg.params.configure import merge, read_overlay
from sdpg.records import tracking
from sdpg.records.mlflow_store import KIND_TAG, connect
from sdpg.records.run_inputs import pipeline_parameters, read_parameters
from sdpg.records.tracking import MOST_ROWS, flatten, log_pipeline_results, policy_card, stage_run

ROOT = Path(__file__).parents[2]
MOST_PARAMETERS = 100
"""What MLflow takes in one request, and what its pages show without a search."""
ROWS = [{"prompt": f"{n} + 1 = ?", "completion": "so " * 3000, "status": "correct"} for n in range(500)]


@pytest.fixture(scope="module")
def params() -> Params:
    read = load_params(ROOT / "params.yaml")
    return read.model_copy(update={"tracking": TrackingParams(system_metrics=False)})


def train(params: Params, method: str, seed: int) -> None:
    """A training run, as far as MLflow hears of it."""
    Path("data/prepared").mkdir(parents=True, exist_ok=True)
    name, inputs = f"{method}-{seed}", {"prepared": (Path("data/prepared"), "d" * 32)}
    with stage_run(
        params, "train", name, f"{name}-train", inputs, read_parameters(params, method, seed),
        resume=True, of=(method, seed),
    ) as run:  # fmt: skip
        run.log_step(1, {"reward": 0.5})
        run.log_steps([{"step": step, "rollout_seconds": step / 10, "peak_gpu_bytes": float("nan")} for step in (1, 2)])
        run.log_table("rollouts", ROWS, ["prompt", "completion", "status"])
        run.log_policy(name, Path(f"runs/{name}/policy"))


def evaluate(params: Params, method: str, seed: int) -> None:
    name, settings = f"{method}-{seed}", {"method": method, "seed": seed, "evaluation": {"seed": 7}}
    with stage_run(params, "evaluate", f"evaluate {name}", f"{name}-eval", {}, settings, of=(method, seed)) as run:
        run.log_table("answers", ROWS[:3], ["prompt", "status"])


@pytest.fixture(scope="module")
def logged(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A store with two methods and two seeds, and a parent."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_EXP_NAME", "higher-rate")
        for method, seed in (("grpo", 0), ("sdpg-ufkl", 0), ("sdpg-ufkl", 1)):
            train(params, method, seed)
        evaluate(params, "sdpg-ufkl", 0)
        # The same work once more, in its own run again: nothing is there twice.
        train(params, "grpo", 0)
        log_pipeline_results(params, {"chain-3/grpo/last": 0.25}, [])
        yield connect(params.tracking)


def found(condition: str) -> list[dict[str, Any]]:
    rows = mlflow.search_runs(experiment_names=["sdpg"], filter_string=condition, output_format="list")
    return [{**run.data.params, **{f"tag {k}": v for k, v in run.data.tags.items()}} for run in rows]


def test_runs_are_searched_by_method_and_seed(logged: Any) -> None:
    rows = found("tags.method = 'sdpg-ufkl' and params.seed = '0'")
    assert {row["tag stage"] for row in rows} == {"train", "evaluate"} and len(rows) == 2
    of = {row["tag stage"]: row for row in rows}
    assert (of["evaluate"]["seed"], of["evaluate"]["evaluation.seed"]) == ("0", "7")
    for name, value in {
        "kind": "pipeline", "profile": "tiny", "preset": "paper", "base": "tiny-base", "dvc.exp": "higher-rate",
        "method": "sdpg-ufkl", "seed": "0",
    }.items():  # fmt: skip
        assert of["train"][f"tag {name}"] == value, name
    assert of["train"]["tag mlflow.user"] and of["train"]["tag mlflow.source.type"] == "LOCAL"
    assert found("tags.kind = 'pipeline' and tags.stage = 'train' and params.beta = '1.0'")[0]["method"] == "sdpg-ufkl"


def test_the_searches_of_the_docs_find_runs(logged: Any) -> None:
    client, experiment = logged
    page = (ROOT / "docs/mlflow.md").read_text(encoding="utf-8")
    searches = re.findall(r'experiment_names=.*filter_string="(.*)"|^    ((?:tags|metrics)\..*)$', page, re.MULTILINE)
    counts = {one or other: len(found(one or other)) for one, other in searches}
    assert list(counts.values()) == [2, 2, 5, 0], counts
    (models,) = re.findall(r'search_logged_models\(filter_string="(.*)"\)', page)
    named = {model.name for model in client.search_logged_models([experiment], models)}
    assert named == {"sdpg-ufkl-0", "sdpg-ufkl-1"}


def test_a_method_has_only_the_parameters_that_it_reads(params: Params) -> None:
    grpo, sdpg = (flatten(read_parameters(params, method, 3)) for method in ("grpo", "sdpg-ufkl"))
    assert "beta" not in grpo and "gate" not in grpo and grpo["clip_low"] == "0.2"
    assert "clip_low" not in sdpg and (sdpg["beta"], sdpg["seed"], sdpg["lr"]) == ("1.0", "3", "0.0003")
    # Its own value of the section train.
    assert flatten(read_parameters(params, "dapo", 0))["refill_rounds"] == "3"


def test_no_run_has_more_parameters_than_a_page_shows() -> None:
    tree = read_yaml(ROOT / "params.yaml")
    for profile in sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")):
        merge(tree, read_overlay("profile", profile, ROOT))
        params = parse_params(tree)
        counts = [len(flatten(read_parameters(params, method, 0))) for method in params.methods]
        assert min(counts) > 50 and max(counts) <= MOST_PARAMETERS, profile
        assert len(flatten(pipeline_parameters(params))) <= MOST_PARAMETERS


def test_the_experiment_opens_as_one_of_machine_learning(logged: Any) -> None:
    client, experiment = logged
    assert client.get_experiment(experiment).tags[KIND_TAG] == "custom_model_development"
    client.create_experiment("older")
    connect(TrackingParams(experiment="older", system_metrics=False))
    assert client.get_experiment_by_name("older").tags[KIND_TAG] == "custom_model_development"


def runs_named(logged: Any, name: str) -> list[Any]:
    client, experiment = logged
    return client.search_runs([experiment], f"attributes.run_name = '{name}'")


def test_a_data_set_loads_from_its_source(logged: Any) -> None:
    (run, *_) = runs_named(logged, "grpo-0")
    (given,) = run.inputs.dataset_inputs
    place = Path(mlflow.data.get_source(given).load())
    assert place.is_dir() and place.is_absolute() and place.parts[-2:] == ("data", "prepared")
    assert (given.dataset.name, given.dataset.digest) == ("prepared", "d" * 32)


def test_times_are_metrics_of_their_steps(logged: Any) -> None:
    client, _ = logged
    # This one has ended twice.
    (run,) = runs_named(logged, "grpo-0")
    points = client.get_metric_history(run.info.run_id, "rollout_seconds")
    assert [(point.step, point.value) for point in points] == [(1, 0.1), (2, 0.2)]
    assert "peak_gpu_bytes" not in run.data.metrics, "there was none"


def test_tables_show_prompt_completion_and_verdict_of_a_sample(logged: Any) -> None:
    client, experiment = logged
    (run,) = runs_named(logged, "grpo-0")
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "rollouts.json", "type": "table"}]
    table = client.load_table(experiment, "rollouts.json", [run.info.run_id])
    assert list(table.columns) == ["prompt", "completion", "status"] and 100 < len(table) <= MOST_ROWS
    assert table["prompt"][2] == "6 + 1 = ?", "evenly spaced over all rows"
    assert {len(text) for text in table["completion"]} == {tracking.LONGEST_TEXT + 1}


def test_the_policy_is_a_logged_model_by_reference(logged: Any) -> None:
    client, experiment = logged
    models = client.search_logged_models([experiment])
    assert len(models) == len({model.source_run_id for model in models}), "one for each run"
    model = next(each for each in models if each.name == "sdpg-ufkl-1")
    assert model.status == "READY" and model.model_type == "policy" and model.params["beta"] == "1.0"
    assert (model.tags["folder"], model.tags["method"]) == ("runs/sdpg-ufkl-1/policy", "sdpg-ufkl")
    assert model.tags["mlflow.note.content"] == policy_card(Path("runs/sdpg-ufkl-1/policy"))
    (run, *_) = runs_named(logged, "sdpg-ufkl-1")
    assert [out.model_id for out in run.outputs.model_outputs] == [model.model_id]
    assert not list(Path("mlartifacts").rglob("*.safetensors")), "nothing is copied"


def test_a_server_without_logged_models_gets_everything_else(
    params: Params, monkeypatch: pytest.MonkeyPatch, logged: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise MlflowException("no such endpoint", error_code=databricks_pb2.ENDPOINT_NOT_FOUND)

    monkeypatch.setattr("mlflow.tracking.MlflowClient.search_logged_models", unknown)
    with stage_run(params, "train", "rlsd-0", "f" * 16, {}, {}, of=("rlsd", 0)) as run:
        run.log_policy("rlsd-0", Path("runs/rlsd-0/policy"))
        run.log_step(1, {"reward": 0.25})
    assert "too old" in capsys.readouterr().err
    (found,) = runs_named(logged, "rlsd-0")
    assert found.info.status == "FINISHED" and found.data.metrics == {"reward": 0.25}


def test_the_parent_has_the_metrics_of_the_table(logged: Any) -> None:
    (parent,) = runs_named(logged, "pipeline tiny paper")
    assert parent.data.metrics == {"chain-3/grpo/last": 0.25}
    assert parent.data.params["methods"] == "grpo rlsd opcd sdpg-urkl sdpg-ufkl"
    assert parent.data.tags["kind"] == "pipeline"
    assert "stage" not in parent.data.tags


def test_a_remote_with_a_password_is_logged_without_it(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://me:hunter2@example.org/sdpg.git"
    monkeypatch.setattr(tracking, "resolve_tags", lambda: {"mlflow.source.git.repoURL": address})
    tags = tracking._tags(params)
    assert "hunter2" not in json.dumps(tags) and "example.org" in tags["mlflow.source.git.repoURL"]
