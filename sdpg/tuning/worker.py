"""Runs a worker: it claims a trial, runs it and stores its outcome, until the study has its budget."""

from collections.abc import Callable, Sequence
from contextlib import suppress
import shutil
import time

from optuna.trial import TrialState

from sdpg.errors import UserError
from sdpg.records.work import remove_work
from sdpg.tuning.results import write_results
from sdpg.tuning.study import FINISHED, Claim, Outcome, Study
from sdpg.tuning.trials import LeaseTaken, TrialRun

POLL_SECONDS = 0.5
"""Seconds between two looks while other workers run the last trials: one may die and leave its trial to this one."""


def work(studies: Sequence[Study], on_end: Callable[[Study], None] = lambda study: None) -> None:
    """Runs trials until all of each study's budget have ended, whichever worker ran them.

    A worker that finds nothing left to take in a study takes a trial of the next one, instead of waiting for others.

    Args:
        studies: the studies in the order in which they are worked at.
        on_end: a function that is called with each study once it has ended and its results are written.
    """
    left, waited = list(studies), False
    while left:
        claimed = next(((study, claim) for study in left if (claim := study.claim()) is not None), None)
        if claimed is not None:
            try:
                run_trial(*claimed)
            except BaseException:
                # This process may live on and wait for the workers that it started, while they wait for this trial. If
                # the storage cannot be reached, the error already says so.
                with suppress(Exception):
                    claimed[0].give_back(claimed[1])
                raise
        for study in [study for study in left if study.done()]:
            left.remove(study)
            tidy(study)
            write_results(study)
            on_end(study)
        if left and claimed is None:
            if not waited:
                print("the last trials are with other workers; waiting for their end", flush=True)
            time.sleep(POLL_SECONDS)
        waited = claimed is None


def run_trial(study: Study, claim: Claim) -> None:
    """Runs one trial and stores its outcome, unless it was given to another worker meanwhile."""
    write_results(study)
    try:
        run = TrialRun(study, claim)
    except UserError as error:
        study.finish(claim, refused(study, claim, error))
        print(f"trial {study.name}/{claim.number} failed: {error}", flush=True)
        return
    try:
        outcome = run.run()
    except LeaseTaken:
        outcome = None
    if outcome is None or not study.finish(claim, outcome):
        print(f"trial {study.name}/{claim.number}: another worker has it now; what was made here does not count",
              flush=True)  # fmt: skip
        return
    shutil.rmtree(run.work, ignore_errors=True)
    write_results(study)
    print(line(study, claim, outcome), flush=True)


def refused(study: Study, claim: Claim, error: UserError) -> Outcome:
    """Returns the outcome of a trial whose combination of values is refused by params.yaml's validators.

    Checking the corners of the space did not show it.
    """
    folder = (study.folder / str(claim.number)).as_posix()
    return Outcome(TrialState.FAIL, None, 0, 0, 0.0, [], folder, "", str(error))


def tidy(study: Study) -> None:
    """Removes work in progress of trials that have ended, where a worker died before it could."""
    for trial in study.trials():
        if trial.state in FINISHED and trial.user_attrs.get("work"):
            remove_work(f"{study.name}/{trial.number}", str(trial.user_attrs["work"]))


def line(study: Study, claim: Claim, outcome: Outcome) -> str:
    """Returns the line that a worker prints about a trial."""
    if outcome.error:
        return f"trial {study.name}/{claim.number} failed at step {outcome.steps}: {outcome.error}"
    word = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}[outcome.state]
    values = ", ".join(
        f"{path.removeprefix('methods.')} {value:.4g}" if isinstance(value, float) else
        f"{path.removeprefix('methods.')} {value}" for path, value in claim.values.items()
    )  # fmt: skip
    return f"trial {study.name}/{claim.number} {word} after {outcome.steps} steps: {outcome.value:.4f} ({values})"
