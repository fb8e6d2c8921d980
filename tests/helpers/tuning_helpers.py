"""Makes studies without training, for tests of what workers decide."""

from collections import Counter
import os
from pathlib import Path
import signal
from typing import Any

from optuna.trial import TrialState

from sdpg.params import Params, parse_params, read_yaml
from sdpg.tuning.space import applied
from sdpg.tuning.storage import open_storage
from sdpg.tuning.study import Claim, Outcome, Study, is_lost

ROOT = Path(__file__).parents[2]
SPACE: dict[str, Any] = {
    "train.lr": {"kind": "float", "low": 1e-4, "high": 1e-3, "log": True},
    "methods.sdpg-ufkl.beta": {"kind": "float", "low": 0.1, "high": 10.0, "log": True},
    "methods.sdpg-ufkl.gate": {"kind": "choice", "choices": ["positive", "all"]},
}
METHOD = "sdpg-ufkl"


def tune_params(space: dict[str, Any] | None = None, tree: dict[str, Any] | None = None, **tune: Any) -> Params:
    """params.yaml with another space and other values of ``tune``; ``tree`` holds values elsewhere, by path."""
    plain = read_yaml(ROOT / "params.yaml")
    plain = applied(plain, tree or {})
    plain["tune"] |= {"space": SPACE if space is None else space, **tune}
    return parse_params(plain)


def make_study(params: Params, budget: int = 5, name: str = "s") -> Study:
    """Opens the study of this folder's storage."""
    return Study(params, METHOD, name, budget, open_storage(params), {"data": "0"})


def fake_value(claim: Claim) -> float:
    """An objective with its maximum at β = 1."""
    return 1 / (1 + abs(claim.values["methods.sdpg-ufkl.beta"] - 1))  # type: ignore[operator]


def outcome(claim: Claim, steps: int = 30, state: TrialState = TrialState.COMPLETE, **more: Any) -> Outcome:
    value = None if state == TrialState.FAIL else fake_value(claim)
    return Outcome(state, value, steps, 100 * steps, 1.5, [(0, 0.1, 0.0), (steps, value or 0.0, 0.5)],
                   f"runs/tune/s/{claim.number}", f"work-{claim.root}", **more)  # fmt: skip


def fake_work(study: Study, most: int = 1000) -> int:
    """A worker whose trials take no time; returns how many it ran."""
    for made in range(most):
        claim = study.claim()
        if claim is None:
            return made
        for step in (5, 10):
            claim.trial.report(fake_value(claim) * step / 10, step)
        study.finish(claim, outcome(claim))
    return most


def die() -> None:
    """As SIGKILL does it: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def problems(study: Study) -> list[str]:
    """What is wrong with a study whose workers were killed and that was then brought to its end."""
    trials, counted = study.trials(), study.counted()
    found = []
    if len(counted) != study.budget:
        found.append(f"{len(counted)} trials count, of a budget of {study.budget}")
    found += [f"trial {t.number} is left {t.state.name}" for t in trials
              if t.state in (TrialState.RUNNING, TrialState.WAITING)]  # fmt: skip
    successors = Counter(t.user_attrs["retry_of"] for t in trials if "retry_of" in t.user_attrs)
    found += [f"trial {n} has {count} successors" for n, count in successors.items() if count > 1]
    exhausted = study.params.tune.retries
    found += [f"trial {t.number} is lost" for t in trials
              if is_lost(t) and t.number not in successors and t.user_attrs.get("attempt", 0) < exhausted]  # fmt: skip
    roots = Counter(t.user_attrs.get("root", t.number) for t in counted)
    found += [f"{count} trials of root {root} count" for root, count in roots.items() if count > 1]
    found += [f"trial {t.number} has no value" for t in counted if t.state == TrialState.COMPLETE and t.value is None]
    numbers = [t.number for t in trials]
    if numbers != list(range(len(trials))):
        found.append(f"the numbers are {numbers}")
    by_number = {t.number: t for t in trials}
    for trial in trials:
        before = by_number.get(trial.user_attrs.get("retry_of", -1))
        if before is not None and before.params and not before.params.items() <= trial.params.items():
            found.append(f"trial {trial.number} does not have the values of {before.number}, which it stands for")
    return found
