"""Makes one fault happen in a process: Python imports this as it starts, from a folder on PYTHONPATH.

The variable ATTACK holds the fault as JSON. Its keys ``process``, ``match``, ``at`` say where it strikes: at the n-th
change of a file whose path contains a text, in a process whose command line contains another. ``do`` says what happens.
"""

from contextlib import suppress
import errno
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate"}
WITH_DESCRIPTOR = ("write", "pwrite", "fsync", "ftruncate")


class Fault:
    """One fault; it counts the changes of files below ``project`` and acts when the chosen one comes."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told, self.seen, self.struck, self.offset = told, 0, False, 0.0
        self.busy = threading.local()

    def watch(self) -> None:
        """Makes every change of a file known, before it happens, and lets the clock be moved."""
        for name in WITH_DESCRIPTOR:
            setattr(os, name, self._told_first(getattr(os, name)))
        now, now_ns = time.time, time.time_ns
        time.time = lambda: now() + self.offset
        time.time_ns = lambda: now_ns() + int(self.offset * 1e9)
        sys.addaudithook(self._audit)

    def _told_first(self, function: Any) -> Any:
        def told(descriptor: int, *arguments: Any) -> Any:
            try:
                path = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                path = ""
            self._change(path)
            return function(descriptor, *arguments)

        return told

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES:
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._change(path)
        elif event == "open" and (set(arguments[1] or "") & set("wax+") or (arguments[2] or 0) & WRITES):
            self._change(arguments[0])

    def _change(self, path: Any) -> None:
        if getattr(self.busy, "now", False) or not isinstance(path, (str, bytes, os.PathLike)):
            return
        self.busy.now = True
        try:
            text = os.path.abspath(os.fsdecode(path))
            if not text.startswith(self.told["project"] + "/") or "__pycache__" in text:
                return
            text = text[len(self.told["project"]) + 1 :].replace(str(os.getpid()), "PID")
            text = re.sub(r"uploading\.\w+", "uploading", text)
            if self.told["do"] == "list":
                with open(self.told["mark"], "a", encoding="utf-8") as file:
                    file.write(text + "\n")
                return
            self.seen += self.told.get("match", "") in text
            if self.seen >= self.told.get("at", 1) and (not self.struck or self.told.get("lasting")):
                self._strike(text)
        finally:
            self.busy.now = False

    def _strike(self, path: str) -> None:
        self.struck, do = True, self.told["do"]
        if do in ("kill", "stop", "term"):
            if self.told.get("after") or self.told.get("target") == "worker":
                threading.Thread(target=self._signal, daemon=True).start()
            else:
                self._signal()
            return
        Path(self.told["mark"]).touch()
        if do == "fail":
            number = getattr(errno, self.told["errno"])
            raise OSError(number, os.strerror(number), path)
        if do == "clock":
            self.offset = self.told["seconds"]
        elif do == "remove":
            Path(self.told["project"], self.told["file"]).unlink(missing_ok=True)
        elif do == "garble":
            Path(self.told["project"], self.told["file"]).write_bytes(b"no database " * 400)

    def _signal(self) -> None:
        """Sends a signal, to a worker as soon as there is one."""
        self.busy.now = True
        number, target = getattr(signal, "SIG" + self.told["do"].upper()), self.told.get("target", "self")
        process = {"self": os.getpid(), "leader": os.getsid(0), "group": -os.getsid(0)}.get(target) or _worker()
        while not process:
            time.sleep(0.01)
            process = _worker()
        time.sleep(self.told.get("after", 0))
        Path(self.told["mark"]).touch()
        if number == signal.SIGSTOP:
            going_on = f"sleep {self.told['seconds']}; kill -CONT {process}"
            subprocess.Popen(["/bin/sh", "-c", going_on], start_new_session=True)
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _worker() -> int | None:
    """Returns a process, started by this one, in which answers are verified."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
    return None


def activate(told: dict[str, Any]) -> None:
    """Arms this process with a fault that strikes at a change of a file; other faults are the harness's."""
    if told.get("do"):
        Fault(told).watch()


if "ATTACK" in os.environ:
    _told = json.loads(os.environ["ATTACK"])
    if _told.get("process", "") in " ".join(sys.orig_argv):
        activate(_told)
