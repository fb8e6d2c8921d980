"""Writes ``reports/tune/<study>/`` from the storage alone: study.json, trials.csv, curves.csv, best.yaml.

The files are written anew after every trial, under the study's lock, so that a study in progress can be looked at, and
every machine that works on it has them.
"""

from collections.abc import Mapping
import csv
import io
import math
from pathlib import Path
from typing import Any
import warnings

import optuna
from optuna.trial import FrozenTrial, TrialState
from ruamel.yaml import YAML

from sdpg import paths
from sdpg.files import child, write_json, write_text
from sdpg.params.tune import own_path
from sdpg.tuning.samplers import pruning_words
from sdpg.tuning.space import trial_params
from sdpg.tuning.study import Study, is_lost
from sdpg.tuning.trials import beta_at

FEWEST_FOR_IMPORTANCE = 4


def report_folder(study: str) -> Path:
    """Returns the folder of a study's results."""
    return child(paths.REPORTS / "tune", study, "--study")


def write_results(study: Study) -> Path:
    """Writes all results of a study; returns their folder."""
    folder = report_folder(study.name)
    with study.storage.lock(study.name):
        trials = study.trials()
        write_text(folder / "trials.csv", _csv(*_trial_rows(study, trials)))
        write_text(folder / "curves.csv", _csv(*_curve_rows(study, trials)))
        summary = study_summary(study)
        if summary["best_trial"] is not None:
            write_text(folder / "best.yaml", best_yaml(study, trials[summary["best_trial"]]))
        # study.json comes last, as it names what the other files hold.
        write_json(folder / "study.json", summary)
    return folder


def state_name(trial: FrozenTrial) -> str:
    """Returns a trial's state as results show it; ``lost`` are trials whose worker died."""
    return "lost" if is_lost(trial) else {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())


def _trial_rows(study: Study, trials: list[FrozenTrial]) -> tuple[list[str], list[list[Any]]]:
    second = study.params.tune.second is not None
    header = ["number", "state", "value", *(["value_1"] if second else []), "steps", "tokens", "seconds", "worker"]
    header += ["run", *(f"param:{path}" for path in study.space), "retry_of", "error"]
    rows = []
    for trial in trials:
        values = list(trial.values or [None])
        kept = trial.user_attrs
        rows.append([
            trial.number, state_name(trial), values[0], *([values[1] if len(values) > 1 else None] if second else []),
            kept.get("steps"), kept.get("tokens"), kept.get("seconds"), (kept.get("lease") or {}).get("worker"),
            kept.get("run"), *(trial.params.get(path) for path in study.space), kept.get("retry_of"), kept.get("error"),
        ])  # fmt: skip
    return header, rows


def _curve_rows(study: Study, trials: list[FrozenTrial]) -> tuple[list[str], list[list[Any]]]:
    rows = []
    for trial in trials:
        if curve := trial.user_attrs.get("curve"):
            rows += [[trial.number, *point] for point in curve]
        elif not is_lost(trial) and trial.intermediate_values and study.params.tune.objective.kind == "last":
            params = trial_params(study.params, trial.params)
            rows += [[trial.number, step, value, beta_at(params, study.method, step)]
                     for step, value in sorted(trial.intermediate_values.items())]  # fmt: skip
    return ["trial", "step", "validation", "beta"], rows


def _csv(header: list[str], rows: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if v is None else repr(v) if isinstance(v, float) else v for v in row])
    return text.getvalue()


def best_yaml(study: Study, trial: FrozenTrial) -> str:
    """Returns the best values by paths that hold for the study's method alone, so that others train as before."""
    text = io.StringIO()
    YAML().dump(own_values(trial.params, study.method), text)
    return (f"# Trial {trial.number} of the study {study.name}: {trial.values[0]:.4f} on validation. "
            f"As options of dvc exp run: sdpg tune {study.method} --study {study.name} --best\n"
            + text.getvalue())  # fmt: skip


def own_values(values: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Returns the values of a study by paths that hold for its method alone; sampling and rewards are all methods'."""
    return {own_path(path, method): value for path, value in values.items()}


def best_trial(study: Study) -> FrozenTrial | None:
    """Returns the complete trial of the highest objective; of equal ones, the first. A pruned one is never chosen.

    With two objectives it is the trial of the Pareto front with the highest accuracy.
    """
    complete = [t for t in study.counted() if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda t: (t.values[0], -t.number), default=None)


def importances(study: Study) -> dict[str, Any]:
    """Returns path → share of the objective's variance that it explains among the better trials, or why there is none.

    The shares are computed by PED-ANOVA.
    """
    complete = [t for t in study.counted() if t.state == TrialState.COMPLETE]
    if len(complete) < FEWEST_FOR_IMPORTANCE:
        return {"importance": None, "importance_reason": f"{len(complete)} complete trials are fewer than "
                                                         f"{FEWEST_FOR_IMPORTANCE}"}  # fmt: skip
    if len({t.values[0] for t in complete}) == 1:
        return {"importance": None, "importance_reason": "all complete trials have the same value"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = (lambda t: t.values[0]) if len(study.optuna.directions) > 1 else None
        shares = optuna.importance.get_param_importances(study.optuna, target=target)
    if not shares or any(not math.isfinite(value) for value in shares.values()):
        return {"importance": None, "importance_reason": "the values do not vary enough to tell"}
    return {"importance": {path: float(value) for path, value in shares.items()}, "importance_reason": None}


def study_summary(study: Study) -> dict[str, Any]:
    """Returns what study.json holds."""
    tune, counted = study.params.tune, study.counted()
    count = {name: sum(t.state == state for t in counted) for name, state in
             (("complete", TrialState.COMPLETE), ("pruned", TrialState.PRUNED), ("failed", TrialState.FAIL),
              ("running", TrialState.RUNNING), ("waiting", TrialState.WAITING))}  # fmt: skip
    ended = [t for t in counted if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    made, planned = sum(t.user_attrs["steps"] for t in ended), tune.steps * len(ended)
    best, second = best_trial(study), tune.second
    pruner, note = pruning_words(tune)
    return {
        "study": study.name,
        "method": study.method,
        "objective": {"metric": tune.objective.metric, "kind": tune.objective.kind, "direction": "maximize",
                      "samples": tune.samples},
        "second_objective": {"metric": second, "direction": "minimize"} if second else None,
        "sampler": tune.sampler,
        "pruner": pruner,
        "pruner_note": note,
        "seed": tune.seed,
        "training_seed": tune.training_seed,
        "space": study.spec["space"],
        "budget": {"trials": study.budget, "steps": tune.steps, "prompts": study.params.train.prompts_per_step,
                   "responses": study.params.train.responses_per_prompt,
                   "tokens": sum(t.user_attrs.get("tokens") or 0 for t in counted)},
        "storage": study.storage.shown,
        "counts": count | {"lost": sum(map(is_lost, study.trials()))},
        "steps_saved": {"made": made, "planned": planned, "share": 1 - made / planned if planned else 0.0},
        **importances(study),
        "best_trial": best.number if best else None,
        "best_value": best.values[0] if best else None,
        "front": sorted(t.number for t in study.optuna.best_trials) if second and best else None,
        "default": study.defaults,
        "default_trial": next((t.number for t in counted if t.params == study.defaults), None),
        "commit": study.commit,
    }  # fmt: skip
