"""Tests checkpoints: every bit is restored, a kill or a full disk leaves a usable one, and later steps are cut."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shutil
from typing import Any

import pytest
import torch

from sdpg.errors import UserError
from sdpg.models.passes import Policies
from sdpg.objective.coefficients import Coefficients
from sdpg.training.checkpoints import CsvLog, load_checkpoint, save_checkpoint
from sdpg.training.saved_files import cut_after, read_state
from sdpg.training.update import Task, accumulate_gradients
from tests.helpers.full_disk import largest_file
from tests.helpers.tiny import MAX_TOKENS, tiny_experience, tiny_method, tiny_policies, tiny_train

METHOD = tiny_method(distillation="kl_student_teacher", reference="ufkl")


def adamw(model: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)


def train_steps(policies: Policies, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Training on rollouts that depend on the step alone."""
    losses = []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / step
        optimizer.zero_grad(set_to_none=True)
        experience = tiny_experience(seed=step)
        at = Coefficients(0.1, 0.5, 0.0)
        task = Task(policies, experience, METHOD, at, tiny_train(), MAX_TOKENS, Path("unused.json"))
        losses.append(accumulate_gradients(task, range(12)).loss)
        optimizer.step()
    return losses


def assert_same_training(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Weights and optimiser state agree to the last bit."""
    for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True):
        assert torch.equal(a, b)
    states = [optimizer.state_dict() for _, optimizer in (one, other)]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for index, entries in states[0]["state"].items():
        assert entries.keys() == states[1]["state"][index].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in entries.items():
            found = states[1]["state"][index][name]
            assert found.dtype == value.dtype
            assert torch.equal(found, value)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_restores_every_bit(tmp_path: Path) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    train_steps(policies, optimizer, range(1, 4))
    save_checkpoint(tmp_path, 3, policies.student, optimizer)
    other = tiny_policies()
    other_optimizer = adamw(other.student)
    assert load_checkpoint(tmp_path, other.student, other_optimizer) == 3
    assert_same_training((policies.student, optimizer), (other.student, other_optimizer))
    assert other_optimizer.param_groups[0]["lr"] == 1e-2 / 3
    assert {entries["step"].item() for entries in other_optimizer.state.values()} == {3}


def test_training_from_a_checkpoint_equals_training_without_a_stop(tmp_path: Path) -> None:
    whole = tiny_policies()
    whole_optimizer = adamw(whole.student)
    expected = train_steps(whole, whole_optimizer, range(1, 7))

    first = tiny_policies()
    optimizer = adamw(first.student)
    losses = train_steps(first, optimizer, range(1, 4))
    save_checkpoint(tmp_path, 3, first.student, optimizer)
    second = tiny_policies()
    optimizer = adamw(second.student)
    done = load_checkpoint(tmp_path, second.student, optimizer)
    losses += train_steps(second, optimizer, range(done + 1, 7))
    assert losses == expected
    assert_same_training((second.student, optimizer), (whole.student, whole_optimizer))


def test_the_weights_are_tied_after_loading_as_before(tmp_path: Path) -> None:
    policies = tiny_policies()
    save_checkpoint(tmp_path, 1, policies.student, adamw(policies.student))
    load_checkpoint(tmp_path, policies.student, adamw(policies.student))
    student: Any = policies.student
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


def test_the_newest_checkpoint_is_kept_alone(tmp_path: Path) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    (tmp_path / "metrics.csv").write_text("step\n")
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, step, policies.student, optimizer)
        assert names(tmp_path) == [f"checkpoint-{step:06d}", "metrics.csv"]
        assert load_checkpoint(tmp_path, policies.student, optimizer) == step


def test_a_kill_before_the_earlier_checkpoint_is_removed_leaves_two_and_the_newer_counts(tmp_path: Path) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    save_checkpoint(tmp_path, 9, policies.student, optimizer)
    shutil.copytree(tmp_path / "checkpoint-000009", tmp_path / "kept")
    train_steps(policies, optimizer, range(1, 2))
    save_checkpoint(tmp_path, 10, policies.student, optimizer)
    os.replace(tmp_path / "kept", tmp_path / "checkpoint-000009")
    other = tiny_policies()
    other_optimizer = adamw(other.student)
    assert load_checkpoint(tmp_path, other.student, other_optimizer) == 10
    assert_same_training((policies.student, optimizer), (other.student, other_optimizer))


def test_without_a_checkpoint_training_starts_at_zero(tmp_path: Path) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    assert load_checkpoint(tmp_path, policies.student, optimizer) == 0
    assert load_checkpoint(tmp_path / "absent", policies.student, optimizer) == 0


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    save_checkpoint(tmp_path, 10, policies.student, optimizer)
    partial = tmp_path / ".checkpoint-000020.partial-123"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert load_checkpoint(tmp_path, policies.student, optimizer) == 10
    save_checkpoint(tmp_path, 20, policies.student, optimizer)
    assert names(tmp_path) == ["checkpoint-000020"]


# --- a disk that is full


@contextmanager
def failing_replace(monkeypatch: pytest.MonkeyPatch, calls: int) -> Iterator[None]:
    """The given call of os.replace fails, counted from 1; those around it work."""
    count, original = 0, os.replace

    def replace(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == calls:
            raise OSError(28, "No space left on device")
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        yield


def assert_earlier_checkpoint(state: Path, step: int, trained: tuple[Any, Any]) -> None:
    assert names(state) == [f"checkpoint-{step:06d}"]
    other = tiny_policies()
    optimizer = adamw(other.student)
    assert load_checkpoint(state, other.student, optimizer) == step
    assert_same_training((other.student, optimizer), trained)


# model.safetensors has 80 KB, the optimiser's twice that
@pytest.mark.parametrize("size", [10_000, 100_000])
def test_a_full_disk_leaves_the_earlier_checkpoint(size: int, tmp_path: Path) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    train_steps(policies, optimizer, range(1, 2))
    save_checkpoint(tmp_path, 1, policies.student, optimizer)
    with largest_file(size), pytest.raises(UserError) as error:
        save_checkpoint(tmp_path, 2, policies.student, optimizer)
    assert str(tmp_path / "checkpoint-000002") in str(error.value)
    assert "space" in str(error.value)
    assert_earlier_checkpoint(tmp_path, 1, (policies.student, optimizer))


def test_a_rename_that_fails_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    train_steps(policies, optimizer, range(1, 2))
    save_checkpoint(tmp_path, 1, policies.student, optimizer)
    with failing_replace(monkeypatch, 1), pytest.raises(UserError, match="checkpoint-000002"):
        save_checkpoint(tmp_path, 2, policies.student, optimizer)
    assert_earlier_checkpoint(tmp_path, 1, (policies.student, optimizer))


@pytest.mark.parametrize("call", [1, 2])
def test_a_checkpoint_written_over_is_put_back_if_a_rename_fails(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies = tiny_policies()
    optimizer = adamw(policies.student)
    train_steps(policies, optimizer, range(1, 2))
    save_checkpoint(tmp_path, 1, policies.student, optimizer)
    with failing_replace(monkeypatch, call), pytest.raises(UserError):
        save_checkpoint(tmp_path, 1, policies.student, optimizer)
    assert_earlier_checkpoint(tmp_path, 1, (policies.student, optimizer))


# --- records and metrics that ran ahead


def test_cut_after_removes_later_steps_and_half_written_files(tmp_path: Path) -> None:
    kept = [
        "rollouts/step-000001-rank-0.parquet",
        "rollouts/step-000010-rank-0.parquet",
        "rollouts/step-000010.parquet",
    ]
    gone = [
        "rollouts/step-000011-rank-0.parquet",
        "rollouts/step-000100-rank-0.parquet",
        "rollouts/.step-000009-rank-0.parquet.partial-77",
        "evaluations/step-000020.parquet",
        "timing.csv",
    ]
    other = ["checkpoint-000010/state.json", "notes.txt"]
    for name in [*kept, *gone, *other]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    cut_after(tmp_path, 10, {})
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted([*kept, *other])


@pytest.mark.parametrize("more", ["", "11,0.125\n", "11,0.1", "1", "\n", "11,0.1\xff\0"])
def test_tables_are_cut_to_what_they_were_at_the_checkpoint(more: str, tmp_path: Path) -> None:
    text = "step,loss\n" + "".join(f"{step},0.5\n" for step in range(1, 11))
    for name in ("metrics.csv", "timing.csv"):
        (tmp_path / name).write_text(text)
    policies = tiny_policies()
    save_checkpoint(tmp_path, 10, policies.student, adamw(policies.student))
    for name in ("metrics.csv", "timing.csv"):
        with (tmp_path / name).open("ab") as file:
            file.write(more.encode("latin-1"))
    assert load_checkpoint(tmp_path, policies.student) == 10
    cut_after(tmp_path, 10, read_state(tmp_path / "checkpoint-000010")["files"])
    assert (tmp_path / "metrics.csv").read_text() == (tmp_path / "timing.csv").read_text() == text


def test_cut_after_on_a_new_folder_does_nothing(tmp_path: Path) -> None:
    cut_after(tmp_path, 0, {})
    assert list(tmp_path.iterdir()) == []


def test_a_csv_log_keeps_every_digit_and_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    CsvLog(path, ["step", "loss", "entropy"]).append({"step": 1, "loss": 0.1 + 0.2})
    CsvLog(path, ["step", "loss", "entropy"]).append({"step": 2, "loss": 1e-17, "entropy": None})
    assert path.read_text() == "step,loss,entropy\n1,0.30000000000000004,\n2,1e-17,\n"
    with pytest.raises(ValueError, match="reward"):
        CsvLog(path, ["step", "loss", "entropy"]).append({"step": 3, "reward": 1.0})
