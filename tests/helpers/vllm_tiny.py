"""Shares what the tests with vLLM need: random Qwen3 models with heads for its CPU attention, and comparisons."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from sdpg.models.batches import token_batch
from sdpg.models.loading import response_logits
from sdpg.params.vllm import VllmInProcess
from sdpg.rollouts import Completion, Sampling
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.vllm_start import installed

needs_vllm = pytest.mark.skipif(
    not installed(), reason="vLLM is not installed: `make test-vllm` runs this in an environment of its own"
)
VOCAB, PAD, EOS = 200, 0, 1
PROMPTS = [[2 + (i * 7 + j) % (VOCAB - 2) for j in range(3 + 11 * i)] for i in range(8)]
"""Prompts of 3 to 80 tokens: shorter and longer than a block of the KV cache."""


class Tokenizer:
    """As much of one as engines ask for."""

    eos_token_id, pad_token_id = EOS, PAD

    def __len__(self) -> int:
        return VOCAB


def qwen3(seed: int = 0, tied: bool = True, **changes: Any) -> Any:
    """A random model, with weights large enough for distributions that are far from uniform."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 256,
        "tie_word_embeddings": tied, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None,
        "initializer_range": 0.25,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(Qwen3Config(**(sizes | changes))).to(torch.float32)


def moved(model: Any, seed: int, width: float = 0.1) -> None:
    """Changes every weight, as an update does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += width * torch.randn(parameter.shape, generator=generator)


def settings(**changes: Any) -> VllmInProcess:
    """Returns vLLM's settings for CPUs, in the trainer's precision."""
    values = {"mode": "in_process", "dtype": "float32", "kv_cache_megabytes": 32, "eager": True}
    return VllmInProcess(**(values | {"canary_tolerance": 1e-3} | changes))


def sampling(**changes: Any) -> Sampling:
    return Sampling(**({"temperature": 1.0, "top_p": 1.0, "max_tokens": 24, "seed": 5} | changes))


def embedded(model: Any) -> EmbeddedEngine:
    """Returns the transformers engine."""
    tokenizer: Any = Tokenizer()
    return EmbeddedEngine(model, tokenizer, 16)


def recomputed(model: Any, prompt: list[int], completion: Completion, temperature: float) -> Tensor:
    """The model's log-probs of a response, over the vocabulary: (tokens, V)."""
    with torch.no_grad():
        return response_logits(model, token_batch([prompt], [completion.ids], PAD), temperature).log_softmax(-1)


def assert_logprobs_are_the_models(
    model: Any, completions: list[Completion], temperature: float, prompts: list[list[int]] | None = None
) -> None:
    """To 1e-4, token by token."""
    for prompt, completion in zip(prompts or PROMPTS, completions, strict=True):
        own = recomputed(model, prompt, completion, temperature or 1.0)
        expected = own[torch.arange(len(completion.ids)), completion.ids]
        torch.testing.assert_close(torch.tensor(completion.rollout_logprobs), expected, rtol=0, atol=1e-4)


def assert_same_greedy(model: Any, engine: Any) -> None:
    """Tokens and log-probs of vLLM and of transformers agree."""
    ours = embedded(model).generate(PROMPTS, sampling(temperature=0.0))
    theirs = engine.generate(PROMPTS, sampling(temperature=0.0))
    assert [one.ids for one in theirs] == [one.ids for one in ours]
    assert [one.truncated for one in theirs] == [one.truncated for one in ours]
    for a, b in zip(theirs, ours, strict=True):
        assert a.rollout_logprobs == pytest.approx(b.rollout_logprobs, abs=1e-4)


def namespace(**values: Any) -> Any:
    return SimpleNamespace(**values)
