"""A worker: claim a trial, run it, store what came of it, until the study has its budget."""

import shutil
import time

from optuna.trial import TrialState

from sdpg import paths
from sdpg.errors import UserError
from sdpg.tuning.results import write_results
from sdpg.tuning.study import FINISHED, Claim, Outcome, Study
from sdpg.tuning.trials import LeaseTaken, TrialRun

POLL_SECONDS = 1.0
"""While other workers run the last trials: one of them may die, and its trial be left to this worker."""


def work(study: Study) -> None:
    """Runs trials until every one of the budget has ended, whoever ran it."""
    waited = False
    while True:
        claim = study.claim()
        if claim is None:
            if study.done():
                break
            if not waited:
                print("the last trials are with other workers; waiting for their end", flush=True)
            waited = True
            time.sleep(POLL_SECONDS)
            continue
        waited = False
        write_results(study)
        try:
            run = TrialRun(study, claim)
        except UserError as error:
            study.finish(claim, refused(study, claim, error))
            print(f"trial {claim.number} failed: {error}", flush=True)
            continue
        try:
            outcome = run.run()
        except LeaseTaken:
            outcome = None
        if outcome is None or not study.finish(claim, outcome):
            print(f"trial {claim.number}: another worker has it now; what was made here does not count", flush=True)
            continue
        shutil.rmtree(run.work, ignore_errors=True)
        write_results(study)
        print(line(claim, outcome), flush=True)
    tidy(study)
    write_results(study)


def refused(study: Study, claim: Claim, error: UserError) -> Outcome:
    """Of a combination of values that params.yaml's validators refuse, and that no corner of the space showed."""
    folder = (study.folder / str(claim.number)).as_posix()
    return Outcome(TrialState.FAIL, None, 0, 0, 0.0, [], folder, "", str(error))


def tidy(study: Study) -> None:
    """Removes work in progress of trials that have ended, where a worker died before it could."""
    for trial in study.trials():
        if trial.state in FINISHED and trial.user_attrs.get("work"):
            shutil.rmtree(paths.STATE / trial.user_attrs["work"], ignore_errors=True)


def line(claim: Claim, outcome: Outcome) -> str:
    """What a worker prints of a trial."""
    if outcome.error:
        return f"trial {claim.number} failed at step {outcome.steps}: {outcome.error}"
    word = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}[outcome.state]
    values = ", ".join(
        f"{path.removeprefix('methods.')} {value:.4g}" if isinstance(value, float) else
        f"{path.removeprefix('methods.')} {value}" for path, value in claim.values.items()
    )  # fmt: skip
    return f"trial {claim.number} {word} after {outcome.steps} steps: {outcome.value:.4f} ({values})"
