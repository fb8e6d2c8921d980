"""Tests that MLflow's database is made whole or not at all, and that a damaged one is named and set aside."""

from collections.abc import Callable
from contextlib import closing, suppress
import multiprocessing
import os
from pathlib import Path
import resource
import shutil
import signal
import socket
import sqlite3
import time

import pytest

from pipelines.doctor import examine
from sdpg.errors import UserError
from sdpg.params import Params, TrackingParams, load_params
from sdpg.records import mlflow_store
from sdpg.records.mlflow_store import check_store, connect, damage

ROOT = Path(__file__).parents[2]
SETTINGS = TrackingParams()
# The modules of MLflow are loaded here already, so a forked process goes to work at once.
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it."""
    folder = tmp_path_factory.mktemp("whole")
    connect(TrackingParams(uri=f"sqlite:///{folder}/mlflow.db"))
    return folder / "mlflow.db"


@pytest.mark.parametrize("name", ["a b  ü 数 'q' %41", "what?x=1#2&uri=true", "%"])
def test_any_name_of_a_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    client, experiment = connect(SETTINGS)
    run = client.create_run(experiment)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name / "mlflow.db").is_file()
    assert mlflow_store.database_file(SETTINGS) == tmp_path / name / "mlflow.db"
    again, _ = connect(SETTINGS)
    assert again.get_run(run.info.run_id).info.run_id == run.info.run_id
    assert damage(tmp_path / name / "mlflow.db", thorough=True) is None


@pytest.fixture
def params() -> Params:
    return load_params(ROOT / "params.yaml")


def make(limit: int | None = None) -> None:
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        connect(SETTINGS)
    except UserError as error:
        assert "mlflow.db" in str(error)
        os._exit(2)
    os._exit(0)


def names(project: Path) -> list[str]:
    return sorted(path.name for path in project.iterdir() if path.name != ".state")


def test_killed_at_any_moment_of_its_making_the_next_start_makes_it(project: Path) -> None:
    def size() -> int:
        sizes = [-1]
        for path in project.glob(".mlflow.db.partial-*"):
            with suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        return max(sizes)

    for bytes_written in (0, 100_000, 300_000):
        making = FORK.Process(target=make)
        making.start()
        while size() < bytes_written and making.is_alive():
            time.sleep(0.001)
        making.kill()
        making.join()
        assert damage(project / "mlflow.db") is None, "there is none, or a whole one"
        (project / "mlflow.db").unlink(missing_ok=True)
    assert any(".partial-" in name for name in names(project)), "the kills came while it was made"
    _, experiment = connect(SETTINGS)
    assert experiment == "1" and names(project) == ["mlflow.db"], "and nothing of the killed is left"


def test_side_by_side_starts_agree(project: Path) -> None:
    starts = [FORK.Process(target=make) for _ in range(3)]
    for each in starts:
        each.start()
    for each in starts:
        each.join()
    assert [each.exitcode for each in starts] == [0, 0, 0]
    with closing(sqlite3.connect("mlflow.db")) as database:
        assert database.execute("SELECT name FROM experiments ORDER BY 1").fetchall() == [("Default",), ("sdpg",)]


def test_a_full_disk_leaves_nothing_and_the_next_start_makes_it(project: Path) -> None:
    for limit in (20_000, 300_000):
        making = FORK.Process(target=make, args=(limit,))
        making.start()
        making.join()
        assert making.exitcode == 2 and names(project) == []
    connect(SETTINGS)
    assert names(project) == ["mlflow.db"]


def half_made(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE alembic_version")


def before_the_first_migration(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("DELETE FROM alembic_version")
        database.commit()


def between_migrations(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        database.execute("DROP TABLE trace_info")
        database.commit()


def foreign(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE mine (x)")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "zero bytes": lambda file: file.write_bytes(b""),
    "no database": lambda file: file.write_text("no database " * 500),
    "truncated": lambda file: os.truncate(file, 100_000),
    "truncated to its head": lambda file: os.truncate(file, 50),
    "half made": half_made,
    "before the first migration": before_the_first_migration,
    "foreign": foreign,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_one_is_named_and_set_aside(project: Path, whole: Path, params: Params, name: str) -> None:
    file = project / "mlflow.db"
    shutil.copy(whole, file)
    DAMAGES[name](file)
    before = file.read_bytes()
    for start in (connect, check_store):
        with pytest.raises(UserError, match=r"mlflow\.db is .*doctor"):
            start(SETTINGS)
    assert file.read_bytes() == before and names(project) == ["mlflow.db"], "it is not touched"
    (said,) = examine(params)
    assert "mlflow.db.damaged-1" in said
    assert names(project) == ["mlflow.db.damaged-1"] and (project / "mlflow.db.damaged-1").read_bytes() == before
    assert list(examine(params)) == []


def test_one_that_only_mlflow_finds_half_made_is_set_aside_too(project: Path, whole: Path, params: Params) -> None:
    shutil.copy(whole, project / "mlflow.db")
    between_migrations(project / "mlflow.db")
    shutil.copy("mlflow.db", "mlflow.db.damaged-1")
    with pytest.raises(UserError, match="doctor"):
        connect(SETTINGS)
    assert len(list(examine(params))) == 1
    assert names(project) == ["mlflow.db.damaged-1", "mlflow.db.damaged-2"]
    connect(SETTINGS)
    assert (project / "mlflow.db").is_file()


def test_a_whole_one_stays_also_with_a_journal_that_a_kill_left(project: Path, whole: Path, params: Params) -> None:
    shutil.copy(whole, project / "mlflow.db")

    def write() -> None:
        database = sqlite3.connect("mlflow.db", isolation_level=None)
        database.execute("PRAGMA cache_size = 1")
        database.execute("BEGIN IMMEDIATE")
        for number in range(3000):
            database.execute(
                "INSERT INTO experiments (name, lifecycle_stage) VALUES (?, 'active')", (f"x{number}" * 50,)
            )
        os.kill(os.getpid(), signal.SIGKILL)

    writing = FORK.Process(target=write)
    writing.start()
    writing.join()
    assert (project / "mlflow.db-journal").stat().st_size > 0
    assert list(examine(params)) == []
    client, _ = connect(SETTINGS)
    assert len(client.search_experiments()) == 2


def test_one_that_another_process_has_locked_is_no_reason_to_refuse(
    project: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(whole, project / "mlflow.db")
    opened = mlflow_store._opened
    monkeypatch.setattr(mlflow_store, "_opened", lambda file, timeout=0.0: opened(file, 0.05))
    with closing(sqlite3.connect("mlflow.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        check_store(SETTINGS)
        assert damage(project / "mlflow.db") is None


def test_a_server_that_is_away_or_silent_is_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_store, "CHECK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UserError, match=rf"tracking\.uri 'http://127\.0\.0\.1:{port}' .*sqlite:///mlflow\.db"):
            check_store(TrackingParams(uri=f"http://127.0.0.1:{port}"))
    for uri in (f"http://127.0.0.1:{port}", f"postgresql://127.0.0.1:{port}/mlflow"):
        with pytest.raises(UserError, match="is not reachable"):
            check_store(TrackingParams(uri=uri))
