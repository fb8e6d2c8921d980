"""Tests the start of vLLM itself, in process, with engines of their own for each test."""

import random
from typing import Any

import numpy
import pytest
import torch

from sdpg.errors import UserError
from sdpg.rollouts.model_weights import named_weights
from sdpg.rollouts.vllm_in_process import InProcessVllm
from tests.helpers.vllm_tiny import (
    PROMPTS,
    Tokenizer,
    assert_logprobs_are_the_models,
    assert_same_greedy,
    moved,
    needs_vllm,
    qwen3,
    sampling,
    settings,
)  # fmt: skip

pytestmark = needs_vllm


def engine(model: Any, longest: int = 120, batch: int = 16, **changes: Any) -> InProcessVllm:
    return InProcessVllm(model, Tokenizer(), settings(**changes), torch.float32, longest, batch)


def test_an_engine_that_was_never_synced_takes_the_weights_at_its_first_call() -> None:
    fresh = engine(qwen3(seed=3))
    assert_same_greedy(fresh.model, fresh)


def test_the_process_stays_as_it_was() -> None:
    def state() -> Any:
        return random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]

    torch.manual_seed(1)
    before, threads, set_threads = state(), torch.get_num_threads(), torch.set_num_threads
    vllm = engine(qwen3(seed=4))
    vllm.generate(PROMPTS, sampling())
    assert state() == before
    assert torch.get_num_threads() == threads
    assert torch.set_num_threads is set_threads
    vllm.model.train()
    vllm.sync_weights()
    assert vllm.model.training


def test_without_request_seeds_a_call_is_seeded_as_a_whole() -> None:
    one = engine(qwen3(seed=5), request_seeds=False)
    first = one.generate(PROMPTS, sampling())
    assert one.generate(PROMPTS, sampling()) == first
    assert one.generate(PROMPTS, sampling(seed=6)) != first
    assert_logprobs_are_the_models(one.model, first, 1.0)


def test_a_cache_that_holds_few_sequences_gives_the_same_responses() -> None:
    # 160 tokens of this model take 6 blocks of 32 KiB; 64 blocks hold ten sequences of the hundred that are asked.
    model = qwen3(seed=6)
    prompts = [prompt for prompt in PROMPTS if len(prompt) > 30] * 20
    wide = engine(model, batch=100, kv_cache_megabytes=32).generate(prompts, sampling(max_tokens=60))
    tight = engine(model, batch=100, kv_cache_megabytes=2).generate(prompts, sampling(max_tokens=60))
    assert [one.ids for one in tight] == [one.ids for one in wide]


def test_an_engine_that_rested_takes_all_weights_over_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs cannot sleep: what sleep of level 2 does to the weights is done by vLLM's own call that empties them."""
    vllm = engine(qwen3(seed=8, tied=False))
    assert_same_greedy(vllm.model, vllm)
    vllm.rest()
    assert not vllm.asleep and vllm.synced, "nobody asked for sleep"
    calls: list[Any] = []
    call = vllm.llm.collective_rpc

    def recorded(name: str, **named: Any) -> Any:
        calls.append(name)
        return call(name, **named)

    monkeypatch.setattr(vllm, "settings", vllm.settings.model_copy(update={"sleep": True}))
    monkeypatch.setattr(vllm.llm, "collective_rpc", recorded)
    monkeypatch.setattr(vllm.llm, "sleep", lambda level: calls.append(level) or call("reset_weights"))
    monkeypatch.setattr(vllm.llm, "wake_up", lambda tags: calls.append(tags))
    before = call("compute_weight_checksums")
    vllm.rest()
    vllm.rest()
    assert call("compute_weight_checksums") != before
    moved(vllm.model, seed=1)
    vllm.sync_weights()
    assert calls == [2, ["weights"], "reload_weights", ["kv_cache"]]
    assert_same_greedy(vllm.model, vllm)
    assert len(calls) == 4, "the engine stays awake until it is told to rest"
    # Where rollouts follow rollouts, the weights come back all the same.
    vllm.rest()
    assert_same_greedy(vllm.model, vllm)
    assert calls[4:] == calls[:4]


def test_bfloat16_with_a_float32_head_passes_the_canary_and_a_lost_layer_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen = settings(dtype="bfloat16", canary_tolerance=0.05)
    vllm = InProcessVllm(qwen3(seed=9, tied=False), Tokenizer(), chosen, torch.bfloat16, 120, 16, PROMPTS)
    vllm.sync_weights()
    print(f"bfloat16: {vllm.difference:.4f} nats")
    assert 1e-4 < vllm.difference < 0.05
    weights = named_weights
    moved(vllm.model, seed=2, width=0.05)
    with monkeypatch.context() as patch:
        lost = "model.layers.1.mlp.down_proj.weight"
        patch.setattr(
            "sdpg.rollouts.vllm_in_process.named_weights", lambda model: (w for w in weights(model) if w[0] != lost)
        )
        with pytest.warns(UserWarning), pytest.raises(UserError, match="does not sample from the policy"):
            vllm.sync_weights()
    vllm.sync_weights()
    assert vllm.difference < 0.05


def test_an_architecture_that_vllm_does_not_know_is_named() -> None:
    model = qwen3()
    model.config.architectures = ["Qwen9ForCausalLM"]
    with pytest.raises(UserError, match=r"vLLM 0\.32\.0 does not know the architecture Qwen9ForCausalLM: use rollout"):
        engine(model)


def test_heads_that_vllm_has_no_kernel_for_are_named() -> None:
    with pytest.raises(UserError, match=r"head_dim is 16, but without a GPU vLLM takes 32, 64"):
        engine(qwen3(head_dim=16))


def test_a_cache_too_small_for_one_sequence_is_refused_with_what_it_takes() -> None:
    # 160 tokens take 5 blocks and one more, of 32 tokens × 2 layers × 1 head × 32 × keys and values × 4 bytes.
    wide = qwen3(num_key_value_heads=8, num_attention_heads=8)
    with pytest.raises(UserError, match=r"kv_cache_megabytes is 1, but keys and values of one sequence of 250 tokens"):
        engine(wide, longest=250, kv_cache_megabytes=1)
    assert_same_greedy(wide, engine(wide, longest=120, kv_cache_megabytes=1))


def test_what_needs_a_gpu_is_refused_without_one() -> None:
    for changes, message in (
        ({"sleep": True}, "rollout.vllm.sleep is True, which needs a GPU"),
        ({"kv_cache_megabytes": None, "gpu_memory_share": 0.5}, "rollout.vllm.gpu_memory_share is 0.5, which needs"),
    ):
        with pytest.raises(UserError, match=message):
            engine(qwen3(), **changes)


def test_what_vllm_itself_refuses_is_one_message() -> None:
    with pytest.raises(UserError, match=r"vLLM does not start with the settings of rollout\.vllm: .*memory"):
        engine(qwen3(), kv_cache_megabytes=1 << 30)
