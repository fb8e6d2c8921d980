"""Carries out one attack, and says what came of it."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
import multiprocessing
import os
from pathlib import Path
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from typing import Any

from sdpg.records.mlflow_store import WITHOUT
from tests.attack.faults import Fault
from tests.attack.world import (
    COMMANDS,
    PROCESS,
    Running,
    World,
    differences,
    outputs,
    told_otherwise,
    waited,
    workers_in,
)

UNTOLD = ("database vanishes", "database garbled", "server dies")
OUTCOMES = ("same bits", "refused with a message", "corrupted", "blocked")


def attack(world: World, fault: Fault) -> dict[str, Any]:
    """Runs a command under a fault, and again without one until it is done.

    Returns:
        The fault; ``outcome``, one of ``OUTCOMES``; ``struck``: whether the fault came to act; ``ends`` of the
        command's runs, and of one ``beside``; ``wrong``: the outputs that differ from the reference's, or are gone.
    """
    command, second = COMMANDS[fault["command"]], COMMANDS.get(fault.get("second", ""))
    mark, log = world.folder / "struck", world.folder / "log"
    world.clear()
    mark.unlink(missing_ok=True)
    with placed(world, fault) as (folder, hindered):
        told = fault | {
            "project": str(folder.resolve()),
            "mark": str(mark),
            "process": PROCESS.get(fault["command"], ""),
        }
        before, beside = outputs(folder), []
        with hindered():
            first = Running(command, folder, log, told)
            if second:
                time.sleep(fault["delay"])
                beside = [Running(second, folder, world.folder / "log-beside", {}).end()]
            ends = [first.end()]
        # DVC removes a stage's own outputs before it runs the stage.
        own = command.outputs if command.words[0] == "dvc" else ()
        after = outputs(folder)
        wrong = [path for path in differences(before, after) if path in before and not path.startswith(own)]
        # The same command at once, while others may still be at work; then after their end; then as the message says.
        for attempt in range(3):
            if ends[-1]["how"] == "done":
                break
            if attempt > 0:
                wait(world)
            if attempt > 1 and "server" in fault and WITHOUT in ends[-1]["said"]:
                file = folder / "params.yaml"
                text = re.sub("http://127.0.0.1:[0-9]+", "sqlite:///mlflow.db", file.read_text(encoding="utf-8"))
                file.write_text(text, encoding="utf-8")
            elif attempt > 1:
                Running(COMMANDS["doctor"], folder, world.folder / "log-doctor", {}).end()
            ends.append(Running(command, folder, log, {}).end())
        wait(world)
        if ends[-1]["how"] == "done":
            wrong += differences(world.expected, outputs(folder))
            # What a database held before it went, or a server before it died, is theirs.
            wrong += told_otherwise(folder) if fault["kind"] not in UNTOLD else []
    hung = any(end["how"] == "hung" for end in ends + beside)
    outcome = (
        "corrupted" if wrong
        else "blocked" if hung or ends[-1]["how"] != "done"
        else "same bits" if len(ends) <= 2
        else "refused with a message" if all(end["how"] == "refused" for end in ends[1:-1])
        else "blocked"
    )  # fmt: skip
    struck = mark.exists() or "do" not in fault
    return {**fault, "outcome": outcome, "struck": struck, "wrong": wrong, "ends": ends, "beside": beside}


@contextmanager
def placed(world: World, fault: Fault) -> Iterator[tuple[Path, Any]]:
    """Puts a copy of the project where the fault wants it; yields the folder, and what hinders the first command."""
    command, place = COMMANDS[fault["command"]], fault.get("place", "")
    folder = world.folder / place if place.startswith("elsewhere") else world.project
    folder.mkdir(parents=True)
    small, helper = place == "small", None
    if small:
        _mount("-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder))
    try:
        world.place(command, folder, keep=fault.get("keep", False))
        if place == "link":
            link = world.folder / "link"
            link.unlink(missing_ok=True)
            link.symlink_to(folder)
            folder = link
        if "server" in fault:
            file = folder / "params.yaml"
            port, helper = _dying_server(fault)
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace("sqlite:///mlflow.db", f"http://127.0.0.1:{port}"), encoding="utf-8")

        if fault.get("locked"):
            helper = _started(_lock, folder / "mlflow.db")
            waited(lambda: (folder / "mlflow.db.held").exists())

        @contextmanager
        def hindered() -> Iterator[None]:
            if small:
                used = shutil.disk_usage(folder).used // 1024 + fault["room"]
                _mount("-o", f"remount,size={used}k", str(folder))
            kept = fault.get("read_only") and folder / fault["read_only"]
            if kept:
                kept.mkdir(exist_ok=True)
                _read_only(kept, True)
            try:
                yield
            finally:
                if kept:
                    _read_only(kept, False)
                if fault.get("locked") and helper:
                    helper.kill()
                    helper.join()
                if small:
                    _mount("-o", "remount,size=1g", str(folder))

        yield folder, hindered
    finally:
        if helper:
            helper.kill()
            helper.join()
        if small:
            for process in workers_in(folder):
                process.kill()
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this process may mount a file system, tried on a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        return not mounted.returncode and not subprocess.run(["umount", folder], check=False).returncode


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def _read_only(folder: Path, on: bool) -> None:
    """Takes away the right to write below a folder; from root, whom no mode stops, by a mount."""
    if os.geteuid() == 0 and on:
        _mount("--bind", str(folder), str(folder))
        _mount("-o", "remount,bind,ro", str(folder))
    elif os.geteuid() == 0:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222 if on else path.stat().st_mode | 0o200)


def wait(world: World) -> None:
    """Waits until nothing works in the project any more."""
    waited(lambda: not workers_in(world.folder))


def _started(target: Callable[..., Any], *arguments: Any) -> Any:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    return process


def _lock(file: Path) -> None:
    """Holds a database until this process is ended."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        file.with_name(file.name + ".held").touch()
        time.sleep(3600)


def _dying_server(fault: Fault) -> tuple[int, Any]:
    """Starts a process that answers as a healthy server a few times, and then refuses, hangs, fails or lies."""
    left = [fault["answers"]]

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            left[0] -= 1
            if left[0] < 0 and fault["server"] == "refuses":
                os._exit(0)
            if left[0] < 0 and fault["server"] == "hangs":
                time.sleep(3600)
            text = b"OK" if left[0] >= 0 else b"<html>\xff{]"
            self.send_response(500 if left[0] < 0 and fault["server"] == "fails" else 200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = answer

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    process = _started(server.serve_forever)
    server.server_close()
    return server.server_port, process
