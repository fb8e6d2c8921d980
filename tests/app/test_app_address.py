"""Tests with real starts that the app listens on this machine alone, or shows nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import socket
import subprocess
import sys
import time

import psutil
import pytest
from streamlit.testing.v1 import AppTest

from app import address
from pipelines import app as pages
from pipelines import mlflow_pages
from tests.helpers import browser

PROJECT = Path(__file__).parents[2]
MAIN = str(PROJECT / "app" / "main.py")


@contextmanager
def started(folder: Path, script: str = MAIN, *flags: str, **environment: str) -> Iterator[psutil.Process]:
    """The app as ``streamlit run`` starts it; yields its process once it listens."""
    port = browser.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", script, f"--server.port={port}", *flags], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(2000):
            assert process.poll() is None
            if listening(psutil.Process(process.pid)):
                break
            time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def listening(process: psutil.Process) -> set[str]:
    return {each.laddr.ip for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN}


def test_it_listens_on_this_machine_alone_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / ".streamlit").mkdir()
    (tmp_path / ".streamlit" / "config.toml").write_text('[server]\naddress = "0.0.0.0"\n')
    with started(tmp_path) as elsewhere, started(PROJECT, "app/main.py") as here:
        assert listening(elsewhere) == listening(here) == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
def test_told_to_listen_elsewhere_it_shows_only_that(tmp_path: Path) -> None:
    # The folder is another checkout, with modules of the same names.
    (tmp_path / "app").mkdir()
    for name in ("__init__", "address", "ui"):
        (tmp_path / "app" / f"{name}.py").write_text("")
    with (
        started(tmp_path, STREAMLIT_SERVER_ADDRESS="0.0.0.0") as by_environment,
        started(tmp_path, MAIN, "--server.address=::") as by_flag,
        browser.chromium() as chromium,
    ):
        for process, everywhere in ((by_environment, "0.0.0.0"), (by_flag, "::")):
            (at,) = [each.laddr for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
            assert at.ip == everywhere
            page = chromium.new_page()
            page.goto(f"http://127.0.0.1:{at.port}/", timeout=120_000)
            page.wait_for_selector("[role=alert]", timeout=120_000)
            browser.settled(page)
            assert "ssh -L" in page.inner_text("[role=alert]")
            assert "Overview" not in page.inner_text("body") and "sample" not in page.inner_text("body")


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", False), ("127.0.0.1", True)])
def test_the_sockets_decide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, shown: bool) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    address.reachable_from_elsewhere.cache_clear()
    try:
        with socket.create_server((host, 0)) as server:
            at = AppTest.from_file(MAIN, default_timeout=120).run()
            assert not at.exception and bool(at.header) is shown
            if not shown:
                assert f"{host}:{server.getsockname()[1]}" in at.error[0].value.replace("\\", "")
    finally:
        address.reachable_from_elsewhere.cache_clear()


def test_what_sdpg_starts_is_bound_to_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = pages.parser().parse_args(["--folder", "a b", "--folder", "c", "--port", "8600"])
    command = pages.command(options)
    assert command[2:5] == ["streamlit", "run", str(MAIN)] and "--server.address=127.0.0.1" in command
    assert command[-5:] == ["--", "--folder", "a b", "--folder", "c"]
    line = mlflow_pages.command("sqlite:////p/mlflow.db", 5001)
    assert line[2:] == ["mlflow", "server", "--host", "127.0.0.1", "--port", "5001",
                    "--backend-store-uri", "sqlite:////p/mlflow.db"]  # fmt: skip
