"""Tests a step's records and metrics against the plain way, and that no failure or kill loses a record."""

import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import threading
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import plain_records
from sdpg.errors import UserError
from sdpg.models.columns import TokenColumn
from sdpg.models.experience import Experience, Rollouts
from sdpg.problems.prompts import PreparedRow
from sdpg.problems.token_pieces import TokenPieces
from sdpg.problems.tokenizer import train_tokenizer
from sdpg.records.schemas import ROLLOUT_SCHEMA, TOKEN_SIGNALS, read_rollouts, write_rollouts
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.training.metrics import step_metrics
from sdpg.training.recording import BackgroundWriter
from sdpg.training.rollout_rows import rollout_rows, token_columns
from sdpg.training.steps import Sampled, Step, Update
from tests.helpers.full_disk import largest_file
from tests.helpers.tiny import tiny_method
from tests.training.test_trainer import make_world, small, trained

ROOT = Path(__file__).parents[2]
IDENTITY = {"run": "r-0", "method": "r", "seed": 0, "step": 3, "verifier": "v", "verifier_version": "1"}
LONG = 60.0
"""Seconds after which a test that waits for another thread gives up."""


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any]:
    return make_world()


# --- what is written


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["so the sum is 12", "a=46 b=37"], 280)


def odd_step(tokenizer: Any, clipped: bool = True) -> Step:
    """Three prompts of four, some trained on, some diagnosed: empty, longest, repeated, unknown, special tokens."""
    source, end, size = random.Random(5), tokenizer.eos_token_id, len(tokenizer)
    encoded = [tokenizer(text)["input_ids"] for text in ("the sum 🙂🙂 is 數 12", "� so", "≈≈≈", "a=46")]
    responses: list[list[int]] = [
        [end], [], [size + 30, 4, end], [source.randrange(size) for _ in range(700)], [9] * 50, [end, *encoded[3], end],
        *([*ids, end] for ids in encoded), encoded[0][:-4], [2, 1, 0, 0],
    ]  # fmt: skip
    assert len(responses) == 12

    def column(rows: list[int], low: float = -4.0, high: float = 0.0) -> TokenColumn:
        return TokenColumn.of({row: [source.uniform(low, high) for _ in responses[row]] for row in rows})

    trained, everyone = [0, 3, 4, 5, 8, 9, 11], list(range(12))
    updated = {name: column(trained) for name in ("logprob", "entropy", "weight", "loss")}
    updated |= {"ratio": column(trained, 0.5, 1.5), "ref_logprob": column([3, 4, 9]), "kl_gated": column([3, 11])}
    updated["clipped"] = TokenColumn.of({row: [source.random() < 0.3 for _ in responses[row]] for row in trained})
    diagnosed = {name: column([1, 3, 6]) for name in ("logprob", "entropy", "ref_logprob", "kl_to_teacher")}
    diagnosed["contrast_logprob"] = column([3, 8])
    unusual = {2: [float("nan"), -float("inf"), -1.5], 7: [0.0] * len(responses[7])}
    diagnosed["teacher_logprob"] = TokenColumn.of(unusual)
    sampled_logprobs = column(everyone).lists()
    experience = Experience(
        problem_ids=["p"] * 12, student_prompts=[[1]] * 12, teacher_prompts=[[1]] * 12, responses=responses,
        rollout_logprobs=list(sampled_logprobs.values()),
        advantages=torch.tensor([source.choice([-1.0, 0.5]) for _ in everyone], dtype=torch.float64),
        gates=torch.tensor([source.choice([0.0, 1.0]) for _ in everyone], dtype=torch.float64),
    )  # fmt: skip
    problems = [
        PreparedRow(id=name, problem="", answer="1", solution="", source="", student_prompt=name, teacher_prompt=shown,
                    student_tokens=1, teacher_tokens=2)
        for name, shown in (("a", "t"), ("a", None), ("c", ""))
    ]  # fmt: skip
    verdicts = [Verdict(Status.WRONG, None if row % 3 else "7", float(row % 2)) for row in everyone]
    rollouts = Rollouts(**{name: getattr(experience, name) for name in Rollouts.__dataclass_fields__})
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in responses]
    sampled = Sampled(problems, rollouts, texts, [row == 4 for row in everyone])
    return Step(sampled, verdicts, experience, Update(0.1, 1.0, 1e-3, updated if clipped else {}), diagnosed)


@pytest.mark.parametrize("updated", [True, False])
def test_a_file_holds_what_the_plain_way_wrote(updated: bool, tokenizer: Any, tmp_path: Path) -> None:
    step = odd_step(tokenizer, updated)
    plain, fast = tmp_path / "plain.parquet", tmp_path / "fast.parquet"
    plain_records.write(plain, plain_records.rows_with_tokens(step, IDENTITY, tokenizer))
    write_rollouts(fast, rollout_rows(step, IDENTITY), token_columns(step, TokenPieces(tokenizer)))
    one, other = (pq.read_table(path) for path in (plain, fast))
    assert one.schema.equals(other.schema, check_metadata=True) and one.schema.metadata == ROLLOUT_SCHEMA.metadata
    # NaN is not equal to itself, but looks the same.
    assert repr(one.to_pylist()) == repr(other.to_pylist())
    missing = [row for row, loss in enumerate(other["loss"].to_pylist()) if loss is None]
    assert missing == ([1, 2, 6, 7, 10] if updated else list(range(12)))
    assert set(TOKEN_SIGNALS) - {"weight", "loss"} <= {name for name in TOKEN_SIGNALS if other[name].null_count < 12}


@pytest.mark.parametrize("updated", [True, False])
def test_metrics_are_those_of_the_plain_way(updated: bool, tokenizer: Any) -> None:
    step = odd_step(tokenizer, updated)
    found = step_metrics(step, tiny_method(outcome="ppo_clip", dual_clip=3.0))
    expected = plain_records.token_metrics(step)
    # The last bit of an exponential is a matter of the library.
    k3 = expected.pop("kl_to_reference_k3")
    assert (k3 is not None) == updated and found["kl_to_reference_k3"] == (k3 and pytest.approx(k3, rel=1e-12, abs=0))
    assert {name: found[name] for name in expected} == expected
    assert not updated or min(found[f"clip_fraction_{kind}"] or 0 for kind in ("high", "low", "dual")) > 0


def test_whole_columns_are_checked_like_rows(tokenizer: Any, tmp_path: Path) -> None:
    step = odd_step(tokenizer)
    rows, columns = rollout_rows(step, IDENTITY), token_columns(step, TokenPieces(tokenizer))
    short = pa.array([[0.5] * (len(ids) - (row == 3)) for row, ids in enumerate(columns["completion_ids"].to_pylist())])
    with pytest.raises(ValueError, match=r"s.parquet: problem a, sibling 3: loss has 699 values for 700 completion"):
        write_rollouts(tmp_path / "s.parquet", rows, columns | {"loss": short.cast(pa.list_(pa.float32()))})
    with pytest.raises(ValueError, match=r"s.parquet: a row has fields that the schema has not: surprise"):
        write_rollouts(tmp_path / "s.parquet", rows, columns | {"surprise": columns["loss"]})
    del columns["token_starts"]
    with pytest.raises(ValueError, match=r"s.parquet: a row lacks required fields: token_starts"):
        write_rollouts(tmp_path / "s.parquet", rows, columns)
    assert not list(tmp_path.iterdir())


# --- when it is written


def test_files_are_written_in_order_beside_the_caller_who_waits_when_too_many_wait() -> None:
    written: list[int] = []
    gate, handed_over = threading.Event(), threading.Event()

    def write(number: int) -> None:
        assert gate.wait(LONG)
        written.append(number)

    def caller() -> None:
        with BackgroundWriter(waiting=2) as writer:
            for number in range(3):
                writer.put(Path(f"{number}"), lambda number=number: write(number))
                if number == 1:
                    handed_over.set()

    thread = threading.Thread(target=caller)
    thread.start()
    # Two are taken over while the first is not written yet; the third waits for it.
    assert handed_over.wait(LONG) and written == []
    thread.join(0.05)
    assert thread.is_alive() and written == []
    gate.set()
    thread.join(LONG)
    assert written == [0, 1, 2]


def failing() -> None:
    raise UserError("the third is lost")


def test_a_failure_is_raised_where_the_next_file_is_handed_over_or_all_are_awaited() -> None:
    written: list[int] = []
    with pytest.raises(UserError, match="third") as caught, BackgroundWriter(waiting=1) as writer:
        for number in range(5):
            writer.put(Path(f"{number}"), failing if number == 2 else lambda number=number: written.append(number))
    assert written == [0, 1] and caught.value.__notes__ == ["This happened while 2 was written."]
    with pytest.raises(UserError, match="third"), BackgroundWriter() as writer:
        writer.put(Path("a"), failing)
        writer.flush()
    with pytest.raises(UserError, match="third"), BackgroundWriter() as writer:
        writer.put(Path("a"), failing)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), ValueError()])
def test_an_error_of_the_training_loses_no_file_and_names_those_that_failed(error: BaseException) -> None:
    written: list[int] = []
    gate = threading.Event()

    def write() -> None:
        assert gate.wait(LONG)
        written.append(1)

    with pytest.raises(type(error)) as caught, BackgroundWriter(3) as writer:
        writer.put(Path("a"), write)
        writer.put(Path("b"), failing)
        threading.Timer(0.05, gate.set).start()
        raise error
    assert written == [1] and caught.value.__notes__ == ["Besides, b was not written: the third is lost"]


# --- in training


@pytest.fixture(scope="module")
def undisturbed(world: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps, with a checkpoint after the second and the third."""
    folder = tmp_path_factory.mktemp("undisturbed")
    trained(world, small(checkpoint_every=2), "sdpg-ufkl", folder)
    return folder


def checkpoints(state: Path) -> list[str]:
    return sorted(path.name for path in state.glob("checkpoint-*"))


def test_a_record_that_cannot_be_written_stops_the_run_before_the_next_checkpoint(
    world: tuple[Any, Any], undisturbed: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "rollouts" / "step-000002-rank-0.parquet"

    def on_step(step: int, metrics: Any) -> None:
        if step == 1:
            (blocked / "in the way").mkdir(parents=True)

    with pytest.raises(UserError, match=str(blocked)):
        trained(world, small(checkpoint_every=1), "sdpg-ufkl", tmp_path, on_step)
    assert checkpoints(tmp_path) == ["checkpoint-000001"]
    # Once the cause is gone, the run goes on as if nothing had been.
    for path in (blocked / "in the way", blocked):
        path.rmdir()
    trained(world, small(checkpoint_every=2), "sdpg-ufkl", tmp_path)
    assert_same_run(tmp_path, undisturbed, 3)


def test_a_full_disk_stops_the_run_with_the_files_name(world: tuple[Any, Any], tmp_path: Path) -> None:
    with largest_file(9_000), pytest.raises(UserError, match=r"cannot write .*step-000001-rank-0\.parquet"):
        trained(world, small(record_rows=8), "sdpg-ufkl", tmp_path)
    assert not checkpoints(tmp_path) and not list((tmp_path / "rollouts").iterdir())


def assert_same_run(one: Path, other: Path, steps: int) -> None:
    """Metrics, curves, records and answers agree byte by byte."""
    names = [f"rollouts/step-{step:06d}-rank-0.parquet" for step in range(1, steps + 1)]
    for folder in (one, other):
        found = sorted(str(path.relative_to(folder)) for path in folder.glob("rollouts/*"))
        assert found == names
    answers = [str(path.relative_to(other)) for path in other.glob("evaluations/*")]
    for name in (*names, *answers, "metrics.csv", "curves.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert read_rollouts(one / names[-1]).num_rows == 8


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from tests.training.test_trainer import make_world, small, trained

write = pq.write_table

def half_written(table, where, **options):
    write(table, where, **options)
    if sys.argv[2] in Path(where).name:
        whole = Path(where).read_bytes()
        Path(where).write_bytes(whole[: len(whole) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

pq.write_table = half_written
trained(make_world(), small(checkpoint_every=2), "sdpg-ufkl", Path(sys.argv[1]))
"""


def test_a_kill_while_a_record_is_written_resumes_to_the_same_bytes(
    world: tuple[Any, Any], undisturbed: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), "step-000003-rank"], cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert checkpoints(tmp_path / "killed") == ["checkpoint-000002"]
    halves = [path.name for path in (tmp_path / "killed" / "rollouts").glob(".*partial*")]
    assert len(halves) == 1 and "step-000003" in halves[0]
    trained(world, small(checkpoint_every=2), "sdpg-ufkl", tmp_path / "killed")
    assert_same_run(tmp_path / "killed", undisturbed, 3)
