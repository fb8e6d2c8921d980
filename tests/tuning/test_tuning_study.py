"""Tests what workers decide under the lock, with trials that take no time: killed between writes, or both at once."""

from collections.abc import Iterator
import csv
import json
import multiprocessing
import os
from pathlib import Path
import random
import subprocess
import sys
import time
from typing import Any

from optuna.storages import RDBStorage
from optuna.trial import TrialState
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from pipelines import tune
from sdpg.tuning import study as study_module
from sdpg.tuning import worker
from sdpg.tuning.leases import Lease, this_host
from sdpg.tuning.results import best_trial, study_summary, write_results
from sdpg.tuning.storage import open_storage
from sdpg.tuning.study import Claim, Study, is_lost
from tests.helpers.tuning_helpers import (
    ROOT,
    SPACE,
    die,
    fake_value,
    fake_work,
    make_study,
    outcome,
    problems,
    tune_params,
)

FORK = multiprocessing.get_context("fork")
WRITES = ("create_new_trial", "set_trial_param", "set_trial_state_values", "set_trial_user_attr",
          "set_trial_system_attr", "set_trial_intermediate_value", "set_study_user_attr", "set_study_system_attr",
          "create_new_study", "_set_trial_param", "_create_new_trial")  # fmt: skip
"""Methods of Optuna's storage that commit something."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDPG_TUNE_STORAGE", raising=False)
    monkeypatch.setattr(study_module, "git_state", lambda: {"commit": "abc", "dirty": False})
    event.listen(Engine, "connect", without_waiting)
    yield
    event.remove(Engine, "connect", without_waiting)


def without_waiting(connection: Any, _: object) -> None:
    """No waiting for the disk, which a killed process does not need: only a machine that loses its power does."""
    connection.execute("PRAGMA synchronous = OFF")


def empty_database(params: Any) -> bytes:
    """With Optuna's tables, which take longer to make than a study."""
    open_storage(params).rdb.engine.dispose()
    return Path("tune.db").read_bytes()


def start_anew(database: bytes) -> None:
    Path("tune.db-journal").unlink(missing_ok=True)
    Path("tune.db").write_bytes(database)


def test_a_study_is_opened_before_torch_and_mlflow_are_loaded() -> None:
    heavy = "{'torch', 'transformers', 'mlflow', 'matplotlib'}"
    program = f"import pipelines.tune, sdpg.tuning.study, sys; print({heavy} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "set()\n"


def in_process(target: Any, *arguments: Any) -> int | None:
    """Runs a function in a process of its own; returns how it ended."""
    process = FORK.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def killed_at_write(params: Any, budget: int, at: int) -> None:
    """A worker that dies as its ``at``-th write to the storage begins; ends with 0 where it makes fewer."""
    made = 0

    def counting(original: Any) -> Any:
        def write(*arguments: Any, **named: Any) -> Any:
            nonlocal made
            made += 1
            if made == at:
                die()
            return original(*arguments, **named)

        return write

    # Of the class, in this process alone, so that the making of the study is counted as well.
    for name in WRITES:
        setattr(RDBStorage, name, counting(getattr(RDBStorage, name)))
    fake_work(make_study(params, budget))
    os._exit(0)


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_kill_before_any_write_loses_no_trial_and_counts_none_twice(sampler: str) -> None:
    space = {"methods.sdpg-ufkl.beta": {"kind": "choice", "choices": [0.5, 2.0]}} if sampler == "grid" else SPACE
    params, died = tune_params(space, sampler=sampler), 0
    database = empty_database(params)
    # From the middle on, the writes of the second trial repeat those of the first; a grid makes the same ones.
    for at in [*range(1, 40), *range(40, 200, 4)] if sampler == "tpe" else range(2, 25, 4):
        start_anew(database)
        if in_process(killed_at_write, params, 2, at) == 0:
            break
        died += 1
        study = make_study(params, 2)
        fake_work(study)
        assert problems(study) == [], f"killed at write {at}"
        assert all(t.state == TrialState.COMPLETE for t in study.counted())
        if sampler == "grid":
            assert sorted(t.params["methods.sdpg-ufkl.beta"] for t in study.counted()) == [0.5, 2.0]
    assert died >= (24 if sampler == "tpe" else 6), "each of the writes was an instant to die at"


def test_a_kill_while_the_dead_are_counted_is_no_different() -> None:
    params = tune_params(retries=5)
    database = empty_database(params)
    for at in range(1, 10):
        start_anew(database)
        assert in_process(killed_at_write, params, 2, 14) != 0
        in_process(killed_at_write, params, 2, at)
        study = make_study(params, 2)
        fake_work(study)
        assert problems(study) == [], f"killed at write {at} of the settling"


def slow_worker(params: Any, budget: int, seed: int, opened: Any = None) -> None:
    study = make_study(params, budget)
    source = random.Random(seed)
    while True:
        claim = study.claim()
        if opened is not None and not opened.is_set():
            opened.set()
        if claim is None:
            if study.done():
                os._exit(0)
            time.sleep(0.01)
            continue
        for step in (5, 10, 15):
            claim.trial.report(fake_value(claim), step)
            time.sleep(source.uniform(0, 0.06))
        study.finish(claim, outcome(claim))


def test_two_workers_one_of_them_killed_at_random_moments() -> None:
    params, source = tune_params(retries=30), random.Random(0)
    steady = FORK.Process(target=slow_worker, args=(params, 30, 1))
    steady.start()
    kills = 0
    while steady.is_alive():
        opened = FORK.Event()
        victim = FORK.Process(target=slow_worker, args=(params, 30, 2 + kills, opened))
        victim.start()
        opened.wait(60)
        victim.join(source.uniform(0.0, 0.3))
        if victim.is_alive():
            victim.kill()
            victim.join()
            kills += 1
            # Readable at each moment, by whoever looks.
            study = make_study(params, 30)
            assert len(study.counted()) <= 30
            assert json.loads((write_results(study) / "study.json").read_text())["counts"]["complete"] <= 30
    # How many fit beside the steady worker's trials is a matter of how busy the machine is.
    assert steady.exitcode == 0 and kills >= 3
    study = make_study(params, 30)
    assert problems(study) == []
    assert any(map(is_lost, study.trials())), "some kills hit a trial"
    runs = [t.user_attrs["run"] for t in study.counted()]
    assert len(set(runs)) == 30


def test_workers_at_once_keep_to_the_budget_and_draw_different_values() -> None:
    params = tune_params(default_first=False, startup_trials=100)
    workers = [FORK.Process(target=slow_worker, args=(params, 12, seed)) for seed in range(3)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(60)
        assert process.exitcode == 0
    study = make_study(params, 12)
    assert problems(study) == [] and len(study.trials()) == 12
    assert len({t.params["methods.sdpg-ufkl.beta"] for t in study.counted()}) == 12


def test_a_worker_goes_on_to_the_next_study_while_the_last_trial_is_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (make_study(tune_params(), budget, name) for budget, name in ((1, "first"), (2, "second")))
    held, ended = first.claim(), []
    assert held is not None

    def run_trial(study: Study, claim: Claim) -> None:
        study.finish(claim, outcome(claim))
        if claim.number == 1:
            first.finish(held, outcome(held))

    monkeypatch.setattr(worker, "run_trial", run_trial)
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: pytest.fail("it waits although there is work"))
    worker.work([first, second], lambda study: ended.append(study.name))
    assert ended == ["first", "second"] and problems(first) == problems(second) == []
    assert all((Path("reports/tune") / name / "best.yaml").is_file() for name in ended)


def values_of(study: Study) -> list[dict[str, Any]]:
    return [t.params for t in study.counted()]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc", "random"])
def test_a_study_that_was_interrupted_draws_what_it_would_have_drawn(sampler: str) -> None:
    params = tune_params(sampler=sampler, startup_trials=3)
    whole = make_study(params, 6, "whole")
    fake_work(whole)
    for _ in range(3):
        # A new object each time, as after a restart.
        fake_work(make_study(params, 6, "parts"), most=2)
    assert values_of(make_study(params, 6, "parts")) == values_of(whole)
    assert values_of(whole)[0] == whole.defaults, "the first trial is the untuned setting"
    assert len({json.dumps(v) for v in values_of(whole)}) == 6
    other = make_study(tune_params(sampler=sampler, startup_trials=3, seed=1), 6, "other")
    fake_work(other)
    assert values_of(other)[1:] != values_of(whole)[1:]


def test_a_grid_is_tried_whole_and_no_more() -> None:
    space = {"methods.sdpg-ufkl.beta": {"kind": "choice", "choices": [0.5, 1.0]},
             "methods.sdpg-ufkl.gate": {"kind": "choice", "choices": ["positive", "all"]}}  # fmt: skip
    study = make_study(tune_params(space, sampler="grid"), 20)
    assert fake_work(study) == 4 and study.done()
    assert len({tuple(v.values()) for v in values_of(study)}) == 4


def test_a_trial_given_to_another_worker_is_not_finished_by_the_first() -> None:
    study = make_study(tune_params(), 1)
    claim = study.claim()
    assert claim is not None
    # As if its worker were another process, which has died.
    gone = Lease("gone", this_host(), 2**22 - 1, 0.0, time.time())
    study.storage.rdb.set_trial_user_attr(claim.trial._trial_id, "lease", gone.to_dict())
    second = study.claim()
    assert second is not None and second.values == claim.values and second.root == claim.number
    assert not study.finish(claim, outcome(claim)), "it comes back too late"
    assert study.finish(second, outcome(second))
    assert problems(study) == [] and [t.state.name for t in study.trials()] == ["FAIL", "COMPLETE"]


def test_a_worker_that_fails_but_lives_on_gives_its_trial_back(monkeypatch: pytest.MonkeyPatch) -> None:
    study = make_study(tune_params(), 2)

    def failing(study: Study, claim: Claim) -> None:
        raise RuntimeError("the tracking server is gone")

    monkeypatch.setattr(worker, "run_trial", failing)
    with pytest.raises(RuntimeError, match="tracking server"):
        worker.work([study])
    # Another worker, while the process of the first is still there.
    monkeypatch.setattr(worker, "run_trial", lambda study, claim: study.finish(claim, outcome(claim)))
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: pytest.fail("it waits for a trial that nobody has"))
    worker.work([study])
    assert problems(study) == [] and [t.number for t in study.trials() if is_lost(t)] == [0]


def test_a_lost_trial_that_has_no_successor_yet_keeps_a_study_open() -> None:
    study = make_study(tune_params(), 1)
    claim = study.claim()
    assert claim is not None
    # What another worker may see in between.
    study._lose(claim.number)
    assert not study.done()
    again = study.claim()
    assert again is not None and again.root == claim.number
    study.finish(again, outcome(again))
    assert study.done()


@pytest.mark.parametrize("ended", [True, False])
def test_where_this_worker_fails_what_others_ended_is_closed(monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    study, closed = make_study(tune_params(), 1), []
    monkeypatch.setattr(tune, "finish", closed.append)
    with pytest.raises(RuntimeError, match="tracking server"), tune.closing([study]):
        if ended:
            fake_work(study)
        raise RuntimeError("the tracking server is gone")
    assert closed == ([study] if ended else [])


def test_a_lost_trial_is_enqueued_again_so_often_and_then_counts_as_failed() -> None:
    study = make_study(tune_params(retries=2), 2)
    gone = Lease("gone", this_host(), 2**22 - 1, 0.0, time.time()).to_dict()
    for _ in range(3):
        claim = study.claim()
        assert claim is not None and claim.root == 0
        study.storage.rdb.set_trial_user_attr(claim.trial._trial_id, "lease", gone)
    last = study.claim()
    assert last is not None and last.root == last.number == 3
    study.finish(last, outcome(last))
    assert study.done()
    assert study_summary(study)["counts"] == {
        "complete": 1, "pruned": 0, "failed": 1, "running": 0, "waiting": 0, "lost": 3,
    }  # fmt: skip


def test_optuna_does_not_see_what_was_lost() -> None:
    study = make_study(tune_params(), 3)
    claim = study.claim()
    assert claim is not None
    claim.trial.report(0.9, 5)
    gone = Lease("gone", this_host(), 2**22 - 1, 0.0, time.time()).to_dict()
    study.storage.rdb.set_trial_user_attr(claim.trial._trial_id, "lease", gone)
    again = study.claim()
    assert again is not None
    assert [t.number for t in study.optuna.get_trials()] == [again.number]
    assert [t.number for t in study.trials()] == [0, 1]


def test_two_objectives_prune_nothing_and_say_so() -> None:
    study = make_study(tune_params(second="tokens"), 4)
    while (claim := study.claim()) is not None:
        study.finish(claim, outcome(claim, steps=10 + claim.number))
    summary = study_summary(study)
    assert summary["pruner"] == "none" and "second objective (tokens)" in summary["pruner_note"]
    assert summary["second_objective"] == {"metric": "tokens", "direction": "minimize"}
    assert set(summary["front"]) and all(t.values[1] == 1000 + 100 * t.number for t in study.counted())
    rows = list(csv.DictReader((write_results(study) / "trials.csv").open()))
    assert rows[1]["value_1"] == "1100.0"


def test_results_say_what_was_saved_and_which_is_best() -> None:
    study = make_study(tune_params(), 5)
    assert study_summary(study)["best_trial"] is None, "a study without trials can be shown"
    write_results(study)
    values = {}
    while (claim := study.claim()) is not None:
        pruned = claim.number == 2
        state = TrialState.FAIL if claim.number == 3 else TrialState.PRUNED if pruned else TrialState.COMPLETE
        steps = 10 if pruned else 30
        error = "not finite" if state == TrialState.FAIL else None
        study.finish(claim, outcome(claim, steps, state, error=error))
        values[claim.number] = fake_value(claim)
    folder = write_results(study)
    summary = json.loads((folder / "study.json").read_text())
    assert summary["counts"] == {"complete": 3, "pruned": 1, "failed": 1, "running": 0, "waiting": 0, "lost": 0}
    assert summary["steps_saved"] == {"made": 100, "planned": 120, "share": pytest.approx(1 - 100 / 120)}
    assert summary["best_trial"] == max((0, 1, 4), key=lambda n: values[n])
    assert summary["budget"]["trials"] == 5 and summary["budget"]["tokens"] == 100 * 130
    assert summary["importance"] is None and "3 complete trials" in summary["importance_reason"]
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["complete", "complete", "pruned", "failed", "complete"]
    assert float(rows[1]["param:train.lr"]) == study.trials()[1].params["train.lr"]
    assert rows[3]["error"] == "not finite" and rows[3]["value"] == ""
    curves = list(csv.DictReader((folder / "curves.csv").open()))
    assert [row["step"] for row in curves if row["trial"] == "2"] == ["0", "10"]
    best = (folder / "best.yaml").read_text()
    assert "methods.sdpg-ufkl.beta:" in best and f"Trial {summary['best_trial']}" in best


def test_a_pruned_trial_is_never_the_best() -> None:
    study = make_study(tune_params(), 2)
    first, second = study.claim(), study.claim()
    assert first is not None and second is not None
    study.finish(first, outcome(first, state=TrialState.PRUNED))
    assert fake_value(first) > fake_value(second), "the default is at the maximum"
    study.finish(second, outcome(second))
    best = best_trial(study)
    assert best is not None and best.number == 1


def test_importance_finds_the_knob_that_matters() -> None:
    study = make_study(tune_params(sampler="random"), 20)
    fake_work(study)
    found = study_summary(study)["importance"]
    assert max(found, key=found.get) == "methods.sdpg-ufkl.beta" and abs(sum(found.values()) - 1) < 1e-6
