"""Tests studies in a real PostgreSQL server, installed from Debian's packages where it is missing and may be."""

from collections.abc import Iterator
import multiprocessing
import os
from pathlib import Path
import random
import shutil
import socket
import subprocess
import tempfile
import time
from typing import Any

import optuna
import pytest

from sdpg.errors import UserError
from sdpg.tuning import study as study_module
from sdpg.tuning.results import study_summary
from sdpg.tuning.storage import ENVIRONMENT, open_storage
from sdpg.tuning.study import is_lost
from tests.helpers.tuning_helpers import fake_work, make_study, problems, tune_params
from tests.tuning.test_tuning_study import slow_worker

pytestmark = pytest.mark.slow
FORK = multiprocessing.get_context("fork")
PASSWORD = "no-secret-of-anybodys"


def programs() -> Path:
    """The folder of initdb and pg_ctl; skips with the reason where there is none and none can be had."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "postgresql"]):
            result = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
            if result.returncode:
                pytest.skip(f"apt-get {command[0]} failed: {result.stderr[-300:]}")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed, and only root can install it")
    return found[-1].parent


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a fresh server on 127.0.0.1, which ends with the tests."""
    pytest.importorskip("psycopg", reason="the driver psycopg is not installed")
    folder = programs()
    # A socket's path must be short, and the server does not run as root.
    place = Path(tempfile.mkdtemp(prefix="pg-"))
    data, as_user = place / "data", []
    if os.geteuid() == 0:
        shutil.chown(place, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    secret = place / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)

    def call(program: str, *arguments: str) -> None:
        # Its output goes to a file: a server that inherits a pipe keeps it open.
        with (Path(tempfile.gettempdir()) / f"{place.name}.log").open("a") as log:
            subprocess.run([*as_user, str(folder / program), *arguments], check=True, stdout=log, stderr=log, cwd="/")

    call("initdb", "-D", str(data), "-U", "tuner", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync")
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {place} -c fsync=off"
    call("pg_ctl", "-D", str(data), "-o", options, "-l", str(place / "log"), "-w", "start")
    yield f"postgresql+psycopg://tuner:{PASSWORD}@127.0.0.1:{port}/postgres"
    call("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    shutil.rmtree(place)


@pytest.fixture(autouse=True)
def _folder(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, server)
    monkeypatch.setattr(study_module, "git_state", lambda: {"commit": "abc", "dirty": False})


def test_a_study_lives_in_the_server_and_its_password_is_shown_nowhere(tmp_path: Path) -> None:
    study = make_study(tune_params(), 4, "pg")
    fake_work(study)
    assert problems(study) == []
    shown = study_summary(study)["storage"]
    assert shown.startswith("postgresql+psycopg://tuner:***@127.0.0.1:") and PASSWORD not in str(study_summary(study))
    assert not list(tmp_path.glob("*.db"))
    again = make_study(tune_params(), 4, "pg")
    assert again.done() and again.uid == study.uid


def opened(params: Any) -> None:
    open_storage(params)


def test_workers_that_create_the_tables_at_once_do_not_stop_each_other(server: str) -> None:
    storage = open_storage(tune_params())
    optuna.storages._rdb.models.BaseModel.metadata.drop_all(storage.rdb.engine)
    storage.rdb.engine.dispose()
    workers = [FORK.Process(target=opened, args=(tune_params(),)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0


def test_workers_killed_at_random_moments_lose_no_trial() -> None:
    params, source = tune_params(retries=30), random.Random(0)
    steady = FORK.Process(target=slow_worker, args=(params, 25, 1))
    steady.start()
    kills = 0
    while steady.is_alive():
        ready = FORK.Event()
        victim = FORK.Process(target=slow_worker, args=(params, 25, 2 + kills, ready))
        victim.start()
        ready.wait(60)
        victim.join(source.uniform(0.0, 0.3))
        if victim.is_alive():
            victim.kill()
            victim.join()
            kills += 1
    assert steady.exitcode == 0 and kills >= 5
    study = make_study(params, 25)
    assert problems(study) == []
    assert any(map(is_lost, study.trials())), "some kill hit a trial"


def hold(params: Any, inside: Any) -> None:
    storage = open_storage(params)
    with storage.lock("s"):
        inside.set()
        time.sleep(600)


def take(params: Any) -> None:
    with open_storage(params).lock("s"):
        pass


def test_a_dead_workers_lock_is_released() -> None:
    inside = FORK.Event()
    holder = FORK.Process(target=hold, args=(tune_params(), inside))
    holder.start()
    assert inside.wait(30)
    holder.kill()
    holder.join()
    taker = FORK.Process(target=take, args=(tune_params(),), daemon=True)
    taker.start()
    taker.join(300)
    assert taker.exitcode == 0, "the lock is free"


def test_a_wrong_password_is_refused_without_showing_it(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, server.replace(PASSWORD, "hunter2"))
    with pytest.raises(UserError, match=r"tuner:\*\*\*@127.0.0.1.*cannot be used.*password authentication") as error:
        open_storage(tune_params())
    assert "hunter2" not in str(error.value)
