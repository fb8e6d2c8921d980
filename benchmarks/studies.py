"""Measures training steps an hour of a study by two workers, against one: ``python -m pipelines.tune`` processes.

Both do the same work: values drawn at random, nothing pruned, one thread a worker, and each study in a folder of its
own with the project's data and base.
"""

from dataclasses import dataclass
import os
from pathlib import Path
import resource
import subprocess
import sys
from tempfile import TemporaryDirectory
import time

import optuna
from tqdm import tqdm

from benchmarks.figures import Figure, SkippedError, Target, show
from sdpg import paths
from sdpg.files import write_json
from sdpg.params import PARAMS_FILE, load_params
from sdpg.tuning.space import applied, plain

METHOD = "sdpg-ufkl"
TRIALS, STEPS, WORKERS = 10, 30, 2
STORAGE = "sqlite:///tune.db"

TWO_WORKERS = Target("study_two_workers_vs_one", "steps an hour of the same study by one worker", ">= 1.6")


@dataclass(frozen=True)
class Spent:
    """The seconds of a study.

    Attributes:
        whole: seconds from the start of the command to its end: imports, trials, tables and pages.
        trials: seconds from the start of the first trial to the end of the last.
        busy: processor seconds, over all processes; far below ``whole`` if the machine did something else as well.
    """

    whole: float
    trials: float
    busy: float


def two_workers_vs_one(trials: int = TRIALS, steps: int = STEPS) -> Figure:
    """Returns the figure whose ratio is the seconds of one worker over those of two, from command to end."""
    if (cores := len(os.sched_getaffinity(0))) < WORKERS:
        raise SkippedError(f"{WORKERS} workers need as many cores, and this process may use {cores}")
    if not paths.BASE_MODEL.is_dir():
        raise SkippedError(f"{paths.BASE_MODEL} is missing: dvc repro base makes it")
    spent = {workers: run_study(workers, trials, steps) for workers in tqdm((1, WORKERS), desc="study", leave=False)}
    rates = {workers: trials * steps / study.whole * 3600 for workers, study in spent.items()}
    show(
        f"A study of {METHOD}, {trials} trials of {steps} steps, random values, no pruning, one thread a worker",
        ["workers", "seconds", "of them trials", "of processors", "steps an hour"],
        [(workers, f"{study.whole:.1f}", f"{study.trials:.1f}", f"{study.busy:.1f}", f"{rates[workers]:,.0f}")
         for workers, study in spent.items()],
        "seconds: from the command's start to its end; trials: from the first one's start to the last one's end; "
        "processors: used by all processes",
    )  # fmt: skip
    one, two = spent[1], spent[WORKERS]
    return TWO_WORKERS.measured(
        one.whole / two.whole, ratio_of_trials=one.trials / two.trials, trials=trials, steps=steps,
        seconds={str(workers): study.whole for workers, study in spent.items()},
        trial_seconds={str(workers): study.trials for workers, study in spent.items()},
        processor_seconds={str(workers): study.busy for workers, study in spent.items()},
    )  # fmt: skip


def run_study(workers: int, trials: int, steps: int) -> Spent:
    """Runs a study to its end in a folder of its own."""
    project = Path.cwd()
    changes = {"train.threads": 1, "tune.storage": STORAGE, "tune.second": None, "tune.sampler": "random",
               "tune.pruner": "none", "tune.steps": steps, "tune.eval_every": min(steps, 5)}  # fmt: skip
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / PARAMS_FILE, applied(plain(load_params()), changes))
        for shared in {paths.PREPARED.parts[0], paths.BASE_MODEL.parts[0]}:
            (folder / shared).symlink_to(project / shared)
        environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
        environment.pop("SDPG_TUNE_STORAGE", None)
        command = [sys.executable, "-m", "pipelines.tune", METHOD, "--trials", str(trials)]
        command += ["--workers", str(workers), "--ready"]
        with (folder / "log").open("w+") as log:
            start, before = time.perf_counter(), children_seconds()
            code = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=False).returncode
            whole, busy = time.perf_counter() - start, children_seconds() - before
            log.seek(0)
            if code:
                raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read()[-3000:]}")
        made = optuna.load_study(study_name=METHOD, storage=f"sqlite:///{folder}/tune.db").get_trials(deepcopy=False)
    assert len(made) == trials and all(trial.user_attrs["steps"] == steps for trial in made)
    starts = [trial.datetime_start for trial in made if trial.datetime_start]
    ends = [trial.datetime_complete for trial in made if trial.datetime_complete]
    return Spent(whole, (max(ends) - min(starts)).total_seconds(), busy)


def children_seconds() -> float:
    """Returns the processor time of all processes that this one, or one of its children, has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
