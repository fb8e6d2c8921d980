import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen3NextConfig
from transformers.utils.logging import warning_once

from sdpg.models.batches import token_batch
from sdpg.models.loading import load_model, response_logits, save_model, scratch_model
from sdpg.params import RolloutParams, ScratchModel
from sdpg.problems.tokenizer import END, load_tokenizer, train_tokenizer, turn_end
from sdpg.problems.tokenizer import PAD as PAD_TOKEN
from sdpg.rollouts import Completion, Sampling
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.engines import make_engine
from tests.helpers.tiny import EOS, PAD, VOCAB, tiny_model

PROMPTS = [[2 + (3 * i + j) % (VOCAB - 2) for j in range(1 + i * 5 % 7)] for i in range(24)]
"""24 prompts of 1 to 7 tokens, not in the order of their lengths."""


def engine(model: Any, batch: int = 7) -> EmbeddedEngine:
    tokenizer: Any = SimpleNamespace(eos_token_id=EOS, pad_token_id=PAD)
    return EmbeddedEngine(model, tokenizer, batch)


def sampling(**changes: Any) -> Sampling:
    return Sampling(**({"temperature": 1.0, "top_p": 1.0, "max_tokens": 12, "seed": 5} | changes))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(1)


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.ids for completion in completions]


def recomputed(model: Any, prompt: list[int], completion: Completion, temperature: float) -> Tensor:
    with torch.no_grad():
        return response_logits(model, token_batch([prompt], [completion.ids], PAD), temperature).log_softmax(-1)


def test_the_seed_fixes_the_responses(model: Any) -> None:
    first = engine(model).generate(PROMPTS, sampling())
    assert engine(model).generate(PROMPTS, sampling()) == first
    assert ids(engine(model).generate(PROMPTS, sampling(seed=6))) != ids(first)


def test_sampling_leaves_the_random_state_and_the_mode_alone(model: Any) -> None:
    torch.manual_seed(11)
    model.train()
    before = torch.get_rng_state()
    engine(model).generate(PROMPTS[:3], sampling())
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    model.eval()
    engine(model).generate(PROMPTS[:3], sampling())
    assert not model.training


def test_the_callers_random_state_does_not_reach_the_responses(model: Any) -> None:
    torch.manual_seed(1)
    first = engine(model).generate(PROMPTS[:5], sampling())
    torch.manual_seed(2)
    assert engine(model).generate(PROMPTS[:5], sampling()) == first


def test_a_response_ends_at_its_first_eos_or_at_the_limit(model: Any) -> None:
    completions = engine(model).generate(PROMPTS * 4, sampling(max_tokens=20))
    for completion in completions:
        assert EOS not in completion.ids[:-1]
        assert completion.truncated == (completion.ids[-1] != EOS)
        assert len(completion.ids) == 20 or not completion.truncated
        assert len(completion.ids) == len(completion.rollout_logprobs) <= 20
    assert {completion.truncated for completion in completions} == {True, False}


def test_eos_as_the_last_allowed_token_is_no_truncation(model: Any) -> None:
    completions = engine(model, 200).generate([PROMPTS[0]] * 200, sampling(max_tokens=1))
    stopped = [completion for completion in completions if completion.ids == [EOS]]
    assert stopped
    assert not any(completion.truncated for completion in stopped)
    assert all(completion.truncated for completion in completions if completion.ids != [EOS])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_rollout_logprobs_are_those_of_the_trainer(model: Any, temperature: float) -> None:
    completions = engine(model).generate(PROMPTS, sampling(temperature=temperature))
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        log_probs = recomputed(model, prompt, completion, temperature)
        expected = log_probs[torch.arange(len(completion.ids)), completion.ids]
        assert completion.rollout_logprobs == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_with_top_p_logprobs_are_those_of_the_renormalised_nucleus(model: Any, temperature: float) -> None:
    completions = engine(model).generate(PROMPTS, sampling(temperature=temperature, top_p=0.6))
    renormalised = 0
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        log_probs = recomputed(model, prompt, completion, temperature)
        for row, token, found in zip(log_probs, completion.ids, completion.rollout_logprobs, strict=True):
            # The smallest set of the likeliest tokens whose mass reaches 0.6.
            values, order = row.exp().sort(descending=True)
            size = int((values.cumsum(0) < 0.6).sum()) + 1
            assert token in order[:size].tolist()
            assert found == pytest.approx((row[token] - values[:size].sum().log()).item(), abs=1e-4)
            renormalised += size > 1
    assert renormalised > 20


def test_greedy_takes_the_likeliest_token(model: Any) -> None:
    completions = engine(model).generate(PROMPTS, sampling(temperature=0.0))
    assert engine(model).generate(PROMPTS, sampling(temperature=0.0, seed=6)) == completions
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        log_probs = recomputed(model, prompt, completion, 1.0)
        assert completion.ids == log_probs.argmax(-1).tolist()
        assert completion.rollout_logprobs == pytest.approx(log_probs.max(-1).values.tolist(), abs=1e-4)


def test_siblings_whose_prompt_is_read_once_follow_their_own_prompts(model: Any) -> None:
    """Left-padded prompts of several lengths, some once and some often, in any order."""
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0]]
    assert len({len(prompt) for prompt in prompts}) > 1
    completions = engine(model, 6).generate(prompts, sampling())
    for prompt, completion in zip(prompts, completions, strict=True):
        expected = recomputed(model, prompt, completion, 1.0)
        own = expected[torch.arange(len(completion.ids)), torch.tensor(completion.ids)]
        torch.testing.assert_close(torch.tensor(completion.rollout_logprobs), own, rtol=1e-4, atol=1e-4)
    greedy = engine(model, 6).generate(prompts, sampling(temperature=0.0))
    alone = [engine(model, 1).generate([prompt], sampling(temperature=0.0))[0] for prompt in prompts]
    assert ids(greedy) == ids(alone)


def test_samples_follow_the_distribution(model: Any) -> None:
    count = 4000
    completions = engine(model, count).generate([PROMPTS[3]] * count, sampling(max_tokens=1))
    drawn = torch.bincount(torch.tensor([completion.ids[0] for completion in completions]), minlength=VOCAB) / count
    expected = recomputed(model, PROMPTS[3], completions[0], 1.0)[0].exp()
    assert (drawn - expected).abs().max() < 5 * (0.25 / count) ** 0.5


OWN_SETTINGS: list[dict[str, Any]] = [
    {"do_sample": True, "top_k": 1},
    {"do_sample": True, "temperature": 0.01, "top_p": 0.1, "min_p": 0.9},
    {"repetition_penalty": 50.0},
    {"no_repeat_ngram_size": 1},
    {"suppress_tokens": list(range(2, VOCAB))},
    {"bad_words_ids": [[token] for token in range(2, 30)]},
    {"min_new_tokens": 12},
    {"max_length": 3},
    {"num_beams": 3},
]


def test_each_stop_id_of_the_models_generation_settings_ends_a_response() -> None:
    """Qwen3 has two: the one of its tokenizer, and a second one in generation_config.json."""
    model = tiny_model(1)
    whole = engine(model).generate(PROMPTS, sampling())
    second = next(one.ids[2] for one in whole if len(one.ids) > 4)
    model.generation_config = GenerationConfig(eos_token_id=[second, EOS])
    found = engine(model).generate(PROMPTS, sampling())
    ended = {EOS: 0, second: 0}
    for before, after in zip(whole, found, strict=True):
        end = next((place + 1 for place, token in enumerate(before.ids) if token in ended), None)
        assert after.ids == before.ids[:end]
        assert after.rollout_logprobs == before.rollout_logprobs[:end]
        assert after.truncated == (end is None)
        if end is not None:
            ended[after.ids[-1]] += 1
    assert all(ended.values()) and any(one.truncated for one in found)
    for named in (None, second, [second]):
        model.generation_config = GenerationConfig(eos_token_id=named)
        assert engine(model).stop_ids == sorted({EOS} if named is None else {EOS, second})


@pytest.mark.parametrize("named", ["nothing", "both"])
def test_a_template_ends_turns_with_another_token_than_the_tokenizers(named: str, tmp_path: Path) -> None:
    """As with Qwen's base models: <|endoftext|> ends a text, <|im_end|> a turn. It holds for a saved policy, too."""
    tokenizer = train_tokenizer(["one two three " * 9], 270)
    tokenizer.eos_token = PAD_TOKEN
    text_end, end = (tokenizer.convert_tokens_to_ids(token) for token in (PAD_TOKEN, END))
    assert turn_end(tokenizer) == end != tokenizer.eos_token_id == text_end
    config = ScratchModel(
        kind="scratch", vocab_size=270, hidden_size=16, layers=1, heads=2, kv_heads=1, head_dim=8, intermediate_size=16,
        context=128, steps=1, batch=1, lr=1e-3, student_share=1, slip_rate=0, misconception_rate=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = scratch_model(config, tokenizer)
    made.generation_config = GenerationConfig(**({"eos_token_id": [text_end, end]} if named == "both" else {}))
    save_model(made, tokenizer, tmp_path / "policy")
    loaded, tokenizer = load_model(tmp_path / "policy"), load_tokenizer(tmp_path / "policy")
    sampler = EmbeddedEngine(loaded, tokenizer, 64)
    assert sampler.stop_ids == sorted({text_end, end})
    found = sampler.generate([[5, 6, 7]] * 64, Sampling(2.0, 1.0, 60, 1))
    assert {one.ids[-1] for one in found if not one.truncated} == {text_end, end}
    for one in found:
        assert not {text_end, end} & set(one.ids[:-1])
        assert one.truncated == (one.ids[-1] not in (text_end, end)) and len(one.rollout_logprobs) == len(one.ids)


def test_a_template_without_a_token_of_its_own_ends_no_turn() -> None:
    tokenizer = train_tokenizer(["one two three " * 9], 270)
    for template in ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "{{ raise_exception('no') }}"):
        tokenizer.chat_template = template
        assert turn_end(tokenizer) is None
    tokenizer.chat_template = None
    assert turn_end(tokenizer) is None


@pytest.mark.parametrize("own", OWN_SETTINGS, ids=lambda own: "+".join(own))
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_the_models_own_generation_settings_shape_nothing(own: dict[str, Any], temperature: float) -> None:
    model = tiny_model(1)
    expected = engine(model).generate(PROMPTS, sampling(temperature=temperature))
    model.generation_config = GenerationConfig(**own)
    kept = model.generation_config
    assert engine(model).generate(PROMPTS, sampling(temperature=temperature)) == expected
    assert model.generation_config is kept


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_generation_logs_no_warnings(
    model: Any, temperature: float, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    warning_once.cache_clear()  # what an earlier test was told would not be told again
    with caplog.at_level(logging.WARNING):
        engine(model).generate(PROMPTS[:3], sampling(temperature=temperature))
    assert caplog.messages == []


def test_responses_come_in_the_order_of_the_prompts(model: Any) -> None:
    alone = [engine(model).generate([prompt], sampling(temperature=0.0))[0] for prompt in PROMPTS]
    together = engine(model, 5).generate(PROMPTS, sampling(temperature=0.0))
    assert ids(together) == ids(alone)
    assert len({tuple(completion.ids) for completion in alone}) > 10


def test_left_padding_does_not_change_the_results(model: Any) -> None:
    short, long = PROMPTS[0], [7] * 30
    alone = engine(model).generate([short], sampling(temperature=0.0))[0]
    padded = engine(model).generate([short, long], sampling(temperature=0.0))[0]
    assert padded.ids == alone.ids
    assert padded.rollout_logprobs == pytest.approx(alone.rollout_logprobs, abs=1e-4)


def test_progress_is_told_of_every_prompt(model: Any) -> None:
    finished: list[int] = []
    engine(model, 10).generate(PROMPTS, sampling(max_tokens=2), finished.append)
    assert finished == [10, 10, 4]


def test_no_prompts_give_no_responses(model: Any) -> None:
    assert engine(model).generate([], sampling()) == []


def test_an_update_is_seen_at_once() -> None:
    model = tiny_model(2)
    sampler: Any = make_engine(RolloutParams(), model, SimpleNamespace(eos_token_id=EOS, pad_token_id=PAD), 8, 100)
    before = sampler.generate(PROMPTS, sampling(temperature=0.0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    sampler.sync_weights()
    after = sampler.generate(PROMPTS, sampling(temperature=0.0))
    assert ids(after) != ids(before)
    expected = recomputed(model, PROMPTS[0], after[0], 1.0)
    assert after[0].ids == expected.argmax(-1).tolist()


def test_layers_whose_state_cannot_be_copied_are_generated_without_a_shared_cache(model: Any) -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8}
    hybrid = SimpleNamespace(
        config=Qwen3NextConfig(**sizes, num_key_value_heads=1, layer_types=["linear_attention", "full_attention"])
    )
    own = engine(model)
    prompts = [PROMPTS[2]] * 3 + [PROMPTS[4]]
    expected = own.generate(prompts, sampling(temperature=0.0))
    own.model, real = hybrid, own.model
    ids = torch.zeros(1, 2, dtype=torch.long)
    assert own._read(ids, ids + 1) is None
    own.model = real
    assert own._read(ids, ids + 1) is not None
    own._read = lambda *_: None
    assert [one.ids for one in own.generate(prompts, sampling(temperature=0.0))] == [one.ids for one in expected]
