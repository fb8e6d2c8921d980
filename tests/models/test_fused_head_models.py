"""Tests the exact head inside models (tied, biased, sharded), and against TRL's functions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
import torch
from torch import Tensor, distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdpg.models.batches import TokenBatch, token_batch
from sdpg.models.fused_head import Teacher, TokenLoss, TokenValues, fused_head
from sdpg.models.loading import response_hidden, response_logits, with_head
from tests.helpers.direct_head import Inputs, Results, direct_values, divergence_named, example, fused, results, sizes
from tests.helpers.tiny import PAD, VOCAB, gradients, tiny_model

TEMPERATURE, TEACHER_TEMPERATURE = 0.8, 1.2


# --- TRL's kernels, which compute one of the values at a time and each logit a second time for the gradients


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The module of TRL's divergence; the import takes seconds."""
    return pytest.importorskip("trl.kernels.chunked_divergence", reason="TRL ≥ 1.16 is not installed")


@pytest.fixture(params=[1.0, 0.7])
def case(request: pytest.FixtureRequest) -> Inputs:
    """30 tokens, all scored, at one temperature, as TRL has it."""
    inputs = example(count=30, words=50, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    states = torch.randn(30, 3, generator=generator)
    teacher = replace(inputs.teacher, tokens=torch.arange(30), hidden=states, temperature=request.param)
    return replace(inputs, temperature=request.param, teacher=teacher)


def by_autograd(inputs: Inputs, value: Tensor, slopes: Tensor) -> dict[str, Tensor]:
    """The gradients of Σ slope · value."""
    (slopes * value).sum().backward()
    return {name: leaf.grad for name, leaf in zip(("hidden", "weight", "bias"), inputs.leaves, strict=True)}


def assert_equal(found: Results, expected: Results, size: Results) -> None:
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-6 * size[name].norm(), name


@pytest.mark.parametrize("chunk_size", [16, 50])
def test_equals_the_logprobs_and_entropies_of_trl(kernels: Any, case: Inputs, chunk_size: int) -> None:
    function = pytest.importorskip("trl.kernels").ChunkedLogProbFunction
    case = replace(case, teacher=None)
    slopes = torch.linspace(-1, 1, 60).view(2, 30)

    def loss(order: Tensor, values: TokenValues) -> Tensor:
        return slopes[0, order] * values.logprobs + slopes[1, order] * values.entropy

    other = case.to(torch.float32)
    logprobs, entropy, *_ = function.apply(
        *other.leaves, case.ids, case.temperature, chunk_size, None, 1.0, ("entropy",)
    )
    expected = {"logprobs": logprobs.detach(), "entropy": entropy.detach()}
    expected |= by_autograd(other, torch.stack([logprobs, entropy]), slopes)
    found = results(case.to(torch.float32), lambda inputs: fused(inputs, loss, 2000))
    assert_equal(found, expected, sizes(case, loss))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("kind", "jsd_beta", "beta"),
    [("kl_teacher_student", 0.5, 0.0), ("kl_student_teacher", 0.5, 1.0), ("jsd", 0.3, 0.3), ("jsd", 0.8, 0.8)],
)
def test_equals_the_divergences_of_trl(
    kernels: Any, case: Inputs, kind: Any, jsd_beta: float, beta: float, shared: bool
) -> None:
    assert case.teacher is not None
    teacher = replace(case.teacher, divergence=divergence_named(kind, jsd_beta))
    if shared:
        teacher = replace(teacher, hidden=case.hidden.detach().roll(1, 0), head=None)
    case = replace(case, teacher=teacher)
    slopes = torch.linspace(-1, 2, 30)

    def loss(order: Tensor, values: TokenValues) -> Tensor:
        return slopes[order] * values.divergence

    other = case.to(torch.float32)
    head = (other.weight, other.bias) if shared else (teacher.head.weight, teacher.head.bias)
    divergence, entropy = kernels.ChunkedDivergenceFunction.apply(
        *other.leaves, teacher.hidden, *(part.detach() for part in head), beta, case.temperature
    )
    expected = {"divergence": divergence.detach(), "entropy": entropy.detach()}
    expected |= by_autograd(other, divergence, slopes)
    found = results(case.to(torch.float32), lambda inputs: fused(inputs, loss, 2000))
    assert_equal(found, expected, sizes(case, loss))


# --- the head of a model


def model(tied: bool, seed: int = 0) -> Qwen3ForCausalLM:
    """A tiny Qwen3 in float64."""
    found = tiny_model(seed, torch.float64)
    if not tied:
        config = Qwen3Config(**(found.config.to_dict() | {"tie_word_embeddings": False}))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found = Qwen3ForCausalLM(config).double()
    assert (found.lm_head.weight is found.model.embed_tokens.weight) == tied
    return found


def batch(rows: list[int]) -> TokenBatch:
    """Those of four ragged sequences."""
    generator = torch.Generator().manual_seed(5)
    lengths = [(3, 6), (5, 1), (2, 9), (4, 4)]
    ids = [torch.randint(2, VOCAB, (a + b,), generator=generator).tolist() for a, b in lengths]
    pairs = [(ids[row][: lengths[row][0]], ids[row][lengths[row][0] :]) for row in rows]
    return token_batch([prompt for prompt, _ in pairs], [response for _, response in pairs], PAD)


def loss_of(weights: Tensor) -> TokenLoss:
    def token_loss(order: Tensor, values: TokenValues) -> Tensor:
        terms = values.logprobs.exp() - 0.5 * values.logprobs + values.divergence.square() - 0.1 * values.entropy
        return weights[order] * terms

    return token_loss


def scored(tokens: TokenBatch, own_head: bool) -> Teacher:
    """Another model's hidden states at every second token, backwards."""
    other = model(True, seed=1)
    with torch.no_grad():
        hidden = response_hidden(other, tokens)
    chosen = torch.arange(len(hidden)).flip(0)[::2]
    head = other.get_output_embeddings() if own_head else None
    return Teacher(chosen, hidden[chosen], head, TEACHER_TEMPERATURE, divergence_named("jsd", 0.4))


def fused_loss(policy: Any, tokens: TokenBatch, teacher: Teacher, weights: Tensor) -> Tensor:
    """The fused head in place of the policy's own, a few tokens at a time."""
    return with_head(
        policy, tokens, lambda hidden, weight, bias: fused_head(
            hidden, weight, bias, tokens.targets, loss_of(weights),
            memory_bytes=2 * VOCAB * 8 * 5, temperature=TEMPERATURE, teacher=teacher,
        )[0],
    )  # fmt: skip


def direct_loss(policy: Any, tokens: TokenBatch, teacher: Teacher, weights: Tensor) -> Tensor:
    """From the policy's own logits of every position."""
    logits = policy(input_ids=tokens.input_ids).logits[tokens.rows, tokens.positions]
    head = policy.get_output_embeddings() if teacher.head is None else teacher.head
    found = (head(teacher.hidden) / teacher.temperature).detach()
    values = direct_values(logits / TEMPERATURE, found, tokens.targets, teacher)
    return loss_of(weights)(torch.arange(len(weights)), values).sum()


def weights_of(tokens: TokenBatch) -> Tensor:
    return torch.linspace(-1, 2, len(tokens.targets), dtype=torch.float64)


@pytest.mark.parametrize("own_head", [False, True])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_all_parameters(tied: bool, own_head: bool) -> None:
    policy, tokens = model(tied), batch([0, 1, 2, 3])
    teacher, weights = scored(tokens, own_head), weights_of(tokens)
    expected = direct_loss(policy, tokens, teacher, weights)
    expected.backward()
    exact = gradients(policy).clone()
    policy.zero_grad()
    found = fused_loss(policy, tokens, teacher, weights)
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(gradients(policy), exact, rtol=1e-10, atol=1e-10 * exact.abs().max().item())
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize("biased", [False, True])
def test_what_the_head_is_given(biased: bool) -> None:
    policy, tokens = model(False), batch([0, 2])
    head = policy.lm_head
    if biased:
        head.bias = torch.nn.Parameter(torch.linspace(-1, 1, VOCAB, dtype=torch.float64))
    seen: list[Any] = []

    def function(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        seen.extend([hidden, weight, bias])
        return hidden.sum()

    with_head(policy, tokens, function)
    hidden, weight, bias = seen
    states = policy.model(input_ids=tokens.input_ids).last_hidden_state
    torch.testing.assert_close(hidden, states[tokens.rows, tokens.positions])
    assert weight is head.weight
    assert bias is head.bias
    assert (bias is not None) == biased
    logits = policy(input_ids=tokens.input_ids).logits[tokens.rows, tokens.positions]
    torch.testing.assert_close(response_logits(policy, tokens, 0.5), logits / 0.5)


def test_the_head_gets_its_forward_back() -> None:
    policy, tokens = model(True), batch([0])
    logits = policy(input_ids=tokens.input_ids).logits

    def fails(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise KeyError("on purpose")

    with_head(policy, tokens, lambda hidden, weight, bias: hidden)
    assert "forward" not in vars(policy.lm_head)
    with pytest.raises(KeyError, match="on purpose"):
        with_head(policy, tokens, fails)
    assert "forward" not in vars(policy.lm_head)
    assert policy(input_ids=tokens.input_ids).logits.equal(logits)


# --- sharded over two processes


HALVES = ([0, 3], [1, 2])
SHARDINGS = ("root", "head")


def shard(policy: Any, tied: bool, sharding: str) -> None:
    """Every layer and the root, and for ``head`` an untied head by itself."""
    mesh = init_device_mesh("cpu", (2,))
    for layer in policy.model.layers:
        fully_shard(layer, mesh=mesh)
    if sharding == "head" and not tied:
        fully_shard(policy.lm_head, mesh=mesh)
    fully_shard(policy, mesh=mesh)


def one_rank(rank: int, folder: Path) -> None:
    """Backward pass of this rank's half under every sharding; rank 0 keeps the whole gradients."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = {}
    for tied in (True, False):
        for sharding in SHARDINGS[: 1 if tied else 2]:
            policy, tokens = model(tied), batch(HALVES[rank])
            shard(policy, tied, sharding)
            assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
            teacher = scored(tokens, own_head=rank == 1)
            fused_loss(policy, tokens, teacher, weights_of(tokens)).backward()
            for name, parameter in policy.named_parameters():
                assert isinstance(parameter.grad, DTensor)
                found[f"{tied} {sharding} {name}"] = parameter.grad.full_tensor()
    if rank == 0:
        save_file(found, folder / "gradients.safetensors")
    distributed.destroy_process_group()


def test_gradients_of_sharded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    multiprocessing.spawn(one_rank, (tmp_path,), nprocs=2)
    found = load_file(tmp_path / "gradients.safetensors")
    for tied in (True, False):
        policy = model(tied)
        for rank, rows in enumerate(HALVES):
            tokens = batch(rows)
            direct_loss(policy, tokens, scored(tokens, own_head=rank == 1), weights_of(tokens)).backward()
        largest = gradients(policy).abs().max().item()
        for sharding in SHARDINGS[: 1 if tied else 2]:
            for name, parameter in policy.named_parameters():
                # The reduction is a mean over the ranks, the loss a sum over their tokens.
                whole = 2 * found.pop(f"{tied} {sharding} {name}")
                torch.testing.assert_close(whole, parameter.grad, rtol=1e-10, atol=1e-10 * largest)
    assert not found
