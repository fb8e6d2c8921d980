"""Trains named settings of a method on fresh seeds and evaluates each once: default and tuned, or a knob's values."""

from dataclasses import dataclass
from pathlib import Path
import shutil
import time
from typing import Any

from filelock import FileLock, Timeout

from sdpg import paths
from sdpg.errors import Diverged
from sdpg.evaluation.evaluation import Identity
from sdpg.evaluation.final import evaluate_policy, summarise
from sdpg.files import make_folder, read_json, replaced_folder, write_json
from sdpg.params import Params, parse_params
from sdpg.params.tune import VALIDATION
from sdpg.records.provenance import fingerprint, versions
from sdpg.records.run_inputs import run_inputs, stage_code, train_sections
from sdpg.records.schemas import write_evaluations
from sdpg.records.tracking import Parent
from sdpg.training.run import RunOverrides, run_identity, train_run
from sdpg.tuning.space import Values, applied, plain, trial_params

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Setting:
    """A method with some of its values changed.

    Attributes:
        group: the name of the settings that are compared: a study, or a measurement.
        method: a name under ``methods``.
        name: the name of the setting.
        values: path → changed value.
        sets: the problem sets on which the final policy is evaluated.
    """

    group: str
    method: str
    name: str
    values: Values
    sets: tuple[str, ...]

    def run_folder(self, seed: int) -> Path:
        """Returns the folder of the training run."""
        return Path("runs") / "tune" / self.group / "retrain" / f"{self.name}-{seed}"

    def evaluation_folder(self, seed: int) -> Path:
        """Returns the folder of the final policy's evaluation."""
        return Path("evaluations") / "tune" / self.group / f"{self.name}-{seed}"


def setting_params(params: Params, setting: Setting) -> Params:
    """Returns params.yaml with the setting's values and the steps of retraining, evaluated as any final policy is."""
    tuned = trial_params(params, setting.values)
    steps = params.tune.retrain.steps or params.tune.steps
    tree = applied(plain(tuned), {"train.steps": steps, "train.record_every": steps})
    tree["evaluation"]["samples"] = params.tune.samples
    return parse_params(tree, "the setting")


def setting_identity(params: Params, setting: Setting, seed: int, inputs: dict[str, str]) -> str:
    """Returns a fingerprint of everything that a result depends on; a result of another fingerprint is made anew."""
    chosen = setting_params(params, setting)
    sections = train_sections(chosen, setting.method) | {"evaluation": chosen.evaluation.model_dump(mode="json")}
    code = [stage_code(stage, chosen, setting.method).digest for stage in ("train", "evaluate")]
    return fingerprint(setting.method, seed, sections, inputs, code, versions(), list(setting.sets))


def is_done(params: Params, setting: Setting, seed: int, inputs: dict[str, str]) -> bool:
    """Returns whether this setting was trained and evaluated with this seed."""
    summary = setting.evaluation_folder(seed) / "summary.json"
    if not summary.is_file():
        return False
    made = read_json(summary, "remove it, and its setting is trained again")
    return made["fingerprint"] == setting_identity(params, setting, seed, inputs)


def retrain(params: Params, setting: Setting, seed: int, inputs: dict[str, str]) -> None:
    """Trains and evaluates a setting once; an interrupted run is continued."""
    chosen, group = setting_params(params, setting), setting.group
    parent = Parent("retraining", f"retrain {group}", fingerprint("retraining", group), {"group": group})
    overrides = RunOverrides(
        folder=setting.run_folder(seed), name=f"{group}/{setting.name}-{seed}",
        identity=("retrain", group, setting.name),
        command="python -m pipelines.tune_all", sets=(VALIDATION,), parent=parent, keep_policy=True,
    )  # fmt: skip
    work = paths.STATE / run_identity(chosen, setting.method, seed, inputs, overrides)
    result: dict[str, Any] = {"fingerprint": setting_identity(params, setting, seed, inputs), "setting": setting.name,
                              "method": setting.method, "seed": seed, "values": setting.values}  # fmt: skip
    rows = []
    try:
        train_run(chosen, setting.method, seed, overrides)
    except Diverged as error:
        result["error"] = str(error)
    else:
        identity = Identity(f"{setting.name}-{seed}", setting.method, seed, chosen.train.steps)
        rows = evaluate_policy(chosen, identity, setting.run_folder(seed) / "policy", names=setting.sets)
        result["accuracy"] = summarise(rows)
    with replaced_folder(setting.evaluation_folder(seed)) as folder:
        if rows:
            write_evaluations(folder / "final.parquet", rows)
        write_json(folder / "summary.json", result)
    shutil.rmtree(work, ignore_errors=True)


def retrain_all(params: Params, settings: list[Setting], seeds: list[int]) -> None:
    """Trains whatever is missing; several processes of this machine share the work, and one waits for the others."""
    inputs = run_inputs()
    jobs = [(setting, seed) for seed in seeds for setting in settings]
    locks = paths.STATE / "retrain"
    make_folder(locks)
    while jobs:
        left = []
        for setting, seed in jobs:
            try:
                with FileLock(locks / f"{setting.group}-{setting.name}-{seed}.lock", timeout=0):
                    if not is_done(params, setting, seed, inputs):
                        retrain(params, setting, seed, inputs)
                        print(f"{setting.group}, {setting.name}, seed {seed}: done", flush=True)
            except Timeout:
                left.append((setting, seed))
        if len(left) == len(jobs):
            time.sleep(POLL_SECONDS)
        jobs = left
