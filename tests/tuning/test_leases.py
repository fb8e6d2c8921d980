"""Who holds a trial: a lease tells whether its worker lives, and a heartbeat keeps it."""

import ast
from pathlib import Path
import time

import optuna
from optuna.trial import TrialState
import pytest

from sdpg.tuning.leases import Heartbeat, Lease, own_lease, this_host
from tests.helpers.tuning_helpers import ROOT, make_study, tune_params


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDPG_TUNE_STORAGE", raising=False)


def test_a_lease_tells_the_dead_from_the_living() -> None:
    lease = own_lease()
    assert not lease.dead(grace=0.0), "on this machine the table of processes decides, not the time"
    assert Lease("w", this_host(), lease.pid, lease.started - 100, lease.beat).dead(1e9), "the number was given anew"
    assert Lease("w", this_host(), 2**22 - 1, 0.0, time.time()).dead(1e9)
    away = Lease("w", "another/machine", lease.pid, lease.started, time.time() - 50)
    assert away.dead(grace=49) and not away.dead(grace=60)


def test_a_heartbeat_renews_and_notices_that_the_trial_is_gone() -> None:
    study = make_study(tune_params(), 1)
    claim = study.claim()
    assert claim is not None
    before = study.trials()[0].user_attrs["lease"]["beat"]
    with Heartbeat(study.storage.rdb, study.storage_id(claim.number), grace=0.3) as heartbeat:
        time.sleep(0.3)
        assert study.trials()[0].user_attrs["lease"]["beat"] > before and not heartbeat.taken
        study.storage.rdb.set_trial_state_values(study.storage_id(claim.number), TrialState.FAIL)
        time.sleep(0.3)
        assert heartbeat.taken


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optunas_own_heartbeat_still_loses_trials() -> None:
    """Where this fails, the newer Optuna may do what leases are for, and they can go (docs/tuning.md)."""
    retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
    killed = True

    def stale(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if killed:
            raise KeyboardInterrupt
        retry(study, trial)

    storage = optuna.storages.RDBStorage(
        "sqlite:///own.db", heartbeat_interval=1, grace_period=1, heartbeat_stale_trial_callback=stale
    )
    with pytest.warns(UserWarning, match="Heartbeat of storage is supposed to be used with Study.optimize"):
        study = optuna.create_study(storage=storage)
        started, beating = study.ask(), study.ask()
    study_id = storage.get_study_id_from_name(study.study_name)
    storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study_id, beating.number))
    time.sleep(2.1)
    with pytest.raises(KeyboardInterrupt):
        optuna.storages.fail_stale_trials(study)
    killed = False
    optuna.storages.fail_stale_trials(study)
    states = [trial.state for trial in study.get_trials()]
    # The worker of the first died before its first sign of life, whoever looked after the second died before the retry.
    assert states[started.number] == TrialState.RUNNING and states[beating.number] == TrialState.FAIL
    assert len(states) == 2, "neither has a successor"


def test_no_private_attribute_of_optuna_is_used() -> None:
    for path in (ROOT / "sdpg/tuning").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                assert own or node.attr == "_asdict", f"{path.name}, line {node.lineno}: {node.attr}"
