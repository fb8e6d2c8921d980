"""Runs one trial: the train stage's own code, with its validation curve reported to the study as it grows."""

import itertools
import math
from pathlib import Path
import shutil

import optuna
from optuna.trial import TrialState

from sdpg import paths
from sdpg.errors import Diverged
from sdpg.objective.coefficients import coefficients
from sdpg.params import Params
from sdpg.params.tune import VALIDATION
from sdpg.records.run_inputs import run_inputs
from sdpg.records.watch import read_history
from sdpg.training.run import RunOverrides, run_identity, train_run
from sdpg.tuning.leases import Heartbeat, this_host
from sdpg.tuning.space import trial_params
from sdpg.tuning.study import Claim, Outcome, Study


class LeaseTaken(Exception):
    """The trial was given to another worker, as this one was taken for dead: nothing that it still does counts."""


def objective_value(curve: list[tuple[int, float]], kind: str) -> float:
    """Returns the objective of a validation curve that starts at step 0: its last value, or its mean height so far.

    The mean height is the area under the curve by trapezia, divided by the steps.
    """
    if kind == "last" or len(curve) == 1:
        return curve[-1][1]
    area = sum((b - a) * (u + v) / 2 for (a, u), (b, v) in itertools.pairwise(curve))
    return area / (curve[-1][0] - curve[0][0])


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """Returns (step, validation accuracy) of a run, or of its work in progress."""
    curve = read_history(folder / "curves.csv", ("step", VALIDATION))
    return [(int(step), accuracy) for step, accuracy in zip(curve["step"], curve[VALIDATION], strict=True)]


def _sum(path: Path, suffix: str) -> float:
    """Returns the sum over all lines of a CSV and all columns whose name ends in ``suffix``."""
    if not path.exists():
        return 0.0
    columns = [values for name, values in read_history(path).items() if name.endswith(suffix)]
    return sum(value for values in columns for value in values if not math.isnan(value))


def beta_at(params: Params, method: str, step: int) -> float:
    """Returns β(k) as applied; it is 0 for a method without distillation."""
    return coefficients(params.methods[method], step, params.train.steps).beta


class TrialRun:
    """A claimed trial that is being run."""

    def __init__(self, study: Study, claim: Claim) -> None:
        self.study, self.claim = study, claim
        self.params = trial_params(study.params, claim.values)
        self.folder = study.folder / str(claim.number)
        self.reported = 0
        self.pruned = False
        self.overrides = RunOverrides(
            folder=self.folder, name=f"{study.name}/{claim.number}",
            # A chain of lost trials shares the name of its first, so that a successor goes on where the lost one was;
            # a machine's work in progress is its own.
            identity=("tune", study.uid, claim.root, this_host()),
            command=f"python -m pipelines.tune {study.method} --study {study.name}",
            sets=(VALIDATION,), parent=study.parent, stop=self._stop,
        )  # fmt: skip
        seed = study.params.tune.training_seed
        self.identity = run_identity(self.params, study.method, seed, run_inputs(), self.overrides)
        self.work = paths.STATE / self.identity

    def run(self) -> Outcome:
        """Trains, and returns what came of it.

        Raises:
            LeaseTaken: if the trial was given to another worker.
        """
        study = self.study
        if self.claim.root != self.claim.number:
            # A lost trial of this chain may have left a run when it died after its last step; that run does not count.
            for trial in study.trials():
                chain = trial.user_attrs.get("root", trial.number) == self.claim.root
                if chain and trial.number != self.claim.number:
                    shutil.rmtree(study.folder / str(trial.number), ignore_errors=True)
        trial = study.storage_id(self.claim.number)
        with Heartbeat(study.storage.rdb, trial, study.params.tune.grace) as self.heartbeat:
            try:
                train_run(self.params, study.method, study.params.tune.training_seed, self.overrides)
            except Diverged as error:
                return self._outcome(TrialState.FAIL, self.work, str(error))
        return self._outcome(TrialState.PRUNED if self.pruned else TrialState.COMPLETE, self.folder)

    def _stop(self, state: Path, step: int, evaluated: bool) -> bool:
        if self.heartbeat.taken:
            raise LeaseTaken
        if not evaluated or len(self.study.optuna.directions) > 1:
            return False
        # The curve is read from the file, so that a successor reports the points of the lost trial as well.
        curve, kind = read_curve(state), self.study.params.tune.objective.kind
        for place in range(1, len(curve)):
            at = curve[place][0]
            if at > self.reported:
                try:
                    self.claim.trial.report(objective_value(curve[: place + 1], kind), at)
                except optuna.exceptions.UpdateFinishedTrialError:
                    raise LeaseTaken from None
                self.reported = at
        self.pruned = step < self.params.train.steps and self.claim.trial.should_prune()
        return self.pruned

    def _outcome(self, state: TrialState, folder: Path, error: str | None = None) -> Outcome:
        curve = read_curve(folder) if (folder / "curves.csv").exists() else []
        steps = sum(1 for _ in (folder / "metrics.csv").open()) - 1 if (folder / "metrics.csv").exists() else 0
        kind = self.study.params.tune.objective.kind
        return Outcome(
            state=state,
            value=None if error else objective_value(curve, kind),
            steps=steps,
            tokens=round(_sum(folder / "metrics.csv", "response_tokens")),
            seconds=round(_sum(folder / "timing.csv", "_seconds"), 1),
            curve=[(step, accuracy, beta_at(self.params, self.study.method, step) if step else 0.0)
                   for step, accuracy in curve],
            run=self.folder.as_posix(),
            work=self.identity,
            error=error,
        )  # fmt: skip
