"""Tests the list of an MLflow server's runs, against MLflow's own server on a store with two experiments."""

from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
import shutil
import sys
import threading

import pytest
from streamlit.testing.v1 import AppTest

from app import mlflow_server
from app.sources import SAMPLE
from sdpg.errors import UserError

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of MLflow's own server in this process, and the id of one of its runs."""
    root = tmp_path_factory.mktemp("server")
    patch = pytest.MonkeyPatch()
    uri = f"sqlite:///{root}/mlflow.db"
    patch.setenv("_MLFLOW_SERVER_FILE_STORE", uri)
    patch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(root / "artifacts"))
    patch.setenv("_MLFLOW_SERVER_ARTIFACT_DESTINATION", str(root / "artifacts"))
    patch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "false")
    from mlflow.server import app
    from mlflow.tracking import MlflowClient
    from werkzeug.serving import make_server

    client = MlflowClient(tracking_uri=uri)
    ids = []
    for name in ("first", "<b>second</b>"):
        experiment = client.create_experiment(name, artifact_location=f"file://{root}/artifacts/{len(ids)}")
        for at in range(2):
            run = client.create_run(experiment, run_name=f"{name}-{at}").info.run_id
            client.log_param(run, "train.lr", str(0.1 * (at + 1)))
            for step in range(3):
                client.log_metric(run, "reward", step + at, step=step)
            client.set_terminated(run)
            ids.append(run)
    client.log_dict(ids[-1], {"a": 1}, "config.json")
    listening = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}", ids[-1]
    listening.shutdown()
    thread.join()
    patch.undo()


def overview(root: Path, monkeypatch: pytest.MonkeyPatch, address: str, **params: str) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py", "--mlflow", address])
    at = AppTest.from_file(str(PROJECT / "app/main.py"), default_timeout=60)
    for name, value in params.items():
        at.query_params[name] = value
    return at.run()


def test_runs_metrics_and_artifacts_come_through_the_api(server: tuple[str, str]) -> None:
    address, last = server
    found = mlflow_server.runs(address)
    assert {run.name for run in found} == {"first-0", "first-1", "<b>second</b>-0", "<b>second</b>-1"}
    run = next(run for run in found if run.id == last)
    assert run.experiment == "<b>second</b>" and run.status == "FINISHED" and run.started
    assert run.metrics == {"reward": 3.0} and run.params == {"train.lr": "0.2"}
    assert mlflow_server.history(address, last, "reward")["value"].tolist() == [1.0, 2.0, 3.0]
    files = mlflow_server.artifacts(address, last)
    assert files["path"].tolist() == ["config.json"] and files["bytes"][0] > 0


def test_the_overview_lists_them_and_one_on_demand(
    server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, last = server
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    at = overview(tmp_path, monkeypatch, f"{address}/", server_params="train.lr")
    assert not at.exception and not at.error and len(at.dataframe) == 2
    table = at.dataframe[1].value
    assert sorted(table["reward"]) == [2.0, 2.0, 3.0, 3.0] and set(table["train.lr "]) == {"0.1", "0.2"}
    at = overview(tmp_path, monkeypatch, address, server_run=last)
    assert not at.exception and at.dataframe[2].value["path"].tolist() == ["config.json"]


def test_a_server_that_does_not_answer_hides_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    at = overview(tmp_path, monkeypatch, "http://me:hunter2@127.0.0.1:9")
    assert not at.exception and len(at.dataframe) == 1
    said = at.error[0].value.replace("\\", "")
    assert "does not answer" in said and "hunter2" not in said
    at = overview(tmp_path, monkeypatch, "file:///etc")
    assert not at.dataframe and "no address of a server" in at.error[0].value


def test_name_and_password_of_an_address_are_sent_as_such() -> None:
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Authorization"]))
            self.send_error(401)

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.handle_request)
        thread.start()
        with pytest.raises(UserError, match="answers artifacts/list with 401") as caught:
            mlflow_server.ask(f"http://me:p%40ss@127.0.0.1:{listening.server_port}/at", "artifacts/list", run_id="a b")
        thread.join()
    assert "p%40ss" not in str(caught.value)
    assert asked == [("/at/api/2.0/mlflow/artifacts/list?run_id=a+b", f"Basic {b64encode(b'me:p@ss').decode()}")]


def test_a_server_is_added_on_the_page(
    server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app/main.py"), default_timeout=60).run()
    assert not any("Experiment" in each.value for each in at.dataframe)
    at.text_input(key="_server").set_value("ftp://elsewhere").run()
    assert not at.exception and any("is no address of a server" in each.value for each in at.error)
    at.text_input(key="_server").set_value(f" {server[0]}/ ").run()
    assert not at.exception and not at.error
    (table,) = [each.value for each in at.dataframe if "Experiment" in each.value]
    assert set(table["Run"]) == {"first-0", "first-1", "<b>second</b>-0", "<b>second</b>-1"}
    # A link that names a server asks none.
    assert "_server" not in dict(at.query_params) and server[0] not in str(dict(at.query_params))
