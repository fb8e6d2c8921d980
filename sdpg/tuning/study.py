"""Runs a study that workers share and that may lose any of them: no trial is lost, and none counts twice.

All decisions are made under the study's lock, and a kill after any write leaves a state that the next worker can read
from the storage alone:

- a running trial without a lease, or with a dead worker's, is *lost*: it is marked so, and fails;
- a lost trial without a successor gets one in one transaction: a waiting trial of the same values. It holds the number
  of the lost one, so that a second successor is never made;
- results are stored with a trial before it is marked complete, which is one transaction.

Optuna itself never sees a lost trial: samplers, pruners and importances use only those that count.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
import time
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.trial import FrozenTrial, TrialState

from sdpg.errors import UserError
from sdpg.params import Params
from sdpg.params.tune import VALIDATION
from sdpg.records.provenance import fingerprint, git_state
from sdpg.records.run_inputs import run_inputs, train_sections
from sdpg.tuning.leases import Lease, own_lease
from sdpg.tuning.samplers import make_pruner, make_sampler
from sdpg.tuning.space import Values, applied, check_corners, defaults, grid_size, holds, method_space, optuna_space
from sdpg.tuning.storage import Storage, open_storage

if TYPE_CHECKING:
    from sdpg.records.tracking import Parent

LOST = "lost"
COPIED = ("fixed_params", "grid_id", "search_space")
"""Attributes of Optuna that a successor takes over; it climbs the rungs of Hyperband again."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def is_lost(trial: FrozenTrial) -> bool:
    """Returns whether a trial's worker died, so that the trial itself does not count."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get("cause") == LOST


class _Counted:
    """A storage that shows only the trials that count."""

    def __init__(self, inner: optuna.storages.BaseStorage) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return [t for t in self._inner.get_all_trials(study_id, deepcopy, states) if not is_lost(t)]


@dataclass(frozen=True)
class Claim:
    """A trial that this worker is to run.

    Attributes:
        number: the trial's number.
        root: the number of the first of a chain of lost trials; the trial's own number where it is the first.
        values: the values to try, by path.
        trial: Optuna's handle, to which values are reported.
        lease: this worker's lease.
    """

    number: int
    root: int
    values: Values
    trial: optuna.Trial
    lease: Lease


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        state: complete, pruned or failed.
        value: the objective's value; None for a failed trial.
        steps: the number of steps made.
        tokens: the number of tokens generated in training.
        seconds: seconds of training and evaluating on the validation set.
        curve: (step, validation accuracy, β as applied) per evaluation.
        run: the run's folder, relative to the project.
        work: the fingerprint of its work in progress.
        error: the reason why it failed, or None.
    """

    state: TrialState
    value: float | None
    steps: int
    tokens: int
    seconds: float
    curve: list[tuple[int, float, float]]
    run: str
    work: str
    error: str | None = None


class Study:
    """A study of one method.

    Attributes:
        params: the pipeline's parameters.
        method: the method whose values are searched.
        name: the study's name.
        budget: the number of trials.
    """

    def __init__(self, params: Params, method: str, name: str, budget: int, storage: Storage, inputs: dict[str, str]):
        self.params, self.method, self.name, self.budget, self.storage = params, method, name, budget, storage
        self.space = method_space(params, method)
        if params.tune.sampler == "grid":
            self.budget = min(budget, grid_size(self.space))
        self.spec = study_spec(params, method, inputs)
        directions = ["maximize"] if params.tune.second is None else ["maximize", "minimize"]
        with storage.lock(name):
            known = optuna.get_all_study_names(storage=storage.rdb)
            created = optuna.create_study(
                study_name=name, storage=storage.rdb, directions=cast(Any, directions) if name not in known else None,
                load_if_exists=True,
            )  # fmt: skip
            stored = created.user_attrs.get("spec")
            if stored is None and not created.get_trials(deepcopy=False) and len(created.directions) == len(directions):
                created.set_user_attr("uid", fingerprint(self.spec, name, time.time()))
                created.set_user_attr("commit", git_state()["commit"])
                # This attribute is written last: a study that has it has everything.
                created.set_user_attr("spec", self.spec)
            elif stored != self.spec:
                raise UserError(_another(name, storage.shown, stored, self.spec))
        self.study_id = storage.rdb.get_study_id_from_name(name)
        self.uid: str = created.user_attrs["uid"]
        self.commit: str | None = created.user_attrs["commit"]
        self.optuna = optuna.load_study(
            study_name=name, storage=cast(Any, _Counted(optuna.storages.get_storage(storage.rdb))),
            sampler=optuna.samplers.RandomSampler(seed=0), pruner=make_pruner(params.tune),
        )  # fmt: skip

    @property
    def folder(self) -> Path:
        """Returns the folder of the trials' runs."""
        return Path("runs") / "tune" / self.name

    @cached_property
    def defaults(self) -> Values:
        """Returns the untuned value per path."""
        return defaults(self.params, self.space)

    @property
    def parent(self) -> "Parent":
        """Returns the MLflow run under which the trials' runs are."""
        # MLflow is loaded here: a study is opened, and errors are reported, before the seconds that this takes.
        from sdpg.records.tracking import Parent

        return Parent("study", f"tune {self.name}", self.uid, self.spec)

    def trials(self) -> list[FrozenTrial]:
        """Returns every trial of the storage, lost ones too, in order of their numbers."""
        return self.storage.rdb.get_all_trials(self.study_id, deepcopy=False)

    def counted(self) -> list[FrozenTrial]:
        """Returns the trials that count towards the budget: a lost one is replaced by its successor."""
        trials = self.trials()
        replaced = {t.user_attrs.get("retry_of") for t in trials}
        return [t for t in trials if t.number not in replaced]

    def claim(self) -> Claim | None:
        """Returns the next trial for this worker; ``None`` while there is nothing to do, or the budget is used up."""
        with self.storage.lock(self.name):
            self._settle()
            trials, counted = self.trials(), self.counted()
            waiting = any(t.state == TrialState.WAITING for t in trials)
            if not waiting and len(counted) >= self.budget:
                return None
            tune = self.params.tune
            if not trials and tune.default_first and tune.sampler != "grid" and holds(self.space, self.defaults):
                self.optuna.enqueue_trial(self.defaults)
            self.optuna.sampler = make_sampler(tune, self.space, len(trials))
            trial = self.optuna.ask(optuna_space(self.space))
            lease = own_lease()
            trial.set_user_attr("lease", lease.to_dict())
            root = trial.user_attrs.get("root", trial.number)
            return Claim(trial.number, root, dict(trial.params), trial, lease)

    def done(self) -> bool:
        """Returns whether every trial of the budget has ended; a lost one that needs a successor has not."""
        counted = self.counted()
        return len(counted) >= self.budget and all(t.state in FINISHED and not self._to_be_retried(t) for t in counted)

    def _to_be_retried(self, trial: FrozenTrial) -> bool:
        return is_lost(trial) and trial.user_attrs.get("attempt", 0) < self.params.tune.retries

    def _settle(self) -> None:
        """Fails the trials of dead workers and gives each a successor; the lock must be held."""
        for trial in self.trials():
            if trial.state != TrialState.RUNNING:
                continue
            lease = trial.user_attrs.get("lease")
            # A lease is given under the lock that is held now, so a worker without one has died in between.
            if lease is None or Lease(**lease).dead(self.params.tune.grace):
                self._lose(trial.number)
        trials = self.trials()
        followed = {t.user_attrs.get("retry_of") for t in trials}
        for trial in trials:
            if trial.number in followed or not self._to_be_retried(trial):
                continue
            self.optuna.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.WAITING, params=trial.params, distributions=trial.distributions,
                    system_attrs={key: trial.system_attrs[key] for key in COPIED if key in trial.system_attrs},
                    user_attrs={"retry_of": trial.number, "attempt": trial.user_attrs.get("attempt", 0) + 1,
                                "root": trial.user_attrs.get("root", trial.number)},
                )
            )  # fmt: skip

    def storage_id(self, number: int) -> int:
        """Returns the id under which the storage keeps the trial of a number."""
        return self.storage.rdb.get_trial_id_from_study_id_trial_number(self.study_id, number)

    def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """Stores a trial's outcome; returns False and stores nothing where another worker has it meanwhile."""
        with self.storage.lock(self.name):
            if not self.owns(claim):
                return False
            trial_id, rdb = self.storage_id(claim.number), self.storage.rdb
            for key in ("steps", "tokens", "seconds", "curve", "run", "work", "error"):
                rdb.set_trial_user_attr(trial_id, key, getattr(outcome, key))
            rdb.set_trial_user_attr(trial_id, "commit", git_state()["commit"])
            values = None
            if outcome.value is not None:
                second = {"tokens": outcome.tokens, "seconds": outcome.seconds}
                values = [outcome.value, *([second[self.params.tune.second]] if self.params.tune.second else [])]
            # One transaction writes everything that makes a trial count.
            return rdb.set_trial_state_values(trial_id, outcome.state, values)

    def give_back(self, claim: Claim) -> None:
        """Counts a trial as lost, for a worker that cannot go on with it but lives on: its lease would stay valid."""
        with self.storage.lock(self.name):
            if self.owns(claim):
                self._lose(claim.number)

    def _lose(self, number: int) -> None:
        self.storage.rdb.set_trial_user_attr(self.storage_id(number), "cause", LOST)
        self.storage.rdb.set_trial_state_values(self.storage_id(number), TrialState.FAIL)

    def owns(self, claim: Claim) -> bool:
        """Returns whether a trial is still this worker's."""
        trial = self.storage.rdb.get_trial(self.storage_id(claim.number))
        lease = trial.user_attrs.get("lease") or {}
        return trial.state == TrialState.RUNNING and (lease.get("host"), lease.get("pid"), lease.get("started")) == (
            claim.lease.host, claim.lease.pid, claim.lease.started,
        )  # fmt: skip


def study_spec(params: Params, method: str, inputs: dict[str, str]) -> dict[str, Any]:
    """Returns what trials of one study have in common; a study whose spec differs is another study."""
    tune, space = params.tune, method_space(params, method)
    tree = train_sections(params, method)
    # Paths that the space or the budget sets are not part of the rest.
    rest = {"method": tree["method"], "train": tree["train"], "rollout": tree["rollout"], "reward": tree["reward"],
            "evaluation": tree["evaluation"]}  # fmt: skip
    inner = {path.replace(f"methods.{method}.", "method."): "(searched)" for path in space}
    unset = {path: value for path, value in inner.items() if path.split(".")[1] in rest[path.split(".")[0]]}
    rest = applied(rest, unset | {"train.steps": tune.steps, "train.eval_every": tune.eval_every,
                                  "evaluation.samples": tune.samples})  # fmt: skip
    for name in ("threads", "record_every", "record_rows", "checkpoint_every", "gradients_every"):
        del rest["train"][name]
    return {
        "method": method,
        "space": {path: each.model_dump(mode="json") for path, each in space.items()},
        "objective": {"metric": VALIDATION, "kind": tune.objective.kind, "second": tune.second},
        "sampler": {"kind": tune.sampler, "seed": tune.seed, "startup_trials": tune.startup_trials,
                    "default_first": tune.default_first},
        "pruner": {"kind": tune.pruner, "startup": tune.pruner_startup, "reduction": tune.reduction},
        "training_seed": tune.training_seed,
        "inputs": inputs,
        **rest,
    }  # fmt: skip


def _another(name: str, shown: str, stored: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    """Returns an error that says why a study cannot be continued."""
    remedy = "give this one another name (STUDY=…, --study), or put params.yaml back to go on with that one"
    if stored is None:
        return f"storage {shown} holds a study {name!r} that was not made here: {remedy}"
    parts = [key for key in dict.fromkeys([*stored, *wanted]) if stored.get(key) != wanted.get(key)]
    return f"the study {name!r} in {shown} belongs to another {', '.join(parts)} than params.yaml describes: {remedy}"


def open_study(params: Params, method: str, name: str | None = None, budget: int | None = None) -> Study:
    """Opens or creates a study; every error that can be known is reported here, before the first trial."""
    check_corners(params, method_space(params, method))
    return Study(params, method, name or method, budget or params.tune.trials, open_storage(params), run_inputs())
