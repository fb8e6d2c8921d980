"""The project that is attacked: made and run once for the reference, then copied for every attack."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
import hashlib
import importlib
import json
import multiprocessing
import os
from pathlib import Path
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from typing import Any

import psutil
from ruamel.yaml import YAML

from sdpg.errors import entry_point
from tests.attack.injected import sitecustomize
from tests.helpers.clones import ENVIRONMENT, clone, commit

TIMEOUT = 600.0
METHODS = ("grpo", "sdpg-ufkl")
STEPS = 4
COMPARED = (
    "data/prepared/**/*", "data/tokenizer/*", "data/prepare.json", "models/**/*", "runs/*/COMPLETE", "runs/*/*s.csv",
    "runs/*/summary.json", "runs/*/policy/*", "runs/*/*/*.parquet", "evaluations/**/*", "reports/table.*",
    "reports/claims.json", "reports/final.json",
)  # fmt: skip
"""The outputs that are equal whenever they are made again; the others hold times, or the state of git."""

VERIFIER = r"""
import re


def boxed(completion: str, gold: str) -> bool | None:
    found = re.findall(r"\\boxed\{([^{}]*)\}", completion)
    return found[-1] == gold if found else None
"""


@dataclass(frozen=True)
class Command:
    """A command, and the outputs that are removed before it is attacked."""

    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()

    @property
    def real(self) -> bool:
        """Whether it needs an interpreter of its own, which takes seconds to start."""
        return self.words[0] in ("dvc", "python")


COMMANDS = {
    "check": Command(("check",), ("data/check.json", "data/code")),
    "prepare": Command(("prepare",), ("data/prepared", "data/tokenizer", "data/prepare.json")),
    "base": Command(("base",), ("models",)),
    "train": Command(("train", "grpo", "0"), ("runs/grpo-0",)),
    "train-sdpg": Command(("train", "sdpg-ufkl", "0"), ("runs/sdpg-ufkl-0",)),
    "evaluate": Command(("evaluate", "grpo", "0"), ("evaluations/grpo-0",)),
    "tabulate": Command(("tabulate",), ("reports",)),
    "doctor": Command(("doctor",)),
    "repro": Command(("dvc", "repro", "train@grpo-0"), ("runs/grpo-0",)),
    "tune": Command(("python", "-m", "pipelines.tune", "grpo", "--trials", "1")),
    "experiment": Command(("dvc", "exp", "run", "--temp", "-S", "methods.grpo.alpha=0.02", "train@grpo-0")),
    "app": Command(("python", "-c", "from streamlit.testing.v1 import AppTest as Page\n"
                                    "assert not Page.from_file('app/main.py', default_timeout=300).run().exception")),
}  # fmt: skip
STAGES = ("check", "prepare", "base", "train", "train-sdpg", "evaluate", "tabulate")


class Running:
    """A command under way: a fork of this process, which has imported everything, or an interpreter of its own."""

    def __init__(self, command: Command, folder: Path, log: Path, fault: dict[str, Any]) -> None:
        self.log = log
        words = ("python", "-m", f"pipelines.{command.words[0]}", *command.words[1:])
        if command.real or fault.get("fresh"):
            changed = {"PYTHONPATH": str(Path(sitecustomize.__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
            if fault.get("do"):
                changed["ATTACK"] = json.dumps(fault)
            environment = _changed(ENVIRONMENT | changed, fault)
            program = shutil.which((command.words if command.real else words)[0], path=ENVIRONMENT["PATH"])
            with log.open("w") as file:
                self.popen: Any = subprocess.Popen(
                    [str(program), *(command.words if command.real else words)[1:]], cwd=folder, env=environment,
                    stdout=file, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=lambda: _limit(fault),
                )  # fmt: skip
            self.fork = None
            return
        self.fork = multiprocessing.get_context("fork").Process(
            target=_forked, args=(words, folder, log, fault), daemon=False
        )
        self.fork.start()

    def code(self) -> int | None:
        """Returns the exit code, negative for a signal; None while it runs."""
        return self.popen.poll() if self.fork is None else self.fork.exitcode

    def end(self) -> dict[str, Any]:
        """Waits for its end; returns the exit code, in one word how it ended, and its last lines."""
        begun = time.monotonic()
        while (code := self.code()) is None and time.monotonic() - begun < TIMEOUT:
            time.sleep(0.02)
        said = self.log.read_text(encoding="utf-8", errors="replace")
        how = (
            "hung" if code is None
            else "done" if code == 0
            else "traceback" if "Traceback (most recent call last)" in said
            else "interrupted" if code == 75
            else "killed" if code < 0 or (code > 128 and code != 255)
            else "refused" if re.search(r"\b(error|ERROR): ", said)
            else "silent"
        )  # fmt: skip
        return {"code": code, "how": how, "said": said[-1500:]}


def _changed(environment: dict[str, str], fault: dict[str, Any]) -> dict[str, str]:
    merged = environment | fault.get("environment", {})
    return {name: value for name, value in merged.items() if value is not None}


def _limit(fault: dict[str, Any]) -> None:
    """Sets what a child process inherits."""
    os.umask(fault.get("umask", 0o022))
    if (limit := fault.get("limit")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _forked(words: Sequence[str], folder: Path, log: Path, fault: dict[str, Any]) -> None:
    """Becomes the command, as if an interpreter had been started for it."""
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.chdir(folder)
    environment = _changed(dict(os.environ), fault)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    _limit(fault)
    sys.argv = list(words[2:])
    sitecustomize.activate(fault)
    entry_point(importlib.import_module(words[2]).main)


class World:
    """The reference, and a place at which every attack finds a copy of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.project = folder, folder / "project"
        self.reference, self.with_dvc = folder / "reference", folder / "reference-dvc"
        self.project.mkdir(parents=True)
        clone(self.project, " ".join(METHODS))
        self._set_up()
        for name in (*STAGES[:4], "train-sdpg", "evaluate", "evaluate-sdpg", "tabulate"):
            command = COMMANDS.get(name) or Command(("evaluate", "sdpg-ufkl", "0"))
            self.must(command, self.project)
        self.project.rename(self.reference)
        self.expected = outputs(self.reference)
        self._changes: dict[str, list[str]] = {}
        self.sizes = [path.stat().st_size for path in self.reference.glob("[!.]*/**/*") if path.is_file()]

    def _set_up(self) -> None:
        """Lets the base learn enough that rewards differ, and has a worker process verify every answer."""
        file, yaml = self.project / "params.yaml", YAML()
        params = yaml.load(file)
        params["base"]["model"]["steps"] = 400
        params["train"]["steps"] = STEPS
        params["report"]["resamples"] = 50
        params["reward"]["verifier"] = {"kind": "import", "path": "own_verifier:boxed"}
        yaml.dump(params, file)
        (self.project / "own_verifier.py").write_text(VERIFIER, encoding="utf-8")
        commit(self.project, "set up")

    def must(self, command: Command, folder: Path, fault: dict[str, Any] | None = None) -> None:
        """Runs a command that has to succeed."""
        end = Running(command, folder, self.folder / "log", fault or {}).end()
        if end["code"] != 0:
            raise RuntimeError(f"{' '.join(command.words)}: {end['how']}\n{end['said']}")

    def place(self, command: Command, folder: Path, keep: bool = False) -> None:
        """Copies the reference to a folder, without the outputs of a command, which may be kept."""
        source = self.reference
        if command.words[0] == "dvc" or command == COMMANDS["tune"]:
            source = self._reference_of_dvc()
        shutil.copytree(source, folder, symlinks=True, dirs_exist_ok=True)
        for output in () if keep else command.outputs:
            path = folder / output
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _reference_of_dvc(self) -> Path:
        """Returns a copy of the reference for which DVC has recorded everything but one training and what follows."""
        if not self.with_dvc.exists():
            shutil.copytree(self.reference, self.with_dvc, symlinks=True)
            self.must(Command(("dvc", "commit", "--force")), self.with_dvc)
            lock, yaml = self.with_dvc / "dvc.lock", YAML()
            tree = yaml.load(lock)
            for stage in ("train@grpo-0", "evaluate@grpo-0", "tabulate"):
                tree["stages"].pop(stage, None)
            yaml.dump(tree, lock)
            shutil.rmtree(self.with_dvc / ".dvc/cache/runs", ignore_errors=True)
        return self.with_dvc

    def changes(self, name: str) -> list[str]:
        """Returns the files that a command changes, in order, each as often as it does."""
        if name not in self._changes:
            mark = self.folder / "changes"
            mark.write_text("")
            self.clear()
            self.place(COMMANDS[name], self.project)
            told = {"do": "list", "process": PROCESS.get(name, ""), "project": str(self.project), "mark": str(mark)}
            self.must(COMMANDS[name], self.project, told)
            if differing := differences(self.expected, outputs(self.project)):
                raise RuntimeError(f"{name}, run again without a fault, gives other bytes: {', '.join(differing)}")
            self._changes[name] = mark.read_text(encoding="utf-8").splitlines()
        return self._changes[name]

    def clear(self) -> None:
        """Ends what still works in the project's folder, and removes the folder."""
        for process in workers_in(self.folder):
            process.kill()
        for path in (self.project, self.folder / "elsewhere"):
            shutil.rmtree(path, ignore_errors=True)


PROCESS = {"repro": "pipelines.train", "tune": "pipelines.tune", "experiment": "pipelines.train"}
"""The process of a command, by a part of its command line, in which a fault strikes; otherwise the command itself."""


def workers_in(folder: Path) -> list[psutil.Process]:
    """Returns the processes, other than this one, whose working directory lies in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            inside = Path(process.cwd()).is_relative_to(folder) and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):
            continue
        if inside and process.pid != os.getpid():
            found.append(process)
    return found


def waited(ended: Callable[[], bool]) -> None:
    """Waits for something for as long as a command may take."""
    begun = time.monotonic()
    while not ended() and time.monotonic() - begun < TIMEOUT:
        time.sleep(0.1)


def outputs(folder: Path) -> dict[str, str]:
    """Returns the digest of every output that is compared, by its path; half-written ones are hidden, and not seen."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in COMPARED for path in folder.glob(pattern)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }  # fmt: skip


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Returns the paths at which two sets of outputs differ."""
    return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))


def told_otherwise(folder: Path) -> Iterator[str]:
    """Yields what is wrong with the steps of training runs in MLflow's database: told twice, or left out."""
    if list((folder / ".state/tracking").glob("[!.]*")):
        return  # some events wait
    with closing(sqlite3.connect(f"{(folder / 'mlflow.db').as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute(
            "SELECT runs.name, runs.run_uuid, group_concat(step) FROM runs JOIN metrics USING (run_uuid) "
            "WHERE key = 'reward' AND status = 'FINISHED' GROUP BY runs.run_uuid"
        )
        for name, _, steps in rows:
            if sorted(map(int, steps.split(","))) != list(range(1, STEPS + 1)):
                yield f"mlflow.db: {name} has steps {steps}"
