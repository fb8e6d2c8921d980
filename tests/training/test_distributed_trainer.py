"""Tests a run on two gloo ranks: the loop, its files, checkpoints, resuming, precision, memory, sampling."""

from collections.abc import Iterator
from contextlib import contextmanager
import copy
import dataclasses
import functools
from pathlib import Path
import shutil
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
import torch
from torch import distributed

from sdpg.models.adapters import full_weights
from sdpg.models.distribution import checkpoint_activations, replicate, shard
from sdpg.models.loading import scratch_model
from sdpg.models.passes import Policies
from sdpg.models.ranks import SOLO, Ranks, whole
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.coefficients import Coefficients
from sdpg.params import Params
from sdpg.problems.prepare import prepare
from sdpg.problems.tokenizer import pad_and_eos
from sdpg.records.schemas import read_evaluations, read_rollouts
from sdpg.rewards.verifiers import Verifier
from sdpg.rollouts import Sampling
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.shared import SharedEngine, SharedVerifier
from sdpg.training.checkpoints import load_checkpoint, save_checkpoint
from sdpg.training.trainer import Trainer
from sdpg.training.update import Task, accumulate_gradients
from tests.helpers.tiny import MAX_TOKENS, counted_passes, gradients, tiny_experience, tiny_method, tiny_train
from tests.helpers.two_ranks import STRATEGIES, Tensors, model, on_two_ranks, plugin, policies
from tests.training.test_hints_run import sharded
from tests.training.test_trainer import small

METHOD = tiny_method(distillation="kl_student_teacher", reference="ufkl")


def optimizer_of(one: Policies) -> torch.optim.AdamW:
    return torch.optim.AdamW(one.student.parameters(), lr=1e-2, weight_decay=0.1)


def update(one: Policies, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One update on rollouts that depend on the step alone; returns its loss."""
    optimizer.zero_grad(set_to_none=True)
    task = Task(
        one, tiny_experience(seed=step), METHOD, Coefficients(0.3, 0.7, 0.0), tiny_train(tokens_per_micro_batch=128),
        MAX_TOKENS, Path("unused.json"),
    )  # fmt: skip
    loss = accumulate_gradients(task, range(12)).loss
    optimizer.step()
    return loss


def everything_of(one: Policies, optimizer: torch.optim.Optimizer) -> Tensors:
    """Weights and optimiser state, whole."""
    found = {f"weight {name}": tensor.clone() for name, tensor in full_weights(one.student)}
    for index, entries in optimizer.state_dict()["state"].items():
        found |= {f"{index} {name}": whole(value).clone() for name, value in entries.items()}
    return found


# --- what the ranks do, in one go


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    one = policies("none", SOLO)
    optimizer = optimizer_of(one)
    update(one, optimizer, 1)
    save_checkpoint(folder / "solo", 1, one.student, optimizer)
    on_two_ranks(everything, folder)
    return folder


def everything(ranks: Ranks, folder: Path) -> None:
    for part in (checkpoints, precision, activations, sampling, sharded, loops):
        part(ranks, folder)


def checkpoints(ranks: Ranks, folder: Path) -> None:
    for strategy in STRATEGIES:
        one = policies(strategy, ranks)
        optimizer = optimizer_of(one)
        assert load_checkpoint(folder / "solo", one.student, optimizer) == 1
        loaded = everything_of(one, optimizer)
        update(one, optimizer, 2)
        save_checkpoint(folder / strategy, 2, one.student, optimizer, ranks)
        ranks.wait()
        after = everything_of(one, optimizer)
        again = policies(strategy, ranks)
        other = optimizer_of(again)
        assert load_checkpoint(folder / strategy, again.student, other) == 2
        for name, value in everything_of(again, other).items():
            assert torch.equal(value, after[name]), name
        if ranks.first:
            save_file(loaded, folder / f"{strategy}-loaded.safetensors")
            save_file(after, folder / f"{strategy}-after.safetensors")


def precision(ranks: Ranks, folder: Path) -> None:
    for strategy in STRATEGIES:
        one = policies(strategy, ranks, dtype=torch.float32) if strategy == "ddp" else half(ranks)
        one.dtype = torch.bfloat16
        seen: list[torch.dtype] = []
        layer = one.student.model.layers[0].mlp.down_proj
        layer.register_forward_hook(lambda *arguments, seen=seen: seen.append(arguments[-1].dtype))
        optimizer = optimizer_of(one)
        loss = update(one, optimizer, 1)
        assert set(seen) == {torch.bfloat16}
        for parameter in one.student.parameters():
            assert parameter.dtype == torch.float32 and parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
        assert {value.dtype for entries in optimizer.state.values() for value in entries.values()} == {torch.float32}
        if ranks.first:
            (folder / f"{strategy}-loss").write_text(repr(loss))


def half(ranks: Ranks) -> Policies:
    """Shards that are gathered in bfloat16."""
    one = policies("none", ranks, dtype=torch.float32)
    for part in (one.student, one.reference):
        shard(part, torch.device("cpu"), torch.bfloat16, plugin())
    return one


def activations(ranks: Ranks, folder: Path) -> None:
    for strategy in STRATEGIES:
        one = policies("none", ranks)
        checkpoint_activations(one.student)
        if strategy == "ddp":
            one.replica = replicate(one.student)
        else:
            for part in (one.student, one.reference):
                shard(part, torch.device("cpu"), torch.float32, plugin())
        with counted_traffic() as traffic, counted_passes(one.student) as student, counted_passes(one.reference) as ref:
            update(one, optimizer_of(one), 1)
        if strategy == "fsdp2":
            # As the planner has it: all weights once a pass and once more for its backward pass, not for computing
            # layers again; all gradients once a backward pass.
            count = sum(parameter.numel() for parameter in one.student.parameters())
            both = sum(seen.with_gradient for seen in student.seen)
            assert 0 < both < len(student.seen)
            assert traffic == {
                "gathered": count * (len(student.seen) + len(ref.seen) + both), "reduced": count * both,
            }  # fmt: skip
        found = {name: tensor.clone() for name, tensor in full_weights(one.student)}
        if ranks.first:
            save_file(found, folder / f"{strategy}-activations.safetensors")


@contextmanager
def counted_traffic() -> Iterator[dict[str, int]]:
    """Numbers that shards gather and reduce; the rest of the world goes through other calls."""
    found = {"gathered": 0, "reduced": 0}
    gather, reduce = distributed.all_gather_single, distributed.reduce_scatter_single

    def gathering(output_tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        found["gathered"] += output_tensor.numel()
        return gather(output_tensor, *arguments, **options)

    def reducing(output: torch.Tensor, input: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        found["reduced"] += input.numel()
        return reduce(output, input, *arguments, **options)

    distributed.all_gather_single, distributed.reduce_scatter_single = gathering, reducing
    try:
        yield found
    finally:
        distributed.all_gather_single, distributed.reduce_scatter_single = gather, reduce


class Heard(EmbeddedEngine):
    """Remembers the seeds that it was given."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seeds: list[int] = []

    def generate(self, prompts: Any, sampling: Sampling, progress: Any = lambda finished: None) -> Any:
        self.seeds.append(sampling.seed)
        return super().generate(prompts, sampling, progress)


def sampling(ranks: Ranks, folder: Path) -> None:
    """Sharded weights, taken over by a module of its own on each rank."""
    one = policies("fsdp2", ranks, dtype=torch.float32)
    tokenizer: Any = type("Ids", (), {"eos_token_id": 1, "pad_token_id": 0})()
    source = functools.partial(full_weights, one.student)
    engine = SharedEngine(Heard(model(True, 9, torch.float32), tokenizer, 4, source), ranks)
    engine.sync_weights()
    greedy = engine.generate(PROMPTS, Sampling(0.0, 1.0, 8, 3))
    drawn = engine.generate(PROMPTS, Sampling(1.0, 1.0, 8, 3))
    assert drawn == engine.generate(PROMPTS, Sampling(1.0, 1.0, 8, 3))
    assert drawn != engine.generate(PROMPTS, Sampling(1.0, 1.0, 8, 4))
    as_values = [[dataclasses.asdict(completion) for completion in some] for some in (greedy, drawn)]
    assert ranks.values(as_values) == [as_values] * 2
    # Equal seeds would give a prompt's siblings the numbers of another prompt's on the other rank.
    assert isinstance(engine.engine, Heard)
    per_rank = ranks.values(engine.engine.seeds)
    assert len(per_rank[0]) == 4 and not set(per_rank[0]) & set(per_rank[1])
    assert per_rank[0][1] == per_rank[0][2] != per_rank[0][3]
    if ranks.first:
        ids = {f"{index}": torch.tensor(completion.ids) for index, completion in enumerate(greedy)}
        save_file(ids, folder / "greedy.safetensors")


PROMPTS = [[3, 4, 5], [3, 4, 5], [6, 7], [8], [8], [9, 10, 11, 12], [3, 4, 5]]


def loops(ranks: Ranks, folder: Path) -> None:
    params = small(steps=3, checkpoint_every=1, record_rows=3, gradients_every=2)
    for strategy in STRATEGIES:
        copy = functools.partial(copied, folder / strategy, folder / f"{strategy}-cut")
        trained(params, ranks, strategy, folder / strategy / "state", copy if ranks.first else ignored)
        ranks.wait()
        # From the checkpoint of step 2, with records of step 3 already there.
        trained(params, ranks, strategy, folder / f"{strategy}-cut" / "state", ignored)
        ranks.wait()


def ignored(step: int, metrics: Any) -> None: ...


def copied(source: Path, target: Path, step: int, metrics: Any) -> None:
    if step == 3:
        shutil.copytree(source, target)


def trained(params: Params, ranks: Ranks, strategy: str, state: Path, on_step: Any) -> Trainer:
    """The trainer's own loop on a random model and a teacher of its own, with rewards that vary."""
    prepared = prepare(params)
    tokenizer = prepared.tokenizer
    torch.manual_seed(0)
    student = scratch_model(params.base.model, tokenizer)  # type: ignore[arg-type]
    reference, teacher, sampler = (copy.deepcopy(student) for _ in range(3))
    weights = None
    if strategy == "fsdp2":
        for part in (student, reference, teacher):
            shard(part.requires_grad_(part is student), torch.device("cpu"), torch.float32, plugin())
        weights = functools.partial(full_weights, student)
    replica = replicate(student) if strategy == "ddp" else None
    method = params.methods["sdpg-ufkl"].model_copy(update={"teacher": "ema", "teacher_rate": 0.3})
    sets = {"chain-3": prepared.benchmarks["chain-3"].rows, "validation": prepared.validation.rows}
    with Verifier(params.reward) as verifier:
        trainer = Trainer(
            params=params, name="sdpg-ufkl", method=method, seed=0, state=state,
            policies=Policies(
                student, reference.requires_grad_(False), pad_and_eos(tokenizer)[0], 1.0, ranks=ranks, replica=replica,
                teacher_weights=TeacherWeights(method, student, teacher.requires_grad_(False), 0.0),
            ),
            tokenizer=tokenizer,
            engine=SharedEngine(EmbeddedEngine(sampler if weights else student, tokenizer, 64, weights), ranks),
            verifier=SharedVerifier(Alternating(verifier), ranks),
            problems=prepared.train.rows, sets=sets, base_accuracies=dict.fromkeys(sets, 0.0), on_step=on_step,
        )  # fmt: skip
        trainer.train()
    return trainer


class Alternating:
    """Every second reward of a rank is 1."""

    name, version = "test", "0"

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    def score(self, *arguments: Any) -> Any:
        verdicts = self.verifier.score(*arguments)
        return [
            dataclasses.replace(verdict, reward=1.0 if index % 2 else -1.0) for index, verdict in enumerate(verdicts)
        ]


# --- what came of it


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_one_process_loads_on_two_to_the_last_bit(found: Path, strategy: str) -> None:
    one = policies("none", SOLO)
    optimizer = optimizer_of(one)
    load_checkpoint(found / "solo", one.student, optimizer)
    expected = everything_of(one, optimizer)
    loaded = load_file(found / f"{strategy}-loaded.safetensors")
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_checkpoint_of_two_processes_loads_on_one_to_the_last_bit_and_goes_on(found: Path, strategy: str) -> None:
    one = policies("none", SOLO)
    optimizer = optimizer_of(one)
    assert load_checkpoint(found / strategy, one.student, optimizer) == 2
    after = load_file(found / f"{strategy}-after.safetensors")
    loaded = everything_of(one, optimizer)
    assert loaded.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in loaded.items())
    # What one process makes of the same two updates.
    other = policies("none", SOLO)
    alone = optimizer_of(other)
    update(other, alone, 1)
    update(other, alone, 2)
    for name, value in everything_of(other, alone).items():
        torch.testing.assert_close(loaded[name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_passes_in_bfloat16_keep_float32_masters_and_nearly_the_loss(found: Path, strategy: str) -> None:
    one = policies("none", SOLO, dtype=torch.float32)
    expected = update(one, optimizer_of(one), 1)
    assert float((found / f"{strategy}-loss").read_text()) == pytest.approx(expected, rel=0.05)
    assert float((found / f"{strategy}-loss").read_text()) != expected


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_activation_checkpointing_changes_nothing_on_two_ranks(found: Path, strategy: str) -> None:
    one = policies("none", SOLO)
    update(one, optimizer_of(one), 1)
    weights = load_file(found / f"{strategy}-activations.safetensors")
    for name, value in full_weights(one.student):
        torch.testing.assert_close(weights[name], value, rtol=1e-9, atol=1e-9, msg=name)


def test_activation_checkpointing_computes_layers_again_and_the_same_gradient() -> None:
    expected = policies("none", SOLO)
    plain = optimizer_of(expected)
    update(expected, plain, 1)
    one = policies("none", SOLO)
    calls: list[bool] = []
    # Early in the layer: computing again ends with the last value that the backward pass needs.
    layer = one.student.model.layers[1].self_attn.q_proj
    layer.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    checkpoint_activations(one.student)
    with counted_passes(one.student) as passes:
        update(one, optimizer_of(one), 1)
    with_gradient = sum(seen.with_gradient for seen in passes.seen)
    assert sum(calls) == 2 * with_gradient
    assert len(calls) - sum(calls) == len(passes.seen) - with_gradient
    assert torch.equal(gradients(one.student), gradients(expected.student))


def test_greedy_answers_of_sharded_weights_are_those_of_one_process(found: Path) -> None:
    one = policies("none", SOLO, dtype=torch.float32)
    tokenizer: Any = type("Ids", (), {"eos_token_id": 1, "pad_token_id": 0})()
    engine = EmbeddedEngine(one.student, tokenizer, 4)
    ids = load_file(found / "greedy.safetensors")
    expected = engine.generate(PROMPTS, Sampling(0.0, 1.0, 8, 3))
    assert [ids[f"{index}"].tolist() for index in range(len(PROMPTS))] == [completion.ids for completion in expected]


def files(folder: Path) -> Iterator[str]:
    return (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_rank_writes_every_rollout_and_every_answer(found: Path, strategy: str) -> None:
    state = found / strategy / "state"
    assert list(files(state / "rollouts")) == [f"step-{step:06d}-rank-0.parquet" for step in (1, 2, 3)]
    for step in (1, 2, 3):
        rows = read_rollouts(state / f"rollouts/step-{step:06d}-rank-0.parquet").to_pylist()
        assert [(row["group"], row["sibling"]) for row in rows] == [(g, s) for g in range(2) for s in range(4)]
        # α is at work, so every row was trained on, by either rank.
        assert all(len(row["loss"]) == len(row["logprob"]) == row["length"] for row in rows)
    recorded = read_rollouts(state / "rollouts/step-000001-rank-0.parquet").to_pylist()
    assert sum(row["kl_to_teacher"] is not None for row in recorded) == 3
    answers = read_evaluations(state / "evaluations/step-000003.parquet").to_pylist()
    assert len(answers) == (4 + 4) * 2
    lines = (state / "metrics.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3"]
    assert len((state / "timing.csv").read_text().splitlines()) == 4
    assert [line.split(",")[0] for line in (state / "curves.csv").read_text().splitlines()] == ["step", "0", "3"]


def test_replicas_and_shards_tell_the_same_story(found: Path) -> None:
    ddp, fsdp2 = (
        [line.split(",") for line in (found / strategy / "state/metrics.csv").read_text().splitlines()]
        for strategy in STRATEGIES
    )
    # The first step is made from equal weights; later ones may sample another token by a rounding.
    names = ddp[0]
    for name, one, other in zip(names, ddp[1], fsdp2[1], strict=True):
        assert (one == "") == (other == ""), name
        if one:
            assert float(one) == pytest.approx(float(other), rel=1e-3, abs=1e-5), name


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_of_two_ranks_goes_on_from_a_checkpoint_to_the_same_bits(found: Path, strategy: str) -> None:
    """The second run was cut after its checkpoint of step 2, with the records of step 3 half there."""
    whole_run, resumed = (found / name / "state" for name in (strategy, f"{strategy}-cut"))
    for name in ("model-00000.safetensors", "optimizer-00000.safetensors", "teacher-00000.safetensors"):
        one, other = ((folder / "checkpoint-000003" / name).read_bytes() for folder in (whole_run, resumed))
        assert one == other
    for name in ("metrics.csv", "curves.csv"):
        assert (whole_run / name).read_text() == (resumed / name).read_text()
