"""Lays out a study: a project folder for each base and length of run, with parameters of its own.

``study/_bases/base-1`` is where base 1 is trained, ``study/short/base-1`` has the runs called short on it. Each is a
folder as the main project is one: params.yaml, data, models, runs, evaluations; app and commands read it as such.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from sdpg.errors import UserError
from sdpg.params import Params, ScratchModel, TrackingParams
from sdpg.params.base import SEEDS_OF_A_BASE, StudyRuns
from sdpg.sqlite_uri import SQLITE

FOLDER = Path("study")


def builds(params: Params, base: int) -> bool:
    """Says whether a base is trained here; base 0 is not where ``base.model`` names a finished model."""
    return base > 0 or isinstance(params.base.model, ScratchModel)


def built_folder(base: int) -> Path:
    """Returns the project in which a base is trained."""
    return FOLDER / "_bases" / f"base-{base}"


def project_folder(name: str, base: int) -> Path:
    """Returns the project of the runs called ``name`` on a base."""
    return FOLDER / name / f"base-{base}"


def seeds_of(runs: StudyRuns, base: int) -> list[int]:
    """Returns the training seeds of a base, which no other base has."""
    return [SEEDS_OF_A_BASE * base + seed for seed in range(runs.seeds)]


def check_study(params: Params) -> None:
    """Refuses a section ``study`` that cannot be run.

    Raises:
        UserError: naming the field, its value and the remedy.
    """
    if not params.study.runs:
        raise UserError("study.runs is empty: name runs, such as short: {bases: 3, seeds: 3, methods: [grpo, rlsd]}")
    for name, runs in params.study.runs.items():
        for method in (*runs.methods, *params.study.parents, *params.study.parents.values()):
            if method not in params.methods:
                raise UserError(f"study.runs.{name}.methods or study.parents names {method!r}, which is not under "
                                f"methods; there are: {', '.join(params.methods)}")  # fmt: skip
    if (strategy := params.train.distributed.strategy) != "none":
        raise UserError(f"train.distributed.strategy is {strategy}, but each run of a study trains on one process, "
                        "several of them side by side: set it to none, and processes to 1")  # fmt: skip
    recipe(params)


def recipe(params: Params) -> ScratchModel:
    """Returns the recipe of the bases that are trained here.

    Raises:
        UserError: if there is none.
    """
    if isinstance(params.base.model, ScratchModel):
        return params.base.model
    if params.study.recipe is None:
        raise UserError(f"study.recipe is null and base.model.kind is {params.base.model.kind}, so that there is one "
                        "base: give a recipe with kind: scratch, by which further ones are trained")  # fmt: skip
    return params.study.recipe


def built_tree(params: Params, base: int) -> dict[str, Any]:
    """Returns the parameters of the project that trains a base: the same recipe, another seed."""
    tree = _common(params, built_folder(base))
    found = recipe(params)
    tree["base"]["model"] = found.model_copy(update={"seed": found.seed + base}).model_dump(mode="json")
    return tree


def project_tree(params: Params, name: str, base: int, model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of the project of some runs on a base.

    Args:
        params: the main project's parameters.
        name: the runs, a key of ``study.runs``.
        base: the number of the base.
        model: ``base.model`` of the project: the base's folder below inputs/models, with its digest.
    """
    runs = params.study.runs[name]
    tree = _common(params, project_folder(name, base))
    tree["run"] = {"methods": list(runs.methods), "seeds": seeds_of(runs, base)}
    tree["base"]["model"] = dict(model)
    if runs.steps is not None:
        tree["train"]["steps"] = runs.steps
    if runs.eval_every is not None:
        tree["train"] |= dict.fromkeys(("eval_every", "checkpoint_every", "record_every"), runs.eval_every)
    return tree


def study_tracking(params: Params) -> TrackingParams:
    """Returns the place in MLflow of a study's runs: an experiment beside that of the pipeline."""
    return params.tracking.model_copy(update={"experiment": f"{params.tracking.experiment}-study"})


def _common(params: Params, folder: Path) -> dict[str, Any]:
    tree = deepcopy(params.model_dump(mode="json", exclude_unset=True, exclude={"tune", "study"}))
    tree["base"]["folder"] = "inputs/models"
    tracking = study_tracking(params)
    if tracking.uri.startswith(SQLITE) and not tracking.uri.startswith(f"{SQLITE}/"):
        # One database for all projects: the main project's.
        above = "/".join([".."] * len(folder.parts))
        uri = f"{SQLITE}{above}/{tracking.uri.removeprefix(SQLITE)}"
        tracking = tracking.model_copy(update={"uri": uri})
    tree["tracking"] = tracking.model_dump(mode="json")
    return tree
