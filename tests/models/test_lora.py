"""Tests what an adapted policy computes against W + s·B·A by hand, and that the base inside it is the base."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

from peft import PeftModel
import pytest
import torch

from sdpg.errors import UserError
from sdpg.models.adapters import WithoutAdapter, adapter_off, add_adapter, check_adapter, full_weights, save_adapter
from sdpg.models.batches import token_batch
from sdpg.models.distribution import checkpoint_activations
from sdpg.models.loading import response_logits, take_over, trainable
from sdpg.models.passes import Policies
from sdpg.objective.losses import reference_term
from sdpg.params import load_params, parse_params, read_yaml
from sdpg.params.lora import LoraParams
from sdpg.rollouts.model_weights import named_weights
from sdpg.training.diagnostics import diagnose
from tests.helpers.adapted import LORA, SCALE, ByHand, adapted_model, adapted_policies
from tests.helpers.plain_update import AT, METHODS, SEVERAL, gate_kind, plain_loss, run, switched_on, update
from tests.helpers.tiny import counted_passes, gradients, tiny_experience, tiny_method, tiny_model, tiny_train

ROOT = Path(__file__).parents[2]
BATCH = token_batch([[3, 4, 5, 6], [7, 8]], [[9, 10, 1], [11, 12, 13, 1]], 0, torch.device("cpu"))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return response_logits(model, BATCH)


def base_logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return logits(tiny_model(0, dtype))


# --- the base inside


def test_training_starts_at_the_base_and_the_kl_to_the_reference_is_zero() -> None:
    policies, experience = adapted_policies(torch.float32, moved=False), tiny_experience()
    assert torch.equal(logits(policies.student), base_logits(torch.float32))
    rows = range(len(experience.responses))
    student, reference = (
        policies.sampled_logprobs(model, experience, rows, experience.student_prompts, 100)
        for model in (policies.student, policies.reference)
    )
    for row in rows:
        assert torch.equal(student[row], reference[row])
        assert reference_term(student[row], reference[row], "k3").abs().max() == 0


def test_the_reference_stays_the_base_to_the_last_bit_while_the_student_moves() -> None:
    policies = adapted_policies(torch.float32, moved=False)
    frozen = {name: p.clone() for name, p in policies.student.named_parameters() if not p.requires_grad}
    expected = base_logits(torch.float32)
    optimizer = torch.optim.AdamW(trainable(policies.student), lr=1e-2, weight_decay=0.1)
    method = METHODS["sdpg-ufkl"]
    for seed in range(3):
        optimizer.zero_grad()
        run(policies, tiny_experience(seed=seed), method, switched_on(method), tiny_train())
        optimizer.step()
        assert torch.equal(logits(policies.reference), expected)
    assert (logits(policies.student) - expected).abs().max() > 1e-2
    for name, parameter in policies.student.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None and torch.equal(parameter, frozen[name]), name
    assert {name.split(".")[-3] for name, p in policies.student.named_parameters() if p.requires_grad} == {
        "lora_A", "lora_B"
    }  # fmt: skip


def test_after_a_pass_of_the_reference_that_fails_the_adapter_is_on_and_trained() -> None:
    model = adapted_model()
    expected, names = logits(model), [p.requires_grad for p in model.parameters()]
    with pytest.raises(RuntimeError, match="stop"), adapter_off(model):
        assert torch.equal(logits(model), base_logits())
        # Frozen meanwhile, the weights of a shard would never get a gradient.
        assert [p.requires_grad for p in model.parameters()] == names
        raise RuntimeError("stop")
    assert torch.equal(logits(model), expected)
    assert [p.requires_grad for p in model.parameters()] == names
    with counted_passes(model) as passes:
        WithoutAdapter(model)(input_ids=torch.tensor([[3]]))
    assert [one.with_gradient for one in passes.seen] == [False]
    with pytest.raises(IndexError):
        WithoutAdapter(model)(input_ids=torch.tensor([[10_000]]))
    assert torch.equal(logits(model), expected)


# --- gradients


def by_hand(policies: Policies) -> tuple[Policies, ByHand]:
    student = ByHand(policies.student)
    return Policies(student, tiny_model(0, torch.float64), 0, 1.0), student


@pytest.mark.parametrize("method", [*SEVERAL.items(), ("frozen teacher", None)], ids=lambda item: item and item[0])
def test_the_gradient_of_every_method_is_that_of_the_merged_weights(method: Any) -> None:
    name, values = method
    if values is None:
        values = tiny_method(distillation="jsd", teacher="reference", reference="urkl")
    policies, at = adapted_policies(), switched_on(values)
    experience = tiny_experience(gate_kind=gate_kind(values))
    expected, student = by_hand(policies)
    loss = plain_loss(expected, experience, values, at, tiny_train())
    loss.backward()
    found = run(policies, experience, values, at, tiny_train())[0]
    assert found == pytest.approx(loss.item(), rel=1e-6)
    parameters = {n: p for n, p in policies.student.named_parameters() if p.requires_grad}
    assert parameters.keys() == student.leaves.keys() and len(parameters) == 2 * 2 * 7
    for key, parameter in parameters.items():
        gradient, wanted = parameter.grad, student.leaves[key].grad
        assert gradient is not None and wanted is not None and wanted.norm() > 1e-6, name
        assert (gradient - wanted).norm() / wanted.norm() < 1e-6, key


def test_layers_that_are_computed_again_have_the_adapter_on_as_they_had_it_first() -> None:
    method = tiny_method(distillation="kl_student_teacher", teacher="reference", reference="ufkl")
    expected = adapted_policies()
    run(expected, tiny_experience(), method, AT, tiny_train())
    policies = adapted_policies()
    checkpoint_activations(policies.student)
    run(policies, tiny_experience(), method, AT, tiny_train())
    assert torch.equal(gradients(policies.student), gradients(expected.student))
    # A pass of the reference between a forward pass and its backward pass.
    found = []
    for between in (False, True):
        policies.student.zero_grad()
        loss = response_logits(policies.student, BATCH).square().sum()
        if between:
            assert torch.equal(logits(policies.reference), base_logits())
        loss.backward()
        found.append(gradients(policies.student))
    assert torch.equal(*found)


def test_the_reference_reads_no_second_model_and_the_diagnostic_pass_sees_both() -> None:
    policies, experience = adapted_policies(), tiny_experience()
    method = tiny_method(distillation="kl_student_teacher", teacher="reference", reference="ufkl")
    apart = dataclasses.replace(policies, reference=tiny_model(0, torch.float64).requires_grad_(False))
    with counted_passes(policies.student) as passes:
        found = diagnose(policies, experience, [1, 5, 9], method, tiny_train())
    assert passes.seen and not any(one.with_gradient for one in passes.seen)
    expected = diagnose(apart, experience, [1, 5, 9], method, tiny_train())
    lists = {name: column.lists() for name, column in expected.items()}
    assert lists["teacher_logprob"][5] != lists["ref_logprob"][5] != lists["logprob"][5]
    assert {name: column.lists() for name, column in found.items()} == lists
    trained = update(policies, experience, method, AT, tiny_train())[0].columns["ref_logprob"].lists()
    assert trained[5] == pytest.approx(lists["ref_logprob"][5], abs=1e-6)


# --- what engines and files get


def test_engines_get_merged_weights_under_the_bases_names() -> None:
    model = adapted_model()
    before = [p.clone() for p in model.parameters()]
    merged, expected = dict(full_weights(model)), ByHand(model).weights()
    assert list(merged) == [name for name, _ in tiny_model().named_parameters()]
    for name, value in expected.items():
        torch.testing.assert_close(merged[name], value.detach(), rtol=0, atol=1e-15, msg=name)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    # peft's own product of A and B.
    layer = model.model.layers[0].mlp.down_proj
    delta = merged["model.layers.0.mlp.down_proj.weight"] - layer.base_layer.weight
    torch.testing.assert_close(delta, layer.get_delta_weight("default"), rtol=1e-9, atol=1e-15)
    other = tiny_model(3, torch.float64)
    take_over(other, full_weights(model))
    torch.testing.assert_close(logits(other), logits(model), rtol=1e-9, atol=1e-10)
    assert (logits(other) - base_logits()).abs().max() > 1e-2
    # vLLM is also given a tied head.
    assert list(dict(named_weights(model))) == [*merged, "lm_head.weight"]


def test_peft_reads_the_adapter_that_was_written(tmp_path: Path) -> None:
    model = adapted_model(lora=LoraParams(rank=3, alpha=6, target_modules=["q_proj", "mlp.up_proj"]))
    save_adapter(model, tmp_path / "adapter")
    again: Any = PeftModel.from_pretrained(tiny_model(0, torch.float64), str(tmp_path / "adapter"))
    again = again.base_model.model
    assert torch.equal(logits(again), logits(model)) and not torch.equal(logits(model), base_logits())
    assert not trainable(again)


# --- what it is made of


def test_the_adapter_depends_on_the_seed_alone() -> None:
    def drawn(seed: int) -> list[torch.Tensor]:
        model = tiny_model()
        add_adapter(model, LORA, seed)
        return [parameter.clone() for parameter in trainable(model)]

    state = torch.random.get_rng_state()
    one, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert [bool(a.any()) for a in one] == [True, False] * 14
    assert not torch.equal(one[0], other[0])


def test_chosen_modules_alone_get_an_adapter_of_the_given_size() -> None:
    model = tiny_model()
    add_adapter(model, LoraParams(rank=5, alpha=10, target_modules=["o_proj", "layers.1.mlp.gate_proj"]), 0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    layer = "model.layers.{}.{}.lora_{}.default.weight".format
    assert shapes == {
        layer(0, "self_attn.o_proj", "A"): (5, 32), layer(0, "self_attn.o_proj", "B"): (32, 5),
        layer(1, "self_attn.o_proj", "A"): (5, 32), layer(1, "self_attn.o_proj", "B"): (32, 5),
        layer(1, "mlp.gate_proj", "A"): (5, 32), layer(1, "mlp.gate_proj", "B"): (64, 5),
    }  # fmt: skip
    assert model.model.layers[1].mlp.gate_proj.scaling == {"default": SCALE}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("qproj", "has 'qproj', which this model does not have"),
        ("lm_head", "has 'lm_head', which is lm_head"),
        ("embed_tokens", "has 'embed_tokens', which is model.embed_tokens"),
        ("mlp", r"has 'mlp', which is model\.layers\.0\.mlp"),
    ],
)
def test_a_target_that_cannot_have_an_adapter_is_refused_before_anything_is_loaded(target: str, words: str) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["train"]["lora"] = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", target]}
    there = r".*There are: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; or all-linear"
    with pytest.raises(UserError, match=rf"train\.lora\.target_modules {words}{there}"):
        check_adapter(parse_params(tree))
    tree["train"]["lora"]["target_modules"] = "all-linear"
    check_adapter(parse_params(tree))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 0, "alpha": 8}, r"train\.lora\.rank"),
        ({"rank": 4, "alpha": 8, "dropout": 0.1}, r"train\.lora\.dropout: unknown key"),
        ({"rank": 4, "alpha": 8, "target_modules": []}, r"train\.lora\.target_modules"),
    ],
)
def test_values_that_make_no_adapter_are_refused(values: dict[str, Any], words: str) -> None:
    tree = copy.deepcopy(read_yaml(ROOT / "params.yaml"))
    tree["train"]["lora"] = values
    with pytest.raises(UserError, match=words):
        parse_params(tree)


def test_all_weights_are_trained_unless_an_adapter_is_asked_for() -> None:
    assert load_params(ROOT / "params.yaml").train.lora is None
    model = tiny_model()
    assert len(trainable(model)) == len(list(model.parameters()))
