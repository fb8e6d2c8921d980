"""Tests that two gloo ranks compute what one does (gradients, weights, log-probs), and that neither waits in vain."""

from collections.abc import Iterator
from contextlib import contextmanager
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
import torch

from sdpg.models import experience as experience_module
from sdpg.models.adapters import full_weights
from sdpg.models.columns import TokenColumn, gather_columns, join_columns
from sdpg.models.experience import Experience, Rollouts
from sdpg.models.loading import trainable
from sdpg.models.passes import Policies
from sdpg.models.ranks import SOLO, Ranks, whole
from sdpg.objective.coefficients import Coefficients
from sdpg.objective.gates import GATES, Gate
from sdpg.params import MethodParams, RewardParams
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.training.checkpoints import load_checkpoint, save_checkpoint
from sdpg.training.diagnostics import diagnose
from sdpg.training.trainer import Trainer
from sdpg.training.update import Task, accumulate_gradients
from tests.helpers.plain_update import SEVERAL as KNOWN
from tests.helpers.plain_update import gate_kind, switched_on
from tests.helpers.tiny import MAX_TOKENS, VOCAB, counted_passes, tiny_experience, tiny_method, tiny_train
from tests.helpers.two_ranks import STRATEGIES, Tensors, adapted, compare, on_two_ranks, policies

STEPS = 3
BUDGET = 128
AVERAGE = tiny_method(
    token_weighting="rlsd", distillation="kl_student_teacher", reference="ufkl", teacher="ema", teacher_rate=0.25
)
METHODS = KNOWN | {"moving average": AVERAGE}


def rollouts(step: int, method: MethodParams) -> Experience:
    """Twelve ragged rows, one of them as long as several others, so that ranks get unequal numbers of them."""
    experience = tiny_experience(gate_kind=gate_kind(method), seed=100 + step)
    response = [2 + place % (VOCAB - 2) for place in range(44)]
    return dataclasses.replace(
        experience,
        responses=[response, *experience.responses[1:]],
        rollout_logprobs=[[-1.0] * len(response), *experience.rollout_logprobs[1:]],
        contrast_logprobs=[torch.full((len(response),), -2.0), *(experience.contrast_logprobs or [])[1:]],
    )


def train(one: Policies, method: MethodParams, prefix: str) -> tuple[Tensors, dict[str, TokenColumn]]:
    """Gradients and losses of three updates, the weights behind them, and the last update's columns."""
    options = tiny_train(tokens_per_micro_batch=BUDGET)
    optimizer = torch.optim.AdamW(trainable(one.student), lr=1e-2, weight_decay=0.1)
    found: Tensors = {}
    columns: dict[str, TokenColumn] = {}
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        experience = rollouts(step, method)
        task = Task(one, experience, method, switched_on(method), options, MAX_TOKENS, Path("unused.json"))
        accumulated = accumulate_gradients(task, range(12))
        columns = accumulated.columns
        found[f"{prefix} {step} loss"] = torch.tensor([accumulated.loss], dtype=torch.float64)
        for name, parameter in one.student.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad
            if parameter.grad is None:
                continue
            found[f"{prefix} {step} gradient {name}"] = whole(parameter.grad).clone()
        norm = whole(torch.nn.utils.clip_grad_norm_(one.student.parameters(), 1.0))
        found[f"{prefix} {step} norm"] = norm.reshape(1).clone()
        if one.teacher_weights is not None:
            distance = one.teacher_metrics(step + 1)["teacher_distance"]
            found[f"{prefix} {step} distance"] = torch.tensor([distance], dtype=torch.float64)
        optimizer.step()
        one.advance_teacher(step + 1, None)
    if one.teacher_weights is not None:
        for name, weight in one.teacher_weights.weights.items():
            found[f"{prefix} teacher {name}"] = whole(weight).clone()
    for name, parameter in one.student.named_parameters():
        found[f"{prefix} weight {name}"] = whole(parameter.detach()).clone()
    return found, columns


# --- every method, both strategies


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks found, all parts of this file in one go: starting processes takes longer than their work."""
    folder = tmp_path_factory.mktemp("ranks")
    adapter_checkpoint(folder / "adapter")
    on_two_ranks(everything, folder)
    return folder


def everything(ranks: Ranks, folder: Path) -> None:
    for part in (telling, crediting, reading, every_method, lopsided_gates, adapters):
        part(ranks, folder)


def every_method(ranks: Ranks, folder: Path) -> None:
    found: Tensors = {}
    for strategy in STRATEGIES:
        for name, method in METHODS.items():
            one = policies(strategy, ranks, method=method)
            with counted_passes(one.student) as student, counted_passes(one.reference) as reference:
                more, columns = train(one, method, f"{strategy} {name}")
            found |= more
            # As many passes on each rank, or the collectives of shards would not meet.
            counts = [len(student.prompts(True)) > 0, len(student.seen), len(reference.seen)]
            assert ranks.values(counts) == [counts] * ranks.size
            rows = sorted(row for part in ranks.values(columns["loss"].rows if columns else []) for row in part)
            joined = gather_columns(columns, ranks)
            if ranks.first:
                assert joined["loss"].rows == rows
                found[f"{strategy} {name} column"] = joined["loss"].values
            else:
                assert joined == {}
    if ranks.first:
        save_file(found, folder / "methods.safetensors")


def test_three_updates_of_every_method_equal_those_of_one_process(found: Path) -> None:
    assert {"grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0", "nogate"} <= set(METHODS)
    tensors = load_file(found / "methods.safetensors")
    for name, method in METHODS.items():
        expected, columns = train(policies("none", SOLO, method=method), method, name)
        for strategy in STRATEGIES:
            torch.testing.assert_close(tensors.pop(f"{strategy} {name} column"), columns["loss"].values)
            compare({key: tensors.pop(f"{strategy} {key}") for key in expected}, expected)
    assert not tensors


def test_the_split_of_these_rows_is_uneven() -> None:
    experience = rollouts(0, METHODS["grpo"])
    dealt = experience.dealt_micro_batches(range(12), experience.student_prompts, BUDGET, 0, 2)
    rows = [sorted(row for lines in batches for line in lines for row in line) for batches in dealt]
    assert sorted(rows[0] + rows[1]) == list(range(12))
    assert len(rows[0]) != len(rows[1])
    assert {len(batches) for batches in dealt} != {1}


# --- gates that are closed on one rank and open on the other


@contextmanager
def halves() -> Iterator[None]:
    """The first half of the lines to the first rank, the rest to the second."""
    before = experience_module.deal
    experience_module.deal = lambda lengths, ranks: (
        before(lengths, ranks) if ranks == 1
        else [list(range(len(lengths) // 2)), list(range(len(lengths) // 2, len(lengths)))]
    )  # fmt: skip
    try:
        yield
    finally:
        experience_module.deal = before


CASES = {
    "current": tiny_method(distillation="kl_student_teacher", reference="ufkl"),
    "reference": tiny_method(distillation="jsd", teacher="reference", reference="none"),
    "no pass": tiny_method(outcome="none", distillation="kl_student_teacher", teacher="reference"),
}
OPENED = (6, 12)
AT = {
    "current": Coefficients(alpha=0.3, beta=0.7, rlsd_lambda=0.0),
    "reference": Coefficients(alpha=0.0, beta=0.7, rlsd_lambda=0.0),
    "no pass": Coefficients(alpha=0.0, beta=0.7, rlsd_lambda=0.0),
}


def lopsided(case: str, opened: int) -> Experience:
    """Gates are open from row ``opened`` on; 12 means nowhere."""
    experience = rollouts(0, CASES[case])
    gates = torch.zeros(12, dtype=torch.float64)
    gates[opened:] = 1.0
    return dataclasses.replace(experience, gates=gates)


def lopsided_gradients(one: Policies, case: str, opened: int, prefix: str) -> Tensors:
    one.student.zero_grad(set_to_none=True)
    experience = lopsided(case, opened)
    # A small budget: the ranks need unequal numbers of teacher passes for a micro-batch.
    options = tiny_train(tokens_per_micro_batch=64)
    task = Task(one, experience, CASES[case], AT[case], options, MAX_TOKENS, Path("unused.json"))
    found = {f"{prefix} loss": torch.tensor([accumulate_gradients(task, range(12)).loss], dtype=torch.float64)}
    for name, parameter in one.student.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[f"{prefix} {name}"] = whole(gradient).detach().clone()
    return found


def lopsided_gates(ranks: Ranks, folder: Path) -> None:
    found: Tensors = {}
    for strategy in STRATEGIES:
        for tied in (True, False):
            one = policies(strategy, ranks, tied)
            for case in CASES:
                for opened in OPENED:
                    with halves(), counted_passes(one.student) as student, counted_passes(one.reference) as reference:
                        more = lopsided_gradients(one, case, opened, f"{strategy} {tied} {case} {opened}")
                    found |= more
                    counts = [len(student.seen), len(reference.seen)]
                    assert ranks.values(counts) == [counts] * ranks.size
                    if (case, opened) == ("no pass", 12):
                        assert counts == [0, 0]
                    if case == "reference":
                        # Nobody asks a teacher where no gate is open on any rank.
                        assert (counts[1] > 0) == (opened < 12)
    if ranks.first:
        save_file(found, folder / "gates.safetensors")


def test_gates_closed_on_one_rank_and_open_on_the_other(found: Path) -> None:
    tensors = load_file(found / "gates.safetensors")
    for tied in (True, False):
        one = policies("none", SOLO, tied)
        for case in CASES:
            for opened in OPENED:
                expected = lopsided_gradients(one, case, opened, f"{tied} {case} {opened}")
                for strategy in STRATEGIES:
                    compare({key: tensors.pop(f"{strategy} {key}") for key in expected}, expected)
    assert not tensors


# --- an adapter on weights that are their own reference

FROZEN_TEACHER = tiny_method(distillation="jsd", teacher="reference", reference="ufkl")


def adapted_training(one: Policies, prefix: str) -> Tensors:
    """Three updates with the reference as teacher; then the merged weights, and the reference's log-probs."""
    found, _ = train(one, FROZEN_TEACHER, prefix)
    found |= {f"{prefix} merged {name}": tensor.clone() for name, tensor in full_weights(one.student)}
    x = rollouts(0, FROZEN_TEACHER)
    logprobs = one.sampled_logprobs(one.reference, x, range(4), x.student_prompts, 40)
    return found | {f"{prefix} reference": torch.cat([logprobs[row] for row in range(4)])}


def adapters(ranks: Ranks, folder: Path) -> None:
    found: Tensors = {}
    for strategy in STRATEGIES:
        one = adapted(strategy, ranks, again=strategy == "fsdp2")
        found |= adapted_training(one, strategy)
        optimizer = torch.optim.AdamW(trainable(one.student), lr=1e-2)
        load_checkpoint(folder / "adapter", one.student, optimizer)
        found |= {f"{strategy} loaded {name}": tensor.clone() for name, tensor in full_weights(one.student)}
        save_checkpoint(folder / f"adapter-{strategy}", 2, one.student, optimizer, ranks)
        # The reference's pass comes first, and must not decide that nothing is trained.
        one = adapted(strategy, ranks, moved=False, half=True)
        more, _ = train(one, FROZEN_TEACHER, f"{strategy} half")
        found |= {name: tensor for name, tensor in more.items() if "gradient" in name}
        one = adapted(strategy, ranks, method=AVERAGE)
        more, _ = train(one, AVERAGE, f"{strategy} average")
        found |= more
        optimizer = torch.optim.AdamW(trainable(one.student), lr=1e-2)
        save_checkpoint(folder / f"average-{strategy}", 3, one.student, optimizer, ranks, one.teacher_weights)
        ranks.wait()
        again = adapted(strategy, ranks, method=AVERAGE)
        load_checkpoint(folder / f"average-{strategy}", again.student, None, ranks, again.teacher_weights)
        for name, weight in again.teacher_weights.weights.items():
            assert torch.equal(whole(weight), more[f"{strategy} average teacher {name}"]), name
    if ranks.first:
        save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "adapters.safetensors")


def adapter_checkpoint(folder: Path) -> Policies:
    """Of one process, after an update."""
    one = adapted("none", SOLO)
    optimizer = torch.optim.AdamW(trainable(one.student), lr=1e-2)
    task = Task(one, rollouts(0, FROZEN_TEACHER), FROZEN_TEACHER, AT["reference"], tiny_train(), MAX_TOKENS, Path("-"))
    accumulate_gradients(task, range(12))
    optimizer.step()
    save_checkpoint(folder, 1, one.student, optimizer)
    return one


def test_an_adapter_on_two_ranks_is_trained_as_on_one(found: Path) -> None:
    tensors = load_file(found / "adapters.safetensors")
    expected = adapted_training(adapted("none", SOLO), "")
    average, _ = train(adapted("none", SOLO, method=AVERAGE), AVERAGE, "average")
    for strategy in STRATEGIES:
        compare({key: tensors[f"{strategy}{key}"] for key in expected}, expected)
        compare({key: tensors[f"{strategy} {key}"] for key in average}, average)
        half = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{strategy} half")}
        # At first B is 0, and A has no gradient but 0.
        moved = [bool(tensor.any()) for name, tensor in half.items() if " 0 " not in name or ".lora_B." in name]
        assert len(moved) == 5 * 14 and all(moved)
        assert {tensor.dtype for tensor in half.values()} == {torch.float32}


def test_checkpoints_of_an_adapter_go_from_one_process_to_two_and_back(found: Path) -> None:
    tensors = load_file(found / "adapters.safetensors")
    one = adapter_checkpoint(found / "again")
    for strategy in STRATEGIES:
        for name, value in full_weights(one.student):
            assert torch.equal(tensors[f"{strategy} loaded {name}"], value), name
        for piece in ("model-00000.safetensors", "optimizer-00000.safetensors"):
            saved = load_file(found / f"adapter-{strategy}/checkpoint-000002" / piece)
            expected = load_file(found / "adapter/checkpoint-000001" / piece)
            assert saved.keys() == expected.keys() and all(torch.equal(saved[key], expected[key]) for key in saved)
            assert len(saved) == (28 if piece.startswith("model") else 3 * 28)


# --- what is read without a gradient


def readings(one: Policies) -> Tensors:
    """Log-probs of ten rows by student and reference, and the diagnostic pass over three."""
    method = METHODS["sdpg-ufkl"]
    experience = rollouts(0, method)
    found: Tensors = {}
    for name in ("student", "reference"):
        logprobs = one.sampled_logprobs(getattr(one, name), experience, range(10), experience.student_prompts, 40)
        assert sorted(logprobs) == list(range(10))
        found[name] = torch.cat([logprobs[row] for row in range(10)])
    for rows in ([3, 7, 11], [5]):
        diagnosed = diagnose(one, experience, rows, method, tiny_train())
        assert len(diagnosed) == (5 if one.ranks.first else 0)
        for name, column in diagnosed.items():
            assert column.rows == rows
            found[f"{name} {rows}"] = column.values
    return found


def reading(ranks: Ranks, folder: Path) -> None:
    for strategy in STRATEGIES:
        found = readings(policies(strategy, ranks, tied=False))
        # Every rank has all log-probs, the first one the columns.
        save_file(found, folder / f"{strategy}-{ranks.rank}.safetensors")


def test_logprobs_and_diagnostics_are_those_of_one_process(found: Path) -> None:
    expected = readings(policies("none", SOLO, tied=False))
    for strategy in STRATEGIES:
        compare(load_file(found / f"{strategy}-0.safetensors"), expected, 1e-6)
        logprobs = {name: expected[name] for name in ("student", "reference")}
        compare(load_file(found / f"{strategy}-1.safetensors"), logprobs, 1e-6)


# --- what ranks tell each other


def telling(ranks: Ranks, folder: Path) -> None:
    one, other = (torch.tensor(values, dtype=torch.float64) for values in ([0.1 + 0.2, -1e-300], [7.0]))
    mine = ([0], [2], one) if ranks.first else ([5, 3], [0, 1], other)
    rows = {row: values.tolist() for row, values in ranks.rows(*mine).items()}
    assert rows == {0: [0.1 + 0.2, -1e-300], 5: [], 3: [7.0]}
    assert ranks.rows([], [], torch.zeros(0)) == {}
    assert ranks.values({"rank": ranks.rank, "text": "é", "none": None}) == [
        {"rank": rank, "text": "é", "none": None} for rank in range(2)
    ]
    assert ranks.from_first("first" if ranks.first else "other") == "first"
    assert ranks.total(0.1 * (ranks.rank + 1)) == 0.1 + 0.2
    assert [part.tolist() for part in ranks.tensors(torch.arange(3 * ranks.rank))] == [[], [0, 1, 2]]
    on_first = [part.tolist() for part in ranks.tensors_on_first(torch.arange(3 * ranks.rank))]
    assert on_first == ([[], [0, 1, 2]] if ranks.first else [])
    lopsided = {"a": TokenColumn.of({4: [1.0], 0: [2.0, 3.0]})} if ranks.first else {"b": TokenColumn.of({2: [0.1]})}
    joined = {name: column.lists() for name, column in gather_columns(lopsided, ranks).items()}
    third = torch.tensor(0.1).item()
    assert joined == ({"a": {0: [2.0, 3.0], 4: [1.0]}, "b": {2: [third]}} if ranks.first else {})
    assert gather_columns(join_columns([]), ranks) == {}
    ranks.wait()


def crediting(ranks: Ranks, folder: Path) -> None:
    """Passes are planned by advantages: those of the first rank count, whatever another one makes of its rewards."""
    experience = rollouts(0, METHODS["grpo"])
    verdicts = [Verdict(Status.WRONG, None, float(row % (2 + ranks.rank) == 0)) for row in range(12)]
    reader: Any = SimpleNamespace(
        params=SimpleNamespace(train=tiny_train(), reward=RewardParams()), ranks=ranks, old_logprobs=lambda *_: None,
        method=METHODS["grpo"].model_copy(update={"reference": "none"}),
    )  # fmt: skip
    sampled = Rollouts(**{field.name: getattr(experience, field.name) for field in dataclasses.fields(Rollouts)})
    experience = Trainer.credit(reader, sampled, verdicts, Coefficients(0.0, 0.0, 0.0))
    found = [experience.advantages.tolist(), experience.gates.tolist()]
    assert ranks.values(found) == [found] * 2
    # Every second reward is 1, as on the first rank.
    assert found[1] == [1.0, 0.0] * 6
    # So do the gates of the first rank, though a rule of one's own may differ between ranks.
    GATES["by rank"] = Gate("", lambda row: float(ranks.rank))
    reader.method = reader.method.model_copy(update={"distillation": "jsd", "gate": "by rank"})
    experience = Trainer.credit(reader, sampled, verdicts, Coefficients(0.0, 0.0, 0.0))
    del GATES["by rank"]
    assert experience.gates.tolist() == [0.0] * 12


def test_one_process_alone_tells_itself(found: Path) -> None:
    alone: Any = Ranks()
    assert (
        alone.rows([1], [1], torch.tensor([2.0])) == {1: torch.tensor([2.0])}
        and alone.values("x") == ["x"]
        and alone.total(0.5) == 0.5
    )
