"""Tests whole runs with a teacher of its own: its limits, resuming it, its file in a checkpoint."""

import csv
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
import torch

from sdpg.errors import Interrupted, UserError
from sdpg.params import MethodParams, Params
from sdpg.training.saved_files import read_state
from sdpg.training.trainer import Trainer
from tests.helpers.tiny import tiny_method
from tests.training.test_trainer import make_world, small, trained, weights

STEPS = 4
OWN = ("teacher_age", "teacher_distance")


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any]:
    return make_world()


def taught(**values: Any) -> MethodParams:
    """A method in which the teacher both distils and weights tokens, at every step."""
    return tiny_method(
        outcome="ppo_clip", token_weighting="rlsd", rlsd_decay=0.0, distillation="kl_student_teacher", gate="all",
        beta=0.5, beta_warmup=0.0, beta_decay=0.0, **values,
    )  # fmt: skip


def settings(method: MethodParams, **train: Any) -> Params:
    params = small(**{"steps": STEPS, "eval_every": STEPS, "lr": 3e-3, **train})
    return params.model_copy(update={"methods": {"taught": method}})


def ended(world: tuple[Any, Any], state: Path, params: Params, **options: Any) -> tuple[torch.Tensor, list[dict]]:
    """The weights and the metrics of a run."""
    found = weights(trained(world, params, "taught", state, **options))
    with (state / "metrics.csv").open() as file:
        return found, list(csv.DictReader(file))


def column(rows: list[dict], name: str) -> list[float | None]:
    return [float(row[name]) if row[name] else None for row in rows]


@pytest.fixture(scope="module")
def runs(world: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[torch.Tensor, list]]:
    """A run of each teacher, by name and number."""
    teachers = {
        "current": {}, "reference": {},
        "ema 1": {"teacher_rate": 1.0}, "ema 0": {"teacher_rate": 0.0}, "ema 0.3": {"teacher_rate": 0.3},
        "snapshot 1": {"teacher_every": 1}, "snapshot 2": {"teacher_every": 2}, "snapshot 4": {"teacher_every": 4},
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("teachers")
    return {
        name: ended(world, folder / name, settings(taught(teacher=name.split()[0], **values)))
        for name, values in teachers.items()
    }


@pytest.mark.parametrize(
    ("name", "limit"),
    [("ema 1", "current"), ("snapshot 1", "current"), ("ema 0", "reference"), ("snapshot 4", "reference")],
)
def test_teachers_are_those_at_their_limits_to_the_last_bit(runs: Any, name: str, limit: str) -> None:
    (found, rows), (expected, others) = runs[name], runs[limit]
    assert torch.equal(found, expected)
    left = [[{key: value for key, value in row.items() if key not in OWN} for row in each] for each in (rows, others)]
    # The records' KL is that to the method's own teacher.
    assert left[0] == left[1] and all(row["kl_to_teacher_sampled"] for row in rows)


def test_between_the_limits_teachers_differ(runs: Any) -> None:
    names = ("current", "reference", "ema 0.3", "snapshot 2")
    for at, name in enumerate(names):
        assert not any(torch.equal(runs[name][0], runs[other][0]) for other in names[at + 1 :])


def test_distance_and_age_are_those_of_the_teacher_that_the_step_reads(runs: Any) -> None:
    for name in ("current", "reference"):
        assert [column(runs[name][1], own) for own in OWN] == [[None] * STEPS] * 2
    ages = {name: column(rows, "teacher_age") for name, (_, rows) in runs.items() if name[-1].isdigit()}
    assert ages == {
        "ema 1": [None] * STEPS, "ema 0": [None] * STEPS, "ema 0.3": [None] * STEPS,
        "snapshot 1": [0.0] * STEPS, "snapshot 2": [0.0, 1.0, 0.0, 1.0], "snapshot 4": [0.0, 1.0, 2.0, 3.0],
    }  # fmt: skip
    distances = {name: column(runs[name][1], "teacher_distance") for name in ages}
    assert distances["ema 1"] == distances["snapshot 1"] == [0.0] * STEPS
    assert [value == 0 for value in distances["snapshot 2"]] == [True, False, True, False]
    assert distances["ema 0"] == distances["snapshot 4"] == sorted(distances["ema 0"])
    # At the first step that differs, (1-r) of the way is left.
    assert distances["ema 0.3"][1] == pytest.approx(0.7 * distances["ema 0"][1], rel=1e-4)
    assert distances["ema 0.3"][-1] < distances["ema 0"][-1]


def test_with_several_updates_the_teacher_stays_within_a_step(world: tuple[Any, Any], tmp_path: Path) -> None:
    every, rate, current = (
        ended(world, tmp_path / str(at), settings(taught(**values), updates_per_batch=2, steps=2, eval_every=2))[0]
        for at, values in enumerate(
            ({"teacher": "snapshot", "teacher_every": 1}, {"teacher": "ema", "teacher_rate": 1.0}, {})
        )
    )
    assert torch.equal(every, rate) and not torch.equal(every, current)


# --- resuming


ACCURACY = {1: 0.5, 2: 0.25, 3: 0.5, 4: 0.75}
"""What validation says, in place of the model's luck; the base's is 0."""


def interrupted(world: tuple[Any, Any], state: Path, params: Params) -> tuple[torch.Tensor, list[dict]]:
    """A run that is killed in step 3, with a checkpoint of step 2, and goes on."""

    def kill(step: int, metrics: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ended(world, state, params, on_step=kill)
    assert (state / "checkpoint-000002").is_dir()
    return ended(world, state, params)


@pytest.mark.parametrize(
    "values",
    [{"teacher": "ema", "teacher_rate": 0.3}, {"teacher": "snapshot", "teacher_every": 4}, {"teacher": "gated"}],
)
def test_a_run_that_was_killed_goes_on_with_the_teacher_that_it_had(
    world: tuple[Any, Any], tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "evaluate", lambda _, step: {"chain-3": 0.0, "validation": ACCURACY[step]})
    params = settings(taught(**values), checkpoint_every=2, eval_every=1)
    whole, rows = ended(world, tmp_path / "whole", params)
    resumed, others = interrupted(world, tmp_path / "cut", params)
    assert torch.equal(whole, resumed) and rows == others
    files = [tmp_path / name / "checkpoint-000004/teacher-00000.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()
    if values["teacher"] == "gated":
        # Step 2 reads the weights of step 1, and so do 3 and 4: neither 2 nor 3 was better.
        assert column(rows, "teacher_age") == [0.0, 0.0, 1.0, 2.0]
        assert read_state(files[1].parent)["teacher"] == {"refreshed": 4, "best": 0.75}


def test_a_checkpoint_holds_the_teachers_weights_and_damage_to_them_is_named(
    world: tuple[Any, Any], tmp_path: Path
) -> None:
    params = settings(taught(teacher="snapshot", teacher_every=1), steps=2, eval_every=2)
    with pytest.raises(Interrupted):
        trained(world, params, "taught", tmp_path / "own", until=1)
    folder = tmp_path / "own/checkpoint-000001"
    teacher, student = (load_file(folder / f"{name}-00000.safetensors") for name in ("teacher", "model"))
    assert teacher.keys() == student.keys() and all(torch.equal(teacher[name], student[name]) for name in student)
    file = folder / "teacher-00000.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"teacher-00000\.safetensors is missing or damaged"):
        trained(world, params, "taught", tmp_path / "own")
    with pytest.raises(Interrupted):
        trained(world, settings(taught(), steps=2, eval_every=2), "taught", tmp_path / "none", until=1)
    assert not list((tmp_path / "none/checkpoint-000001").glob("teacher*"))
