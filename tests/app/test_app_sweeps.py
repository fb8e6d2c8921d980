"""Tests the Sweeps page and its reader, on a real study over a made-up objective."""

import csv
from functools import partial
import json
import math
from pathlib import Path
import shlex
import shutil
from typing import Any

import optuna
import pandas as pd
import pytest

from app import sources, studies
from sdpg.errors import UserError
from tests.helpers import pages

PROJECT = Path(__file__).parents[2]
SPACE = {
    "methods.sdpg-ufkl.beta": {"kind": "float", "low": 1e-3, "high": 10.0, "log": True},
    "methods.sdpg-ufkl.alpha": {"kind": "float", "low": 0.0, "high": 1.0, "log": False},
    "methods.sdpg-ufkl.gate": {"kind": "choice", "choices": ["positive", "all"]},
    "train.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True},
}
STEPS = (2, 4, 6)


def tried(trial: optuna.Trial) -> float:
    """A quadratic with its maximum at beta 1, alpha 0.3, whose second half some trials do not reach."""
    beta = trial.suggest_float("methods.sdpg-ufkl.beta", 1e-3, 10.0, log=True)
    alpha = trial.suggest_float("methods.sdpg-ufkl.alpha", 0.0, 1.0)
    gate = trial.suggest_categorical("methods.sdpg-ufkl.gate", ["positive", "all"])
    trial.suggest_float("train.lr", 1e-5, 1e-3, log=True)
    value = 0.8 - 0.1 * math.log10(beta) ** 2 - 0.3 * (alpha - 0.3) ** 2 - (0.05 if gate == "all" else 0.0)
    for step in STEPS:
        trial.report(value * step / STEPS[-1], step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def make_study(folder: Path, name: str = "beta", trials: int = 18, second: bool = False) -> optuna.Study:
    """Runs a study and writes its results as the pipeline does."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=name, sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=2), direction="maximize",
    )  # fmt: skip
    study.optimize(tried, n_trials=trials)
    study.enqueue_trial({"train.lr": 1e-4})
    study.ask()  # one that is still running
    write_study(folder, name, study, second)
    return study


def write_study(folder: Path, name: str, study: optuna.Study, second: bool) -> None:
    target = folder / "reports" / "tune" / name
    target.mkdir(parents=True)
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    names = {"COMPLETE": "complete", "PRUNED": "pruned", "RUNNING": "running", "FAIL": "failed", "WAITING": "waiting"}
    best = max(complete, key=lambda t: t.value or 0.0, default=None)
    header = ["number", "state", "value", *(["value_1"] if second else []), "steps", "tokens", "seconds", "worker",
              "run", *[f"param:{path}" for path in SPACE]]  # fmt: skip
    rows: list[list[Any]] = [
        [t.number, names[t.state.name], t.value, *([100.0 + t.number] if second else []),
         max(t.intermediate_values, default=0), 1000, 1.5, "a", f"tune/{name}/{t.number}",
         *[t.params.get(path) for path in SPACE]]
        for t in study.trials
    ]  # fmt: skip
    curves = [[t.number, step, value, 0.1 * step] for t in study.trials for step, value in
              t.intermediate_values.items()]  # fmt: skip
    for file, head, body in (
        ("trials.csv", header, rows), ("curves.csv", ["trial", "step", "validation", "beta"], curves)
    ):  # fmt: skip
        with (target / file).open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(head)
            writer.writerows([["" if v is None else v for v in row] for row in body])
    states = [names[t.state.name] for t in study.trials]
    importance = optuna.importance.get_param_importances(study) if len(complete) > 3 else None
    summary = {
        "study": name, "method": "sdpg-ufkl",
        "objective": {"metric": "validation", "kind": "last", "direction": "maximize"},
        "second_objective": {"metric": "seconds", "direction": "minimize"} if second else None,
        "sampler": "tpe", "pruner": "median", "seed": 0, "space": SPACE,
        "budget": {"trials": len(states), "steps": STEPS[-1], "prompts": 16, "responses": 8},
        "storage": "journal", "counts": {state: states.count(state) for state in set(states)},
        "steps_saved": {"made": 60, "planned": 100, "share": 0.4},
        "importance": importance, "importance_reason": None if importance else "too few complete trials",
        "best_trial": best.number if best else None, "front": [best.number] if best and second else None,
        "default": {"methods.sdpg-ufkl.beta": 1.0, "train.lr": 3e-4}, "commit": "0" * 40,
    }  # fmt: skip
    (target / "study.json").write_text(json.dumps(summary))
    if best:
        lines = [f"{path}: {json.dumps(value)}\n" for path, value in best.params.items()]
        (target / "best.yaml").write_text("# Trial\n" + "".join(lines))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, optuna.Study]:
    """A project with one study, and the study itself."""
    root = tmp_path_factory.mktemp("studies")
    return root, make_study(root)


opened = partial(pages.opened, "sweeps")


def place(root: Path) -> sources.Place:
    return sources.Place("", "workspace", sources.LocalFiles(root))


def test_reads_what_was_written(made: tuple[Path, optuna.Study]) -> None:
    root, study = made
    read = studies.read(place(root), "beta")
    assert read.paths == list(SPACE)
    assert read.maximise and read.second is None
    assert list(read.trials["number"]) == [t.number for t in study.trials]
    assert read.best_trial == study.best_trial.number
    assert read.best == pytest.approx(study.best_params)
    assert list(read.curves.columns) == ["trial", "step", "accuracy", "beta"]
    assert read.logarithmic("train.lr") and not read.logarithmic("methods.sdpg-ufkl.alpha")
    assert read.choices("methods.sdpg-ufkl.gate") == ["positive", "all"] and read.choices("train.lr") is None


def test_running_best_counts_complete_trials_alone() -> None:
    table = pd.DataFrame({"number": range(5), "value": [0.9, 0.2, None, 0.5, 0.4],
                          "state": ["pruned", "complete", "running", "complete", "complete"]})  # fmt: skip
    summary = {"objective": {"direction": "maximize"}, "space": {}}
    study = studies.Study("s", place(Path()), summary, table, pd.DataFrame(), {})
    assert studies.history(study)["best"].tolist()[1:] == [0.2, 0.2, 0.5, 0.5]
    assert pd.isna(studies.history(study)["best"][0])
    less = studies.Study("s", place(Path()), {"objective": {"directions": ["minimize"]}, "space": {}}, table,
                         pd.DataFrame(), {})  # fmt: skip
    assert studies.history(less)["best"].tolist()[1:] == [0.2, 0.2, 0.2, 0.2]


def test_parallel_positions() -> None:
    table = pd.DataFrame({"number": [0, 1, 2, 3], "value": [0.1, 0.2, 0.3, 0.4],
                          "state": ["complete", "complete", "complete", "pruned"], "param:lr": [1e-4, 1e-2, 1e-3, 1.0],
                          "param:x": [5.0, 5.0, 5.0, 9.0], "param:kind": ["b", "a", "b", "a"]})  # fmt: skip
    space = {"lr": {"low": 1e-5, "high": 1.0, "log": True}, "x": {"low": 0.0, "high": 10.0},
             "kind": {"choices": ["a", "b"]}}  # fmt: skip
    study = studies.Study("s", place(Path()), {"objective": {}, "space": space}, table, pd.DataFrame(), {})
    rows = studies.positions(study).groupby("path")["at"].apply(list).to_dict()
    assert rows["lr"] == pytest.approx([0.0, 1.0, 0.5])  # of the logarithm, without the pruned trial
    assert rows["x"] == [0.5, 0.5, 0.5]
    assert rows["kind"] == [1.0, 0.0, 1.0]


def test_the_command_survives_a_shell() -> None:
    line = studies.command({"train.lr": 1e-05, "a.b": "it's", "a.c": None, "a.d": True, "a.e": 3})
    assert shlex.split(line) == ["dvc", "exp", "run", "-S", "train.lr=1e-05", "-S", "a.b=it's", "-S", "a.c=null", "-S",
                                 "a.d=true", "-S", "a.e=3"]  # fmt: skip
    assert line.startswith("dvc exp run -S 'train.lr=")


def test_a_trials_id_holds_its_place() -> None:
    empty = pd.DataFrame()
    assert studies.Study("s", place(Path()), {}, empty, empty, {}).run_id(3) == "tune/s/3"
    other = sources.Place("old", "old", sources.LocalFiles(Path()))
    assert studies.Study("s", other, {}, empty, empty, {}).run_id(3) == "old/tune/s/3"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("study.json", "{", "study.json is damaged"),
        ("study.json", "[" * 200_000, "study.json is damaged"),
        ("study.json", "{}", "does not say study, method, objective, space"),
        ("trials.csv", "", "trials.csv is damaged"),
        ("trials.csv", "number,state\n0,complete\n", "no column value"),
        ("trials.csv", "number,state,value\n0,complete,high\n", "no number"),
        ("curves.csv", "trial,step\n0,1\n", "no column accuracy"),
        ("best.yaml", "a: [", "best.yaml is damaged"),
        ("best.yaml", "a: " + "[" * 3000 + "]" * 3000, "best.yaml is damaged .*brackets or indents"),
    ],
)
def test_a_damaged_file_is_named(made: tuple[Path, Any], tmp_path: Path, file: str, text: str, said: str) -> None:
    shutil.copytree(made[0] / "reports", tmp_path / "reports")
    (tmp_path / "reports/tune/beta" / file).write_text(text)
    with pytest.raises(UserError, match=said):
        studies.read(place(tmp_path), "beta")


def test_page(made: tuple[Path, optuna.Study], monkeypatch: pytest.MonkeyPatch) -> None:
    root, study = made
    at = opened(root, monkeypatch, study="beta")
    assert not at.exception and not at.error
    assert at.metric[0].value == f"{study.best_value:.4f}"
    assert at.metric[1].value == str(study.best_trial.number)
    assert at.code[0].value == studies.command(study.best_params)
    titles = [each.value for each in at.subheader]
    assert titles == ["History", "Importance", "Best setting", "Parallel coordinates", "Slices", "Curves", "Trials"]
    trials = at.dataframe[-1].value
    assert len(trials) == len(study.trials) and set(trials["run"]) == {"not here"}


def test_trials_that_were_found_are_linked(
    made: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made[0] / "reports", tmp_path / "reports")
    run = next((PROJECT / "app/sample/runs").iterdir())
    shutil.copytree(run, tmp_path / "runs/tune/beta/2")
    at = opened(tmp_path, monkeypatch)
    assert not at.exception
    assert at.dataframe[-1].value["run"].tolist()[2] == "open"
    assert set(at.dataframe[-1].value["run"].drop(2)) == {"not here"}


def test_two_objectives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(tmp_path, trials=6, second=True)
    at = opened(tmp_path, monkeypatch)
    assert not at.exception
    assert "Two objectives" in [each.value for each in at.subheader]


def test_without_a_complete_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(tmp_path, trials=0)
    at = opened(tmp_path, monkeypatch)
    assert not at.exception
    assert any("No trial is complete yet" in each.value for each in at.info)
    assert any("too few complete trials" in each.value for each in at.info)


def test_without_a_study_says_what_makes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = opened(tmp_path, monkeypatch)
    assert not at.exception
    assert at.code[0].value == "sdpg tune sdpg-ufkl --trials 20 --workers 2"


def test_a_damaged_study_leaves_the_page(
    made: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made[0] / "reports", tmp_path / "reports")
    (tmp_path / "reports/tune/beta/trials.csv").write_text("number\n")
    at = opened(tmp_path, monkeypatch)
    assert not at.exception and "trials" in at.error[0].value
