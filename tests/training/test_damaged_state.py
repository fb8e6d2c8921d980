"""Tests that a run in progress of which any byte has changed goes on to the same bits, or is refused by name."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
import shutil
import tempfile
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
import pytest
import torch

from sdpg.errors import UserError
from sdpg.params import Params
from sdpg.problems.prepare import Prepared, prepare
from sdpg.training.checkpoints import load_checkpoint, save_checkpoint
from sdpg.training.saved_files import newest_checkpoint, read_state
from tests.helpers.interrupted import trainer
from tests.helpers.tiny import tiny_policies
from tests.training.test_checkpoints import adamw, assert_same_training
from tests.training.test_interruption import files
from tests.training.test_trainer import small, weights

KEPT, KILLED, STEPS = 2, 3, 4


@dataclass(repr=False)
class Run:
    """A finished run, and its folder as a kill in step 3 left it, with a checkpoint of step 2."""

    params: Params
    prepared: Prepared
    state: Path
    expected: dict[str, bytes]
    weights: torch.Tensor


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("state")
    params = small(steps=STEPS, checkpoint_every=KEPT, eval_every=KEPT, record_every=1)
    prepared = prepare(params)
    whole = trainer(params, prepared, folder / "whole")

    def copy(step: int, metrics: Any) -> None:
        if step == KILLED:
            whole.records.flush()
            shutil.copytree(folder / "whole", folder / "killed")

    whole.on_step = copy
    whole.train()
    newest = newest_checkpoint(folder / "killed")
    assert newest is not None and newest.name == f"checkpoint-{KEPT:06d}"
    yield Run(params, prepared, folder / "killed", files(folder / "whole"), weights(whole))


def damaged(source: Path, folder: Path, draw: Any) -> Path:
    """Copies a folder, and cuts one of its files off or flips a bit in it; returns that file's path."""
    shutil.copytree(source, folder)
    path = draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    content = bytearray(path.read_bytes())
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        content[place] ^= 1 << draw(st.integers(0, 7))
    else:
        del content[place:]
    path.write_bytes(content)
    return path


QUICK = settings(max_examples=30, deadline=None, phases=[Phase.explicit, Phase.generate])
"""Without shrinking: a failure says which file it is."""


@QUICK
@given(data=st.data())
def test_any_damage_to_a_run_in_progress_is_named_or_makes_no_difference(run: Run, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as place:
        state = Path(place) / "state"
        path = damaged(run.state, state, data.draw)
        before = files(state)
        again = trainer(run.params, run.prepared, state)
        try:
            again.train()
        except UserError as error:
            assert str(path) in str(error) and "move" in str(error)
            assert files(state) == before, "nothing was changed"
            return
        assert torch.equal(weights(again), run.weights)
        found = files(state)
        assert [name for name in run.expected.keys() | found.keys() if found.get(name) != run.expected.get(name)] == []


@pytest.mark.parametrize("name", ["metrics.csv", "timing.csv", "rollouts/step-000003-rank-0.parquet"])
def test_what_came_after_the_checkpoint_may_be_cut_anywhere(run: Run, tmp_path: Path, name: str) -> None:
    shutil.copytree(run.state, tmp_path / "state")
    path = tmp_path / "state" / name
    path.write_bytes(path.read_bytes()[:-7])
    again = trainer(run.params, run.prepared, tmp_path / "state")
    again.train()
    assert torch.equal(weights(again), run.weights) and files(tmp_path / "state") == run.expected


@pytest.mark.parametrize("name", ["curves.csv", "rollouts/step-000001-rank-0.parquet", "checkpoint-000002/state.json"])
def test_a_missing_file_is_named(run: Run, tmp_path: Path, name: str) -> None:
    shutil.copytree(run.state, tmp_path / "state")
    (tmp_path / "state" / name).unlink()
    with pytest.raises(UserError, match=f"/state/{name} (is missing|does not exist)"):
        trainer(run.params, run.prepared, tmp_path / "state").train()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Any, Any]]:
    """A folder with a checkpoint, and what was saved."""
    folder, student = tmp_path_factory.mktemp("checkpoint"), tiny_policies().student
    optimizer = adamw(student)
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_checkpoint(folder, 7, student, optimizer)
    return folder, (student, optimizer)


@QUICK
@given(data=st.data())
def test_a_damaged_checkpoint_is_named_or_read_as_it_was(checkpoint: Any, data: st.DataObject) -> None:
    folder, saved = checkpoint
    with tempfile.TemporaryDirectory() as place:
        path = damaged(folder, Path(place) / "state", data.draw)
        student = tiny_policies().student
        optimizer = adamw(student)
        try:
            assert load_checkpoint(Path(place) / "state", student, optimizer) == 7
        except UserError as error:
            assert str(path) in str(error)
            return
        assert_same_training((student, optimizer), saved)


def test_records_that_a_checkpoint_noted_are_not_read_again(run: Run) -> None:
    newest = newest_checkpoint(run.state)
    assert newest is not None
    noted = read_state(newest)["files"]
    assert {name.split("-rank")[0] for name in noted if name.startswith("rollouts")} == {
        "rollouts/step-000001", "rollouts/step-000002"
    }  # fmt: skip
    assert {name for name in noted if name.endswith(".csv")} == {"curves.csv", "digests.csv", "metrics.csv"}
