"""Who holds a trial: a lease tells whether its worker lives, and a heartbeat keeps it."""

from pathlib import Path
import time

from optuna.trial import TrialState
import pytest

from sdpg.tuning.leases import Heartbeat, Lease, own_lease, this_host
from tests.helpers.tuning_helpers import make_study, tune_params


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
    with Heartbeat(study.storage.rdb, claim.trial._trial_id, grace=0.3) as heartbeat:
        time.sleep(0.3)
        assert study.trials()[0].user_attrs["lease"]["beat"] > before and not heartbeat.taken
        study.storage.rdb.set_trial_state_values(claim.trial._trial_id, TrialState.FAIL)
        time.sleep(0.3)
        assert heartbeat.taken
