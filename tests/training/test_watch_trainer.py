"""Tests leak shares and alarms in a real training run, interrupted and not."""

import json
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from sdpg.params import Params
from sdpg.records.watch import ALARMS, COLUMNS, read_history, watch_summary
from sdpg.training.run import assemble
from tests.training.test_trainer import small, trained, world

__all__ = ["world"]


class Killed(Exception):
    pass


def watching(**watch: Any) -> Params:
    """Six steps, a checkpoint every two."""
    params = small(steps=6, checkpoint_every=2, eval_every=6)
    return params.model_copy(update={"watch": params.watch.model_copy(update=watch)})


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(tqdm, "write", lambda line, *_, **__: lines.append(line))
    return lines


def test_a_killed_run_rings_as_an_uninterrupted_one(world: tuple[Any, Any], tmp_path: Path, written: list[str]) -> None:
    # Entropy is always below 100 nats, so this rings from step 2 + 3 - 1 = 4 on.
    params = watching(window=2, patience=3, min_entropy=100.0)
    trained(world, params, "grpo", tmp_path / "whole")
    assert len(written) == 1 and written[0].startswith("grpo-0, step 4: alarm entropy: moving mean of entropy is ")
    assert "below 100 (watch.min_entropy). Lower train.lr" in written[0]

    def kill(step: int, _metrics: dict[str, float | None]) -> None:
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        trained(world, params, "grpo", tmp_path / "killed", on_step=kill)
    logged: dict[int, dict[str, float | None]] = {}
    trained(world, params, "grpo", tmp_path / "killed", on_step=logged.__setitem__)
    assert list(logged) == [5, 6], "it goes on behind the checkpoint of step 4"
    assert (tmp_path / "killed/metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()
    assert len(written) == 2, "told at step 4 of each run, and not again when the second goes on"
    history = read_history(tmp_path / "whole/metrics.csv")
    assert history["alarm_entropy"] == [0, 0, 0, 1, 1, 1]
    assert {*COLUMNS, "leak_mentions", "leak_spans"} <= logged[5].keys()
    assert logged[5]["alarm_entropy"] == 1


def test_a_copied_solution_shows_and_the_watch_cannot_change_training(world: tuple[Any, Any], tmp_path: Path) -> None:
    # In this world nearly every response repeats the solution's first word, the label of a step.
    watched = watching(span_words=1, max_leak_spans=0.0, window=1, patience=1, mentions=["boxed", "a="])
    plain = watching()
    logged: dict[str, dict[int, dict[str, float | None]]] = {"watched": {}, "plain": {}}
    for name, params in (("watched", watched), ("plain", plain)):
        trained(world, params, "sdpg-ufkl", tmp_path / name, on_step=logged[name].__setitem__)
    unlike = {*COLUMNS, "leak_mentions", "leak_spans"}
    for step in range(1, 7):
        seen, unseen = (logged[name][step] for name in ("watched", "plain"))
        assert {k: v for k, v in seen.items() if k not in unlike} == {
            k: v for k, v in unseen.items() if k not in unlike
        }
        assert 0 < (seen["leak_spans"] or 0) <= 1 and 0 < (seen["leak_mentions"] or 0) <= 1
        assert seen["alarm_leak"] == 1
        assert unseen["leak_spans"] is None and unseen["leak_mentions"] == 0 and unseen["alarm_leak"] == 0


def test_the_run_folder_sums_the_watch_up(
    world: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = watching(window=1, patience=2, min_entropy=100.0)
    trainer = trained(world, params, "grpo", tmp_path / "state")
    folder = assemble(trainer, {"fingerprint": "0", "inputs": {}})
    stored = json.loads((folder / "summary.json").read_text())["watch"]
    summary = watch_summary(read_history(folder / "metrics.csv"), params.watch)
    assert stored == summary.numbers()
    assert stored["alarms"]["entropy"] == {"first_step": 2, "steps": 5}
    assert list(stored["alarms"]) == list(ALARMS)
    assert stored["leaks"] == {"leak_mentions": {"mean": 0.0, "max": 0.0}, "leak_spans": None}
