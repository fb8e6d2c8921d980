"""A worker: claim a trial, run it, store what came of it, until the study has its budget."""

from collections.abc import Callable, Sequence
from contextlib import suppress
import shutil
import time

from optuna.trial import TrialState

from sdpg import paths
from sdpg.errors import UserError
from sdpg.tuning.results import write_results
from sdpg.tuning.study import FINISHED, Claim, Outcome, Study
from sdpg.tuning.trials import LeaseTaken, TrialRun

POLL_SECONDS = 0.5
"""While other workers run the last trials: one of them may die, and its trial be left to this worker."""


def work(studies: Sequence[Study], on_end: Callable[[Study], None] = lambda study: None) -> None:
    """Runs trials until every one of each study's budget has ended, whoever ran it.

    A worker that finds nothing left to take in a study takes a trial of the next one, instead of waiting for others.

    Args:
        studies: in the order in which they are worked at.
        on_end: told each study once it has ended, and its results are written.
    """
    left, waited = list(studies), False
    while left:
        found = next(((study, claim) for study in left if (claim := study.claim()) is not None), None)
        if found is not None:
            try:
                run_trial(*found)
            except BaseException:
                # This process may live on, waiting for the workers that it started, and they for this trial. A storage
                # that cannot be reached is what the error says already.
                with suppress(Exception):
                    found[0].give_back(found[1])
                raise
        for study in [each for each in left if each.done()]:
            left.remove(study)
            tidy(study)
            write_results(study)
            on_end(study)
        if left and found is None:
            if not waited:
                print("the last trials are with other workers; waiting for their end", flush=True)
            time.sleep(POLL_SECONDS)
        waited = found is None


def run_trial(study: Study, claim: Claim) -> None:
    """Runs one trial and stores what came of it, unless it was given to another worker meanwhile."""
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
    """Of a combination of values that params.yaml's validators refuse, and that no corner of the space showed."""
    folder = (study.folder / str(claim.number)).as_posix()
    return Outcome(TrialState.FAIL, None, 0, 0, 0.0, [], folder, "", str(error))


def tidy(study: Study) -> None:
    """Removes work in progress of trials that have ended, where a worker died before it could."""
    for trial in study.trials():
        if trial.state in FINISHED and trial.user_attrs.get("work"):
            shutil.rmtree(paths.STATE / trial.user_attrs["work"], ignore_errors=True)


def line(study: Study, claim: Claim, outcome: Outcome) -> str:
    """What a worker prints of a trial."""
    if outcome.error:
        return f"trial {study.name}/{claim.number} failed at step {outcome.steps}: {outcome.error}"
    word = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}[outcome.state]
    values = ", ".join(
        f"{path.removeprefix('methods.')} {value:.4g}" if isinstance(value, float) else
        f"{path.removeprefix('methods.')} {value}" for path, value in claim.values.items()
    )  # fmt: skip
    return f"trial {study.name}/{claim.number} {word} after {outcome.steps} steps: {outcome.value:.4f} ({values})"
