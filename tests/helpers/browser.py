"""Starts a real browser on the real app for tests: the server on a project folder, and Chromium beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def free_port() -> int:
    """A port on this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def app(root: Path, *folders: Path) -> Iterator[str]:
    """The app, started in ``root`` as a user would; yields its address and ends it afterwards."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", str(PROJECT / "app" / "main.py"), f"--server.port={port}",
               "--server.address=127.0.0.1", "--server.headless=true", "--browser.gatherUsageStats=false",
               "--server.fileWatcherType=none", "--client.toolbarMode=minimal",
               "--client.showErrorLinks=false",
               "--theme.light.primaryColor=#0072b2", "--theme.dark.primaryColor=#56b4e9", "--"]  # fmt: skip
    command += [part for folder in folders for part in ("--folder", str(folder))]
    log = root / ".app.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=root, stdout=output, stderr=subprocess.STDOUT,
                                   env={**os.environ, "PYTHONPATH": str(PROJECT)})  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    urlopen(f"{address}/_stcore/health", timeout=1)
                    break
                except (URLError, ConnectionError, TimeoutError):
                    time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            process.wait(10)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def settled(page: Page) -> None:
    """Waits until the page's script has run and its elements stand still."""
    page.wait_for_selector("[data-testid=stMainBlockContainer] h2, [data-testid=stMainBlockContainer] [role=alert]")
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
        " && !document.querySelector('[data-stale=true], [data-testid=stSkeleton], .st-key-go')"
    )
    page.wait_for_timeout(150)


def location(page: Page) -> str:
    """The address as the browser shows it now; ``page.url`` may lag."""
    return page.evaluate("location.href")
