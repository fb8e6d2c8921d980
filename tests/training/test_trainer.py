"""Tests the training loop on a random model of the tiny world, in memory."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from sdpg.errors import Interrupted
from sdpg.evaluation.evaluation import Identity, accuracies, evaluate
from sdpg.files import write_json_lines
from sdpg.models.loading import scratch_model
from sdpg.models.passes import Policies
from sdpg.models.pretraining import pretrain
from sdpg.objective.advantages import group_advantages
from sdpg.objective.coefficients import coefficients
from sdpg.params import Params, load_params, parse_params
from sdpg.params.reward import FormatReward, LengthReward
from sdpg.problems.prepare import prepare
from sdpg.problems.token_pieces import TokenPieces, token_spans
from sdpg.problems.tokenizer import pad_and_eos
from sdpg.records.schemas import read_rollouts
from sdpg.rewards.verifiers import Status, Verifier
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.training.steps import step_prompts
from sdpg.training.trainer import DTYPES, Trainer
from tests.helpers.scratch import scratch_tree
from tests.helpers.tiny import with_teacher

ROOT = Path(__file__).parents[2]


def small(**train: Any) -> Params:
    """params.yaml with a small world, two prompts of four rollouts, and the given changes to ``train``."""
    tree = parse_params(scratch_tree()).model_dump()
    tree["data"]["train"] |= {"families": {"chain-2": 1}, "count": 60}
    tree["data"]["validation_size"] = 4
    for benchmark in tree["data"]["benchmarks"].values():
        benchmark["source"]["count"] = 4
    tree["base"]["model"] |= {"hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate_size": 64}
    tree["base"]["model"] |= {"steps": 60, "batch": 16}
    tree["train"] |= {"steps": 3, "prompts_per_step": 2, "responses_per_prompt": 4, "eval_every": 3}
    tree["train"] |= {"record_every": 1, "record_rows": 4, "lr": 1e-3, **train}
    tree["rollout"]["max_tokens"] = tree["evaluation"]["max_tokens"] = 12
    tree["evaluation"]["samples"] = 2
    # A used key only, as in params.yaml: the dump writes every default.
    tree["methods"] = {
        name: method.model_dump(include=method.model_fields_set)
        for name, method in load_params(ROOT / "params.yaml").methods.items()
    }
    if tree["train"]["updates_per_batch"] > 1:
        for method in tree["methods"].values():
            if method["outcome"] == "reinforce":
                method["outcome"] = "clipped_weight"
    return parse_params(tree)


def make_world() -> tuple[Any, Any]:
    """Prepared data with its tokenizer, and a model that is trained a little, so that rewards vary."""
    params = small()
    prepared = prepare(params)
    source = params.data.train
    assert source.kind == "synthetic" and params.base.model.kind == "scratch"
    held_out = frozenset(row.problem for rows in prepared.benchmarks.values() for row in rows.rows)
    model = pretrain(params.base.model, source.families, params.prompts, prepared.tokenizer, held_out)
    return prepared, model


@pytest.fixture(scope="module")
def world() -> tuple[Any, Any]:
    return make_world()


def trained(
    world: tuple[Any, Any],
    params: Params,
    method: str,
    state: Path,
    on_step: Any = lambda step, metrics: None,
    right: Any = lambda index: index % 2,
    until: int | None = None,
    failed: tuple[int, ...] = (),
) -> Trainer:
    """Trains with rewards of its own: 1 for the rollouts that ``right`` chooses by their index, else -1.

    The verifier gives no verdict on those that ``failed`` names.
    """
    prepared, base = world
    tokenizer = prepared.tokenizer
    student, reference = (scratch_model(params.base.model, tokenizer) for _ in range(2))  # type: ignore[arg-type]
    for model in (student, reference):
        model.load_state_dict(base.state_dict())
    sets = {"chain-3": prepared.benchmarks["chain-3"].rows, "validation": prepared.validation.rows}
    with Verifier(params.reward) as verifier:
        trainer = Trainer(
            params=params,
            name=method,
            method=params.methods[method],
            seed=0,
            state=state,
            policies=with_teacher(
                Policies(
                    student, reference.requires_grad_(False), pad_and_eos(tokenizer)[0], 1.0, DTYPES[params.train.dtype]
                ),
                params.methods[method],
            ),
            tokenizer=tokenizer,
            engine=EmbeddedEngine(student, tokenizer, 64),
            verifier=verifier,
            problems=prepared.train.rows,
            sets=sets,
            base_accuracies=dict.fromkeys(sets, 0.0),
            on_step=on_step,
            until=until,
        )
        # Rewards do not hang on a small model's luck, so that advantages and gates are there to work with.
        score = verifier.score
        trainer.verifier = type("Alternating", (), {"score": staticmethod(
            lambda texts, golds, cut: [
                dataclasses.replace(verdict, reward=1.0 if right(index) else -1.0,
                                    status=Status.TIMEOUT if index in failed else verdict.status)
                for index, verdict in enumerate(score(texts, golds, cut))
            ]
        ), "name": "test", "version": "0"})()  # fmt: skip
        trainer.train()
    return trainer


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.policies.student.parameters()])


def test_recording_cannot_change_training(world: tuple[Any, Any], tmp_path: Path) -> None:
    params = small()
    params = params.model_copy(update={"watch": params.watch.model_copy(update={"top_k": 3})})
    recorded = trained(world, params, "sdpg-ufkl", tmp_path / "on")
    rows = read_rollouts(tmp_path / "on/rollouts/step-000002-rank-0.parquet").to_pylist()
    assert [row["teacher_top"] is None for row in rows] == [row["teacher_logprob"] is None for row in rows]
    top = next(row for row in rows if row["teacher_top"])
    assert len(top["teacher_top"]) == len(top["student_top_logprob"]) == 3 * top["length"]
    silent = trained(world, small(record_rows=0), "sdpg-ufkl", tmp_path / "off")
    assert torch.equal(weights(recorded), weights(silent))
    assert not torch.equal(weights(recorded), weights(trained(world, small(lr=2e-3), "sdpg-ufkl", tmp_path / "lr")))


def test_a_run_that_ends_after_a_step_goes_on_to_the_same_bits(world: tuple[Any, Any], tmp_path: Path) -> None:
    whole = trained(world, small(), "grpo", tmp_path / "whole")
    for until, done in ((1, 1), (1, 1), (2, 2), (1, 2)):
        with pytest.raises(Interrupted, match=f"with {done} of 3 steps done"):
            trained(world, small(), "grpo", tmp_path / "parts", until=until)
        assert len((tmp_path / "parts/digests.csv").read_text().splitlines()) == 1 + done
    assert torch.equal(weights(trained(world, small(), "grpo", tmp_path / "parts", until=3)), weights(whole))
    for name in ("digests.csv", "metrics.csv", "curves.csv"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_measuring_the_gradient_of_each_term_cannot_change_training(world: tuple[Any, Any], tmp_path: Path) -> None:
    logged: dict[int, dict[str, float | None]] = {}
    measured = trained(world, small(gradients_every=2), "sdpg-ufkl", tmp_path / "on", on_step=logged.__setitem__)
    silent = trained(world, small(gradients_every=0), "sdpg-ufkl", tmp_path / "off")
    assert torch.equal(weights(measured), weights(silent))
    assert [step for step in logged if "grad_norm_outcome" in logged[step]] == [1, 2]
    outcome, distillation = (logged[2][f"grad_norm_{term}"] or 0 for term in ("outcome", "distillation"))
    assert outcome > 0 and distillation > 0
    assert abs(logged[2]["grad_cosine_outcome_distillation"] or 0) < 1
    # The terms' norms bound the norm of their sum.
    parts = [logged[2][f"grad_norm_{term}"] or 0 for term in ("outcome", "distillation", "reference")]
    assert (logged[2]["grad_norm"] or 0) <= sum(parts) * 1.0001


def test_rollouts_without_a_verdict_leave_their_group(world: tuple[Any, Any], tmp_path: Path) -> None:
    logged: dict[str, dict[str, float | None]] = {}
    found = {}
    for on_failure in ("drop", "wrong"):
        params = small(steps=1, eval_every=1)
        params = params.model_copy(update={"reward": params.reward.model_copy(update={"on_failure": on_failure})})
        trained(world, params, "grpo", tmp_path / on_failure, failed=(0, 4, 5, 6), right=lambda index: index == 3,
                on_step=lambda step, metrics, name=on_failure: logged.__setitem__(name, metrics))  # fmt: skip
        rows = read_rollouts(tmp_path / on_failure / "rollouts/step-000001-rank-0.parquet").to_pylist()
        assert [row["status"] == "timeout" for row in rows] == [row in (0, 4, 5, 6) for row in range(8)]
        found[on_failure] = [row["advantage"] for row in rows]
    # Of the first group -1, -1, 1 are left: mean -1/3, standard deviation √8/3; of the second group one reward.
    low, high = -1 / 8**0.5, 2 / 2**0.5
    assert params.train.advantage_std == "population"
    assert found["drop"] == pytest.approx([0.0, low * 2, low * 2, high, *[0.0] * 4], abs=1e-5)
    # Of -1, -1, -1, 1 the mean is -1/2, the standard deviation √3/2.
    assert found["wrong"] == pytest.approx([*[-(3**-0.5)] * 3, 3**0.5, *[0.0] * 4], abs=1e-5)
    assert {name: (metrics["status_timeout"], metrics["zero_variance_groups"]) for name, metrics in logged.items()} == {
        "drop": (0.5, 0.5), "wrong": (0.5, 0.5)
    }  # fmt: skip


def test_format_and_length_are_part_of_the_advantage_and_logged_apart(world: tuple[Any, Any], tmp_path: Path) -> None:
    logged: dict[int, dict[str, float | None]] = {}
    params = small(steps=1, eval_every=1)
    parts = {"format": FormatReward(weight=0.25), "length": LengthReward(weight=0.5, free=0.0)}
    params = params.model_copy(update={"reward": params.reward.model_copy(update=parts)})
    trained(world, params, "grpo", tmp_path, on_step=logged.__setitem__)
    rows = read_rollouts(tmp_path / "rollouts/step-000001-rank-0.parquet").to_pylist()
    assert {row["reward"] for row in rows} == {1.0, -1.0} and len({row["length"] for row in rows}) > 1
    for row in rows:
        assert row["reward_format"] == (0.25 if row["extracted_answer"] is not None else 0.0)
        assert row["reward_length"] == pytest.approx(-0.5 * row["length"] / params.rollout.max_tokens)
    for start in (0, 4):
        group = rows[start : start + 4]
        total = torch.tensor([[row["reward"] + row["reward_format"] + row["reward_length"] for row in group]])
        expected = group_advantages(total, params.train.advantage_std, params.train.advantage_eps)[0]
        assert [row["advantage"] for row in group] == pytest.approx(expected.tolist())
    for name in ("reward", "reward_format", "reward_length"):
        assert logged[1][name] == pytest.approx(sum(row[name] for row in rows) / 8)


def test_rows_without_any_term_get_no_training_pass_and_are_recorded(world: tuple[Any, Any], tmp_path: Path) -> None:
    logged: dict[int, dict[str, float | None]] = {}
    # The first group is uniform: all wrong.
    trained(
        world, small(record_rows=8), "alpha0", tmp_path, on_step=logged.__setitem__, right=lambda index: index in (5, 6)
    )
    assert [logged[step]["trained_rows"] for step in (1, 2, 3)] == [4, 4, 4]
    rows = read_rollouts(tmp_path / "rollouts/step-000001-rank-0.parquet").to_pylist()
    for row in rows:
        assert len(row["logprob"]) == len(row["entropy"]) == len(row["kl_to_teacher"]) == row["length"]
        assert row["truncated"] == (row["completion_ids"][-1] != world[0].tokenizer.eos_token_id)
        assert (row["verifier"], row["verifier_version"]) == ("test", "0")
        assert (row["loss"] is None) == (row["weight"] is None) == (row["group"] == 0)
    entropies = [value for row in rows for value in (row["entropy"] if row["loss"] else [
        -logprob for logprob in row["rollout_logprob"]
    ])]  # fmt: skip
    assert logged[1]["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)


def test_a_step_without_any_term_has_a_gradient_of_zero_and_not_none(world: tuple[Any, Any], tmp_path: Path) -> None:
    trainer = trained(world, small(record_rows=0, lr=0.1, lr_warmup=0.0), "alpha0", tmp_path, right=lambda index: False)
    before = torch.cat([p.detach().flatten() for p in world[1].parameters()])
    # Nothing but the weight decay of three steps moves the weights.
    torch.testing.assert_close(weights(trainer), before * (1 - 0.1 * 0.1) ** 3)


@pytest.mark.parametrize("method", list(load_params(ROOT / "params.yaml").methods))
def test_every_method_trains_and_logs(world: tuple[Any, Any], tmp_path: Path, method: str) -> None:
    params = small()
    before = torch.cat([p.detach().flatten() for p in world[1].parameters()])
    logged: dict[int, dict[str, float | None]] = {}
    trainer = trained(world, params, method, tmp_path, on_step=logged.__setitem__)
    assert not torch.equal(weights(trainer), before)
    assert list(logged) == [1, 2, 3]
    assert {"accuracy/chain-3", "accuracy/validation"} <= logged[3].keys()
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    scheduled = [coefficients(params.methods[method], k, 3) for k in (1, 2, 3)]
    assert [float(row["beta"]) for row in rows] == [at.beta for at in scheduled]
    # Empty where no rollout had a term.
    read = [row for row in rows if row["ratio"]]
    assert all(float(row["ratio"]) == pytest.approx(1.0) for row in read), "one update per batch is on-policy"
    assert all(float(row["sampler_mismatch_max"]) < 1e-4 for row in read)
    taught, wants = float(rows[0]["teacher_rows"]) > 0, max(scheduled[0].beta, scheduled[0].rlsd_lambda) > 0
    # A hint from the group may be missing in all groups of a small step.
    assert taught == wants if params.methods[method].hint in ("prompts", "answer") else taught <= wants


def test_only_gated_rows_are_distilled(world: tuple[Any, Any], tmp_path: Path) -> None:
    trained(world, small(), "sdpg-ufkl", tmp_path)
    for row in read_rollouts(tmp_path / "rollouts/step-000001-rank-0.parquet").to_pylist():
        assert row["gate"] == float(row["advantage"] > 0) == float(row["sibling"] % 2)
        assert row["reward"] == (1.0 if row["sibling"] % 2 else -1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"updates_per_batch": 2},
        {"updates_per_batch": 2, "old_logprobs": "rollout"},
        {"updates_per_batch": 2, "ratio_on_all_terms": False, "log_ratio_clamp": 20.0},
        {"normaliser": "constant"},
        {"dtype": "bfloat16"},
    ],
)
@pytest.mark.parametrize("method", ["rlsd", "sdpg-urkl"])
def test_options_of_the_presets_run(
    world: tuple[Any, Any], tmp_path: Path, changes: dict[str, Any], method: str
) -> None:
    params = small(**changes)
    logged: dict[int, dict[str, float | None]] = {}
    trainer = trained(world, params, method, tmp_path, on_step=logged.__setitem__)
    assert torch.isfinite(weights(trainer)).all()
    updates = changes.get("updates_per_batch", 1)
    assert {int(entry["step"]) for entry in trainer.optimizer.state.values()} == {3 * updates}
    # After the first mini-batch the policy has moved away from π_old, and not before.
    assert (abs((logged[3]["ratio"] or 0) - 1) > 1e-5) == (updates > 1)


def test_the_engine_has_the_newest_weights_whenever_it_samples_and_takes_them_over_once_a_step(
    world: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.Tensor] = []
    generate = EmbeddedEngine.generate

    def flat(engine: EmbeddedEngine) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in engine.model.parameters()])

    def sampled(engine: EmbeddedEngine, *arguments: Any) -> Any:
        assert torch.equal(taken[-1], flat(engine))
        return generate(engine, *arguments)

    monkeypatch.setattr(EmbeddedEngine, "sync_weights", lambda engine: taken.append(flat(engine)))
    monkeypatch.setattr(EmbeddedEngine, "generate", sampled)
    trained(world, small(updates_per_batch=2), "sdpg-ufkl", tmp_path)
    assert len(taken) == 1 + 3 and not torch.equal(taken[0], taken[-1])


def test_a_kl_in_the_reward_moves_advantages_of_uniform_groups(world: tuple[Any, Any], tmp_path: Path) -> None:
    # D4: the public code's GRPO; a group of equal rewards gets advantages from the noise of the KL estimate.
    tree = small().model_dump()
    tree["methods"] = {
        name: method.model_dump(include=method.model_fields_set) for name, method in small().methods.items()
    }
    tree["methods"]["grpo"] |= {"reference": "k1", "reference_in": "reward", "alpha": 0.5}
    params = parse_params(tree)
    trainer = trained(world, params, "grpo", tmp_path)
    last = read_rollouts(tmp_path / "rollouts/step-000003-rank-0.parquet").to_pylist()
    first = read_rollouts(tmp_path / "rollouts/step-000001-rank-0.parquet").to_pylist()
    # At step 1 policy and reference are equal and the penalty is 0; later it differs between siblings.
    assert {round(row["advantage"], 4) for row in first} == {1.0, -1.0}
    assert len({round(row["advantage"], 4) for row in last}) > 2
    assert trainer.optimizer.state


def test_steps_take_whole_epochs_in_an_order_of_the_seed() -> None:
    steps = [step_prompts(6, 4, step, 0) for step in range(1, 4)]
    taken = [index for step in steps for index in step]
    assert sorted(taken[:6]) == sorted(taken[6:]) == list(range(6))
    assert taken[:6] != taken[6:]
    assert step_prompts(6, 4, 2, 0) == steps[1] != step_prompts(6, 4, 2, 1)


def test_evaluation_is_reproducible_and_counts_what_it_says(world: tuple[Any, Any]) -> None:
    params = small()
    prepared, model = world
    sets = {"chain-3": prepared.benchmarks["chain-3"].rows}
    engine = EmbeddedEngine(model, prepared.tokenizer, 3)
    identity = Identity("base", "base", 0, 0)
    with Verifier(params.reward) as verifier:
        arguments = (engine, prepared.tokenizer, verifier, sets, params.evaluation, identity)
        rows = evaluate(*arguments, samples=3)
        assert rows == evaluate(*arguments, samples=3)
        greedy = evaluate(*arguments, samples=1, temperature=0.0)
        privileged = evaluate(*arguments, samples=1, as_teacher=True)
        short = params.evaluation.model_copy(update={"max_tokens": 2})
        cut = evaluate(engine, prepared.tokenizer, verifier, sets, short, identity, samples=1)
    # Nobody answers in two tokens.
    assert all(row["truncated"] and row["length"] == 2 for row in cut)
    assert {row["truncated"] for row in rows if row["length"] < params.evaluation.max_tokens} == {False}
    assert [(row["problem_id"], row["sample"]) for row in rows] == [
        (row.id, sample) for row in sets["chain-3"] for sample in range(3)
    ]
    assert {row["temperature"] for row in greedy} == {0.0}
    assert all("Hint" in row["prompt"] for row in privileged)
    right = sum(row["status"] == "correct" for row in rows)
    assert accuracies(rows) == {"chain-3": right / 12}


def test_tokens_point_into_the_completion(world: tuple[Any, Any]) -> None:
    tokenizer = world[0].tokenizer
    for text in ("a=46 b=37 \\boxed{37}", "∫ é 数 🙂 <|im_end|> x", ""):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        completion = tokenizer.decode(ids, skip_special_tokens=True)
        tokens, starts, ends = token_spans(TokenPieces(tokenizer), ids, completion)
        assert len(tokens) == len(starts) == len(ends) == len(ids)
        assert "".join(completion[start:end] for start, end in zip(starts, ends, strict=True)) == completion
        assert tokens[-1] == "<|im_end|>" and starts[-1] == ends[-1] == len(completion)
        assert "".join(tokens[:-1]).replace("<|im_end|>", "") == completion


def test_a_response_that_breaks_off_inside_a_character_keeps_its_spans(world: tuple[Any, Any]) -> None:
    tokenizer = world[0].tokenizer
    ids = [*tokenizer("a🙂", add_special_tokens=False)["input_ids"][:-1], tokenizer.eos_token_id]
    completion = tokenizer.decode(ids, skip_special_tokens=True)
    _, starts, ends = token_spans(TokenPieces(tokenizer), ids, completion)
    assert "�" in completion
    assert "".join(completion[start:end] for start, end in zip(starts, ends, strict=True)) == completion


def test_a_prepared_file_with_a_damaged_row_is_named(tmp_path: Path) -> None:
    from sdpg.errors import UserError
    from sdpg.problems.prompts import read_prepared

    write_json_lines(tmp_path / "train.jsonl", [{"id": "1"}])
    with pytest.raises(UserError, match=r"train.jsonl, line 1: not a prepared problem \(answer is missing"):
        read_prepared(tmp_path / "train.jsonl")
