"""Reads ``reports/tune/<study>/`` (study.json, trials.csv, curves.csv, best.yaml) wherever runs were found."""

from collections.abc import Mapping
from dataclasses import dataclass
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from yaml import YAMLError

from app import store
from app.quick_yaml import parse_yaml
from app.sources import Found, LocalFiles, Place
from sdpg.errors import UserError
from sdpg.files import read_json
from sdpg.params.tune import override

FOLDER = "reports/tune"
PREFIX = "param:"
NEEDED = ("study", "method", "objective", "space")
CURVE = ("validation", "accuracy")
"""The names under which curves.csv may hold the accuracy on the validation set."""


@dataclass(frozen=True)
class Study:
    """The results of a study.

    Attributes:
        summary: the content of study.json.
        trials: a row per trial: number, state, value, value_1 with two objectives, steps, tokens, seconds, …, and the
            parameters, ``param:<path>``.
        curves: trial, step, accuracy, and beta if it is recorded; empty without curves.csv.
        best: path → value of the best trial; empty before one is complete.
    """

    name: str
    place: Place
    summary: Mapping[str, Any]
    trials: pd.DataFrame
    curves: pd.DataFrame
    best: Mapping[str, Any]

    @property
    def paths(self) -> list[str]:
        """Returns the paths that were searched."""
        return [name.removeprefix(PREFIX) for name in self.trials if name.startswith(PREFIX)]

    @property
    def maximise(self) -> bool:
        """Says whether a larger value is better."""
        said = self.summary["objective"].get("direction") or self.summary["objective"].get("directions") or "maximize"
        return (said if isinstance(said, str) else said[0]) != "minimize"

    @property
    def second(self) -> Mapping[str, Any] | None:
        """Returns the second objective, or None."""
        return self.summary.get("second_objective") or self.summary.get("second")

    @property
    def best_trial(self) -> int | None:
        """Returns the number of the best trial."""
        return self.summary.get("best_trial")

    def run_id(self, number: int) -> str:
        """Returns the id in the app of a trial's run."""
        own = f"tune/{self.name}/{number}"
        return f"{self.place.key}/{own}" if self.place.key else own

    def logarithmic(self, path: str) -> bool:
        """Says whether the logarithm of the parameter was searched."""
        return bool(_attributes(self.summary["space"].get(path)).get("log"))

    def choices(self, path: str) -> list[str] | None:
        """Returns the texts of a parameter's values in their order, if it has no numbers to put on an axis."""
        named = _attributes(self.summary["space"].get(path)).get("choices")
        if named is not None:
            return [text_of(value) for value in named]
        column = self.trials[PREFIX + path]
        if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            return None
        return sorted({text_of(value) for value in column.dropna()})


def _attributes(distribution: Any) -> Mapping[str, Any]:
    """Returns a distribution's own entries, as the study's parameters or Optuna write them."""
    if not isinstance(distribution, Mapping):
        return {}
    return distribution.get("attributes") or distribution


def text_of(value: Any) -> str:
    """Returns a parameter's value as params.yaml and ``dvc exp run -S`` write it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def places(found: Found) -> list[Place]:
    """Returns the project itself, and every other place with runs."""
    known = {"": Place("", "workspace", LocalFiles(Path()))}
    for run in found.runs.values():
        known.setdefault(run.place.key, run.place)
    return list(known.values())


def names(found: Found) -> dict[str, tuple[Place, str]]:
    """Returns each study's name in the URL → its place and its folder's name."""
    studies: dict[str, tuple[Place, str]] = {}
    for place in places(found):
        for name in place.files.names(FOLDER):
            if not name.startswith(".") and place.files.exists(f"{FOLDER}/{name}/study.json"):
                studies[f"{place.key}/{name}" if place.key else name] = (place, name)
    return studies


@store.cached_by_file(16)
def _summary(path: Path) -> Mapping[str, Any]:
    summary = read_json(path, "run `sdpg tune` with this study's name again")
    missing = [key for key in NEEDED if not isinstance(summary, dict) or summary.get(key) is None]
    if missing:
        raise UserError(f"{path} does not say {', '.join(missing)}: it was written by another version")
    if not isinstance(summary["objective"], dict) or not isinstance(summary["space"], dict):
        raise UserError(f"{path} holds an objective or a space of another kind: it was written by another version")
    return summary


@store.cached_by_file(16)
def _table(path: Path) -> pd.DataFrame:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        # An empty cell is a missing value; "None" and "null" may be choices.
        return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is damaged ({error}): run `sdpg tune` with this study's name again") from None


@store.cached_by_file(16)
def _best(path: Path) -> Mapping[str, Any]:
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({where}): run `sdpg tune` with this study's name again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no values by path: it was written by another version")
    return values


def read(place: Place, name: str) -> Study:
    """Reads one study.

    Raises:
        UserError: if a file is missing, damaged or of another version; the message names it.
    """
    folder = f"{FOLDER}/{name}"
    summary = _summary(place.files.path(f"{folder}/study.json"))
    trials = _table(place.files.path(f"{folder}/trials.csv"))
    if missing := [column for column in ("number", "state", "value") if column not in trials]:
        raise UserError(f"{place.files.path(folder)}/trials.csv has no column {', '.join(missing)}: it was written by "
                        "another version")  # fmt: skip
    if not pd.api.types.is_numeric_dtype(trials["value"]):
        raise UserError(f"{place.files.path(folder)}/trials.csv holds a value that is no number")
    curves = pd.DataFrame(columns=["trial", "step", "accuracy"])
    if place.files.exists(f"{folder}/curves.csv"):
        curves = _table(place.files.path(f"{folder}/curves.csv"))
        curves = curves.rename(columns={column: "accuracy" for column in CURVE if column in curves})
        if missing := [column for column in ("trial", "step", "accuracy") if column not in curves]:
            raise UserError(f"{place.files.path(folder)}/curves.csv has no column {', '.join(missing)}")
    best = _best(place.files.path(f"{folder}/best.yaml")) if place.files.exists(f"{folder}/best.yaml") else {}
    return Study(name, place, summary, trials.sort_values("number").reset_index(drop=True), curves, best)


def history(study: Study) -> pd.DataFrame:
    """Returns number, value, state, best: the best value of complete trials so far (NaN before the first)."""
    table = study.trials[["number", "value", "state"]].copy()
    complete = table["value"].where(table["state"] == "complete")
    table["best"] = (complete.cummax() if study.maximise else complete.cummin()).ffill()
    return table


def positions(study: Study) -> pd.DataFrame:
    """Returns complete trials on parallel axes: number, value, path, shown (text), at (0 … 1 in the path's range).

    The range is that of the trials themselves; it is logarithmic where the logarithm was searched.
    """
    complete = study.trials[(study.trials["state"] == "complete") & study.trials["value"].notna()]
    rows = []
    for path in study.paths:
        column = complete[PREFIX + path]
        choices = study.choices(path)
        if choices is not None:
            texts = [text_of(value) for value in column]
            order = {text: place for place, text in enumerate(dict.fromkeys([*choices, *texts]))}
            places = np.array([order[text] for text in texts], dtype=np.float64)
        else:
            texts = [text_of(float(value)) for value in column]
            places = column.to_numpy(dtype=np.float64)
            if study.logarithmic(path):
                places = np.log(places)
        low, high = (np.nanmin(places), np.nanmax(places)) if len(places) else (0.0, 0.0)
        at = (places - low) / (high - low) if high > low else np.full(len(places), 0.5)
        rows += [
            {"number": number, "value": value, "path": path, "shown": text, "at": float(where)}
            for number, value, text, where in zip(complete["number"], complete["value"], texts, at, strict=True)
        ]
    return pd.DataFrame(rows, columns=["number", "value", "path", "shown", "at"])


def command(best: Mapping[str, Any]) -> str:
    """Returns the line that runs the pipeline with these values."""
    options = [override(path, _exact(value)) for path, value in best.items()]
    quoted = ["'" + option.replace("'", "'\\''") + "'" for option in options]
    return " ".join(["dvc exp run", *[f"-S {option}" for option in quoted]])


def _exact(value: Any) -> str:
    return repr(value) if isinstance(value, float) else text_of(value)


def common_prefix(paths: list[str], method: str) -> dict[str, str]:
    """Returns path → a name short enough for an axis: without the study's own method."""
    return {path: path.removeprefix(f"methods.{method}.") for path in paths}
