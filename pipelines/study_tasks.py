"""Makes the tasks of a study: its bases are trained, its projects are set up, and each method and seed is run."""

from collections.abc import Mapping, Sequence
from functools import partial
import os
from pathlib import Path
import shutil
from typing import Any

from ruamel.yaml import YAML

from pipelines.side_by_side import Task
from pipelines.study_stages import Stage
from sdpg import paths
from sdpg.files import make_folder, replaced_file, replaced_folder
from sdpg.models.weight_files import folder_digest, model_files
from sdpg.params import PARAMS_FILE, Params, read_yaml
from sdpg.records.code import CACHE
from sdpg.records.mlflow_store import connect
from sdpg.records.run_inputs import stage_code
from sdpg.records.work import read_fingerprint, remove_work
from sdpg.replication.design import (
    FOLDER,
    builds,
    built_folder,
    built_tree,
    project_folder,
    project_tree,
    recipe,
    seeds_of,
    study_tracking,
)

Pipeline = Mapping[str, Any]
SET_UP = ("prepare", "base")
READY = "records and code"
"""The task that comes first: it makes what projects side by side would otherwise all make, each for itself."""


def study_tasks(params: Params, pipeline: Pipeline) -> list[Task]:
    """Returns every task of the study, each behind those that it comes after."""
    bases = range(max(runs.bases for runs in params.study.runs.values()))
    ready = Task(READY, "ready", 1, (), lambda: False, partial(_make_ready, params), FOLDER / "study.log")
    tasks = [ready, *(_build(params, pipeline, base) for base in bases if builds(params, base))]
    for name, runs in params.study.runs.items():
        places = [project_folder(name, base) for base in range(runs.bases)]
        tasks += [_set_up(params, pipeline, name, base) for base in range(runs.bases)]
        steps = runs.steps or params.train.steps
        # Method by method: where time runs out, each method that was run has all bases and seeds.
        tasks += [
            _run(pipeline, place, method, seed, steps)
            for method in runs.methods for base, place in enumerate(places) for seed in seeds_of(runs, base)
        ]  # fmt: skip
    return tasks


def _make_ready(params: Params) -> None:
    """Creates the database and the experiment of MLflow here, and parses the code once for all projects."""
    connect(study_tracking(params))
    for method in params.methods:
        stage_code("train", params, method)
    for stage in ("check", "prepare", "base", "evaluate", "tabulate"):
        stage_code(stage, params)


def _build(params: Params, pipeline: Pipeline, base: int) -> Task:
    folder = built_folder(base)
    stages = [Stage(folder, name) for name in SET_UP]

    def run() -> None:
        _write_project(folder, built_tree(params, base), params)
        _in_project(folder, stages, pipeline)

    return Task(
        f"base {base}", "base", recipe(params).steps, (READY,), partial(_done, stages, pipeline), run,
        folder / "study.log", stages[-1].seconds,
    )  # fmt: skip


def _set_up(params: Params, pipeline: Pipeline, name: str, base: int) -> Task:
    folder = project_folder(name, base)
    stages = [Stage(folder, stage) for stage in SET_UP]

    def run() -> None:
        built = built_folder(base) / paths.BASE_MODEL if builds(params, base) else params.base.local_folder
        model = params.base.model.model_dump(mode="json")
        if built is not None:
            model = {"kind": "folder", "path": f"base-{base}", "digest": _copy_base(built, folder, f"base-{base}")}
        _write_project(folder, project_tree(params, name, base, model), params)
        _in_project(folder, stages, pipeline)

    # What a project depends on is looked at by its own process: parameters, the base and the code may have changed.
    after = (READY, *([f"base {base}"] if builds(params, base) else []))
    return Task(
        f"{name}: base {base} set up", "set up", 1, after, lambda: False, run, folder / "study.log",
        stages[-1].seconds,
    )  # fmt: skip


def _run(pipeline: Pipeline, folder: Path, method: str, seed: int, steps: int) -> Task:
    stages = [Stage(folder, name, (method, str(seed))) for name in ("train", "evaluate")]

    def run() -> None:
        _in_project(folder, stages, pipeline, checked=True)
        # The stamps say that the run is done, so that its work in progress is needed no more.
        remove_work(f"{method}-{seed}", read_fingerprint(paths.run_folder(method, seed) / "COMPLETE"))

    def seconds() -> float | None:
        took = [stage.seconds() for stage in stages]
        return None if None in took else sum(filter(None, took))

    name, base = folder.parts[-2:]
    return Task(
        f"{name}: {base} {method}-{seed}", "run", steps, (f"{name}: {base.replace('-', ' ')} set up",),
        partial(_done, stages, pipeline), run, folder / "logs" / f"{method}-{seed}.log", seconds,
    )  # fmt: skip


def _done(stages: Sequence[Stage], pipeline: Pipeline) -> bool:
    return all(stage.current(pipeline) for stage in stages)


def _in_project(folder: Path, stages: Sequence[Stage], pipeline: Pipeline, checked: bool = False) -> None:
    """Runs stages with a project's folder as the working directory; check comes first, as in dvc.yaml."""
    os.chdir(folder)
    for stage in stages if checked else [Stage(folder, "check"), *stages]:
        stage.run(pipeline)


def _write_project(folder: Path, tree: dict[str, Any], params: Params) -> None:
    """Writes a project's params.yaml where it says something else, and shows it the problem files of the main one."""
    make_folder(folder / "inputs" / "models")
    problems = folder / params.data.folder
    if not Path(params.data.folder).is_absolute() and Path(params.data.folder).is_dir() and not problems.is_symlink():
        make_folder(problems.parent)
        problems.symlink_to(os.path.relpath(params.data.folder, problems.parent))
    if CACHE.is_file() and not (folder / CACHE).is_file():
        make_folder((folder / CACHE).parent)
        shutil.copy(CACHE, folder / CACHE)
    file = folder / PARAMS_FILE
    if not file.is_file() or read_yaml(file) != tree:
        with replaced_file(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
            YAML(typ="safe", pure=True).dump(tree, stream)


def _copy_base(built: Path, folder: Path, name: str) -> str:
    """Copies a base's weights and tokenizer into a project's inputs/models; returns their digest."""
    target, digest = folder / "inputs" / "models" / name, folder_digest(built)
    if not target.is_dir() or folder_digest(target) != digest:
        with replaced_folder(target) as copy:
            for file in model_files(built):
                shutil.copy(file, copy / file.name)
    return digest
