"""Part 7: prepare, base and train of the micro profile in a copy of the project; the trainer is killed and resumed."""

import csv
from functools import partial
from importlib.util import find_spec
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import tempfile
import time

import psutil
from ruamel.yaml import YAML

from benchmarks.figures import SkippedError
from benchmarks.gpu_check.checks import PROJECT, Answer, Run

METHOD, STEPS, KILLED_AFTER = "sdpg-ufkl", 16, 3
COPIED = ("sdpg", "pipelines", "profiles", "presets", "configs", "params.yaml", "catalogue.yaml", "dvc.yaml")
NEEDED = ("mlflow", "sqlalchemy", "alembic", "math_verify", "ruamel.yaml", "peft", "pyarrow")
LIMIT = 240.0
"""Seconds for one command."""


def check(run: Run) -> None:
    """One row for each command; the first that fails ends the part."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        commands = {
            "prepare": ("prompts", partial(_prepare, run, project), 15),
            "base": ("a policy and its accuracies", partial(_base, run, project), 25),
            "train, killed": ("work in progress, no run folder", partial(_killed, run, project), 20),
            "train, resumed": (f"steps 1 to {STEPS}, each once", partial(_resumed, run, project), 25),
        }
        for name, (expected, function, seconds) in commands.items():
            answer = run.check(name, expected, function, seconds)
            if answer is None or answer.holds is False:
                return


def _prepare(run: Run, project: Path) -> Answer:
    if missing := [name for name in NEEDED if find_spec(name.split(".")[0]) is None]:
        raise SkippedError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed")
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, project / name)
    _command(run, project, "pipelines.configure", "--profile", "micro", "--methods", METHOD)
    yaml, path = YAML(), project / "params.yaml"
    tree = yaml.load(path)
    tree["train"] |= {"steps": STEPS, "eval_every": STEPS // 2, "device": run.device.type}
    yaml.dump(tree, path)
    _command(run, project, "pipelines.prepare")
    rows = (project / "data/prepared/train.jsonl").read_text(encoding="utf-8").count("\n")
    return Answer(f"{rows} training prompts", rows > 0)


def _base(run: Run, project: Path) -> Answer:
    _command(run, project, "pipelines.base")
    size = (project / "models/base/model.safetensors").stat().st_size
    return Answer(f"a policy of {size:,} bytes", size > 0)


def _killed(run: Run, project: Path) -> Answer:
    """Kills the trainer, and what it started, once some steps are in its books."""
    with (project / "killed.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(_argv("pipelines.train", METHOD, "0"), cwd=project, env=_environment(run, project),
                                   stdout=log, stderr=log)  # fmt: skip
        end = time.monotonic() + min(LIMIT, max(1.0, run.deadline - time.monotonic()))
        while process.poll() is None and time.monotonic() < end and len(_steps(project)) < KILLED_AFTER:
            time.sleep(0.01)
        done = _steps(project)
        for member in (*psutil.Process(process.pid).children(recursive=True), process):
            member.kill()
        status = process.wait()
        log.seek(0)
        text = log.read()
    if status == 1:
        raise RuntimeError(_reason(text))
    finished = (project / "runs" / f"{METHOD}-0").exists()
    return Answer(f"killed after step {done[-1] if done else 0}", len(done) >= KILLED_AFTER and not finished,
                  values={"steps": done})  # fmt: skip


def _resumed(run: Run, project: Path) -> Answer:
    """Starts it again: what it made before must not be made again, and nothing may be missing."""
    start = time.monotonic()
    _command(run, project, "pipelines.train", METHOD, "0")
    seconds = time.monotonic() - start
    folder = project / "runs" / f"{METHOD}-0"
    steps = _numbers(folder / "metrics.csv")
    missing = [name for name in ("COMPLETE", "config.yaml", "summary.json", "curves.csv", "timing.csv",
                                 "policy/model.safetensors") if not (folder / name).is_file()]  # fmt: skip
    records = len(list((folder / "rollouts").glob("*.parquet")))
    hardware = YAML(typ="safe").load(folder / "config.yaml")["hardware"]
    gpus, device = hardware["gpus"], hardware["device"]
    wrong = [f"{', '.join(missing)} missing"] if missing else []
    wrong += [f"metrics.csv has the steps {steps}"] if steps != list(range(1, STEPS + 1)) else []
    wrong += [f"{records} records"] if records != STEPS else []
    wrong += [f"the run was on {device}"] if device != run.device.type else []
    found = "; ".join(wrong) or f"complete, on {', '.join(gpus) if device == 'cuda' else 'the CPU'}"
    return Answer(found, not wrong, values={"seconds": seconds, "steps": steps, "gpus": gpus, "device": device})


def _steps(project: Path) -> list[int]:
    """Those in the books of the work in progress."""
    return [step for path in (project / ".state").glob("*/metrics.csv") for step in _numbers(path)]


def _numbers(path: Path) -> list[int]:
    with path.open(encoding="utf-8", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def _argv(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def _environment(run: Run, project: Path) -> dict[str, str]:
    # The copy's modules, before those of this project.
    path = os.pathsep.join([str(project), *filter(None, [os.environ.get("PYTHONPATH")])])
    hidden = {} if run.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, "PYTHONPATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false", **hidden}  # fmt: skip


def _command(run: Run, project: Path, module: str, *arguments: str) -> None:
    """Runs a command of the pipeline.

    Raises:
        SkippedError: naming a package that it cannot import.
        RuntimeError: with the last line of what it said.
    """
    limit = min(LIMIT, max(1.0, run.deadline - time.monotonic()))
    result = subprocess.run(
        _argv(module, *arguments), cwd=project, env=_environment(run, project), capture_output=True, text=True,
        timeout=limit, check=False,
    )  # fmt: skip
    if result.returncode:
        raise RuntimeError(f"{module}: {_reason(result.stderr)}")


def _reason(text: str) -> str:
    """The last line of a failed command.

    Raises:
        SkippedError: where a package is missing.
    """
    if found := re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", text):
        raise SkippedError(f"{found.group(1)} is not installed")
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
