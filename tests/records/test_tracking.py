"""Tests that training never waits for MLflow, and that MLflow gets every event once: real databases, real kills."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
import multiprocessing
import os
from pathlib import Path
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

from mlflow.tracking import MlflowClient
import pytest

from pipelines import deliver
from pipelines.doctor import set_aside
from sdpg.errors import Interrupted, UserError
from sdpg.params import Params, TrackingParams, load_params, parse_params, read_yaml
from sdpg.records import delivery
from sdpg.records.delivery import deliver_now, waiting
from sdpg.records.event_queue import EventQueue, events, locked, queues, tracking_folder
from sdpg.records.mlflow_store import connect
from sdpg.records.tracking import Parent, StageRun, finish_parent, stage_run

ROOT = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")
IDENTITY = "0123456789abcdef"
NAMES = ("reward", "kl", "length")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    connect(TrackingParams(uri=f"sqlite:///{folder}/mlflow.db"))
    return folder / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(database, tmp_path / "mlflow.db")
    monkeypatch.setattr(delivery, "PAUSES", (0.05,))
    return tmp_path


def params(uri: str = "sqlite:///mlflow.db") -> Params:
    read = load_params(ROOT / "params.yaml")
    return read.model_copy(update={"tracking": TrackingParams(uri=uri, system_metrics=False)})


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Params:
    """Parameters whose server is not there."""
    monkeypatch.setattr(delivery, "PATIENCE_REFUSED", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    return params(f"http://127.0.0.1:{port}")


def stage(settings: Params, **changes: Any) -> Any:
    given = {"stage": "train", "name": "grpo-0", "identity": IDENTITY, "inputs": {"base": (Path("models"), "d" * 40)},
             "settings": {"method": {"beta": 1.0}}}  # fmt: skip
    return stage_run(settings, **(given | changes))


def log(tracked: StageRun, *steps: int) -> None:
    for step in steps:
        tracked.log_step(step, dict.fromkeys(NAMES, step / 10) | {"absent": None})


def rows(file: str = "mlflow.db") -> list[tuple[str, str, int]]:
    """Every point of every metric: run, name and step."""
    with closing(sqlite3.connect(file)) as connection:
        found = connection.execute(
            "SELECT runs.name, metrics.key, metrics.step FROM metrics JOIN runs USING (run_uuid) ORDER BY 1, 3, 2"
        )
        return found.fetchall()


def expected(*steps: int, run: str = "grpo-0") -> list[tuple[str, str, int]]:
    return [(run, name, step) for step in steps for name in sorted(NAMES)]


def runs() -> dict[str, Any]:
    client, experiment = connect(TrackingParams())
    return {str(run.info.run_name): run for run in client.search_runs([experiment])}


def test_a_stage_is_in_mlflow_when_it_ends_and_nothing_is_left_over(project: Path) -> None:
    (project / "table.csv").write_text("as it was")
    with stage(params()) as tracked:
        log(tracked, 1, 2, 3)
        tracked.log_artifact(project / "table.csv")
        (project / "table.csv").write_text("changed since")
    found = runs()
    run = found["grpo-0"]
    assert rows() == expected(1, 2, 3) and run.info.status == "FINISHED" and run.data.params == {"method.beta": "1.0"}
    assert run.data.tags["mlflow.parentRunId"] == found["pipeline tiny paper"].info.run_id
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert run.info.start_time <= run.info.end_time
    assert Path(urlsplit(run.info.artifact_uri).path, "table.csv").read_text() == "as it was"
    assert queues() == [] and not list(tracking_folder().iterdir())


def test_a_locked_database_stops_nobody_and_gets_everything(project: Path) -> None:
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with stage(params()) as tracked:
            log(tracked, 1, 2, 3)
            assert waiting(tracking_folder() / f"train-{IDENTITY}") == 4
            other.execute("ROLLBACK")
    assert rows() == expected(1, 2, 3) and queues() == []


def test_a_server_that_is_away_stops_nobody_and_the_next_command_delivers(
    project: Path, away: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    with stage(away) as tracked:
        log(tracked, 1, 2, 3)
    said = capsys.readouterr().err
    assert "5 events for MLflow wait in" in said and "sdpg deliver" in said
    with stage(params(), stage="evaluate", name="evaluate grpo-0", identity="f" * 16) as tracked:
        log(tracked, 7)
    assert rows() == [*expected(7, run="evaluate grpo-0"), *expected(1, 2, 3)] and queues() == []
    assert {run.info.status for name, run in runs().items() if "pipeline" not in name} == {"FINISHED"}


def test_a_run_that_was_killed_twice_while_the_server_was_away_has_each_step_once(project: Path, away: Params) -> None:
    def killed(*steps: int) -> None:
        with stage(away) as tracked:
            log(tracked, *steps)
            os.kill(os.getpid(), signal.SIGKILL)

    for steps in ((1, 2, 3), (2, 3, 4, 5)):
        trainer = FORK.Process(target=killed, args=steps)
        trainer.start()
        trainer.join()
        assert trainer.exitcode == -signal.SIGKILL
    # A kill in the midst of a line leaves half of it, which is no event.
    (queue,) = queues()
    with max(queue.glob("*/events.jsonl")).open("a") as file:
        file.write('{"kind": "step", "ti')
    with stage(params(), resume=True) as tracked:
        log(tracked, 4, 5, 6)
    assert rows() == expected(1, 2, 3, 4, 5, 6) and queues() == []
    assert [name for name in runs() if "pipeline" not in name] == ["grpo-0"], "it is one run"


def test_killed_at_any_moment_of_a_delivery_nothing_is_twice_or_missing(project: Path, away: Params) -> None:
    with stage(away) as tracked:
        log(tracked, *range(1, 41))
    (queue,) = queues()
    for sent in (1, 9, 25):
        courier = FORK.Process(target=deliver_now, args=(params().tracking, queue))
        courier.start()
        while courier.is_alive() and 42 - waiting(queue) < sent:
            time.sleep(0.001)
        courier.kill()
        courier.join()
        assert waiting(queue) > 0, "the kill came in between"
    deliver_now(params().tracking, queue)
    assert rows() == expected(*range(1, 41)) and queues() == []


def test_an_event_that_was_taken_and_not_noted_is_not_there_twice(
    project: Path, away: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage(away) as tracked:
        log(tracked, 1, 2)
    (queue,) = queues()
    noting, fail = delivery.write_json, [True]

    def lost(path: Path, value: Any) -> None:
        # The kill comes after MLflow has the event, each time.
        if fail.pop():
            fail.append(False)
            raise OSError("killed")
        fail.append(True)
        noting(path, value)

    monkeypatch.setattr(delivery, "write_json", lost)
    for _ in range(20):
        if queues():
            try:
                deliver_now(params().tracking, queue)
            except UserError:
                continue
    assert rows() == expected(1, 2) and len(runs()) == 2


def test_a_database_that_was_set_aside_is_told_everything_again(project: Path, database: Path) -> None:
    with stage(params()) as tracked:
        log(tracked, 1, 2)
        while waiting(tracking_folder() / f"train-{IDENTITY}"):
            time.sleep(0.01)
        set_aside(project / "mlflow.db")
        shutil.copy(database, project / "mlflow.db")
        # Connections of this process still show the old file.
        delivery.connect(TrackingParams())
        from sdpg.records.mlflow_store import _close

        _close(project / "mlflow.db")
        log(tracked, 3)
    assert rows() == expected(1, 2, 3)


def test_a_command_delivers_what_is_left_and_says_so(
    project: Path, away: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Parent("study", "tune grpo", "a" * 16, {"budget": 3})
    (project / "study.json").write_text("{}")
    finish_parent(away, study, {"best_value": 0.5}, [project / "study.json"])
    with stage(away) as tracked:
        log(tracked, 1)
    monkeypatch.setattr(sys, "argv", ["deliver"])
    monkeypatch.setattr("sdpg.params.load_params", lambda: away)
    with pytest.raises(UserError, match=r"tracking\.uri"):
        deliver.main()
    monkeypatch.setattr("sdpg.params.load_params", params)
    with locked(tracking_folder() / f"train-{IDENTITY}"):
        deliver.main()
    assert "in use" in capsys.readouterr().out and rows() == [("tune grpo", "best_value", 0)]
    deliver.main()
    assert runs()["tune grpo"].info.status == "FINISHED" and ("grpo-0", "kl", 1) in rows()
    deliver.main()
    assert "Nothing waits" in capsys.readouterr().out


def test_an_event_of_which_the_disk_took_half_leaves_nothing_behind(project: Path) -> None:
    queue = EventQueue("train-x")
    told = [{"kind": "step", "step": step, "metrics": {"x" * 50: 1.0}} for step in range(3)]
    queue.append(told[0])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((queue.start / "events.jsonl").stat().st_size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            queue.append(told[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    queue.append(told[2])
    queue.close()
    assert [event for event, _ in events(queue.start, 0)] == [told[0], told[2]]


def test_a_living_start_is_not_removed(project: Path) -> None:
    queue = EventQueue("train-x")
    other = FORK.Process(target=lambda: delivery.Delivery(params().tracking, queue.folder).deliver())
    other.start()
    other.join()
    assert queue.start.is_dir()
    queue.close()
    deliver_now(params().tracking, queue.folder)
    assert not queue.folder.exists()


@contextmanager
def server(project: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{project}/mlflow.db"]  # fmt: skip
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    try:
        while True:
            assert process.poll() is None
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=10).close()
                break
            except OSError:
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_server_that_dies_and_returns_gets_everything_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_REFUSED", 300)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    queue = tracking_folder() / f"train-{IDENTITY}"
    with stage(params(f"http://127.0.0.1:{port}")) as tracked:
        with server(project, port):
            log(tracked, 1, 2)
            while waiting(queue):
                time.sleep(0.05)
        log(tracked, 3, 4, 5)
        assert waiting(queue) == 3
        returned = server(project, port)
        returned.__enter__()
        log(tracked, 6)
    returned.__exit__(None, None, None)
    assert rows() == expected(1, 2, 3, 4, 5, 6) and queues() == []


SECRET = "hunter2"


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{SECRET}@host:5000",
        f"https://{SECRET}@host",
        f"postgresql://me:{SECRET}@host/mlflow",
        f"postgresql+psycopg://host/mlflow?user=me&password={SECRET}",
        f"http://host:5000/?token={SECRET}",
    ],
)
def test_a_password_is_refused_and_not_repeated(uri: str) -> None:
    for section, field in (("tracking", "uri"), ("tune", "storage")):
        tree = read_yaml(ROOT / "params.yaml")
        tree[section][field] = uri
        with pytest.raises(UserError) as refused:
            parse_params(tree)
        assert f"{section}: {field if section == 'tracking' else 'storage'} holds a password" in str(refused.value)
        assert SECRET not in str(refused.value)
    tree = read_yaml(ROOT / "params.yaml")
    tree["tracking"] = uri
    with pytest.raises(UserError, match="tracking: Input should be a valid dictionary") as refused:
        parse_params(tree)
    assert SECRET not in str(refused.value)
    assert TrackingParams(uri="postgresql://me@host/mlflow").uri == "postgresql://me@host/mlflow"


def test_a_metric_that_is_no_number_is_queued_and_delivered(project: Path) -> None:
    with stage(params()) as tracked:
        tracked.log_step(1, {"reward": float("nan"), "kl": float("inf"), "length": 1e300})
    assert rows() == expected(1)
    client = MlflowClient("sqlite:///mlflow.db")
    assert len(client.get_metric_history(runs()["grpo-0"].info.run_id, "kl")) == 1


def test_a_stage_that_was_told_to_end_is_killed_in_mlflow_and_goes_on_in_its_run(project: Path) -> None:
    with pytest.raises(Interrupted), stage(params()) as tracked:
        log(tracked, 1)
        raise Interrupted("SIGTERM")
    assert runs()["grpo-0"].info.status == "KILLED"
    with stage(params(), resume=True) as tracked:
        log(tracked, 1, 2)
    assert rows() == expected(1, 2) and runs()["grpo-0"].info.status == "FINISHED"
