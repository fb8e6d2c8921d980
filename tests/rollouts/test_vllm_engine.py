"""Tests rollouts by the real vLLM, in process, on the CPU."""

from collections.abc import Iterator
import random
from typing import Any

import pytest
import torch

from sdpg.errors import UserError
from sdpg.rollouts.model_weights import named_weights
from sdpg.rollouts.stopping import stop_ids
from sdpg.rollouts.vllm_in_process import InProcessVllm
from tests.helpers.vllm_tiny import (
    EOS,
    PROMPTS,
    VOCAB,
    Tokenizer,
    assert_logprobs_are_the_models,
    assert_same_greedy,
    moved,
    needs_vllm,
    qwen3,
    recomputed,
    sampling,
    settings,
)  # fmt: skip

pytestmark = needs_vllm


def engine(model: Any, longest: int = 120, batch: int = 16, **changes: Any) -> InProcessVllm:
    return InProcessVllm(model, Tokenizer(), settings(**changes), torch.float32, longest, batch)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def started(request: pytest.FixtureRequest) -> InProcessVllm:
    """Starting takes seconds: tests share an engine, and give its model other weights."""
    return engine(qwen3(tied=request.param))


@pytest.fixture
def vllm(started: InProcessVllm) -> Iterator[InProcessVllm]:
    """An engine that follows a model whose weights were never the same before."""
    moved(started.model, seed=random.randrange(1 << 30))
    started.sync_weights()
    yield started


def test_greedy_tokens_and_logprobs_are_those_of_transformers_before_and_after_a_sync(vllm: InProcessVllm) -> None:
    assert_same_greedy(vllm.model, vllm)
    before = vllm.generate(PROMPTS, sampling(temperature=0.0))
    moved(vllm.model, seed=1)
    vllm.sync_weights()
    assert_same_greedy(vllm.model, vllm)
    after = vllm.generate(PROMPTS, sampling(temperature=0.0))
    assert [one.ids for one in after] != [one.ids for one in before]
    assert vllm.difference < 1e-4


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_logprobs_of_sampled_tokens_are_the_trainers(vllm: InProcessVllm, temperature: float) -> None:
    completions = vllm.generate(PROMPTS, sampling(temperature=temperature))
    assert_logprobs_are_the_models(vllm.model, completions, temperature)


def test_with_top_p_logprobs_are_those_of_the_renormalised_nucleus(vllm: InProcessVllm) -> None:
    completions = vllm.generate(PROMPTS, sampling(temperature=0.8, top_p=0.6))
    renormalised = 0
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        rows = recomputed(vllm.model, prompt, completion, 0.8)
        for row, token, found in zip(rows, completion.ids, completion.rollout_logprobs, strict=True):
            values, order = row.exp().sort(descending=True)
            size = int((values.cumsum(0) < 0.6).sum()) + 1
            assert token in order[:size].tolist()
            assert found == pytest.approx((row[token] - values[:size].sum().log()).item(), abs=1e-4)
            renormalised += size > 1
    assert renormalised > 20


def test_samples_follow_the_distribution(vllm: InProcessVllm) -> None:
    count = 3000
    completions = vllm.generate([PROMPTS[3]] * count, sampling(max_tokens=1))
    drawn = torch.bincount(torch.tensor([one.ids[0] for one in completions]), minlength=len(Tokenizer())) / count
    expected = recomputed(vllm.model, PROMPTS[3], completions[0], 1.0)[0].exp()
    assert (drawn - expected).abs().max() < 5 * (0.25 / count) ** 0.5


def test_a_response_ends_at_its_first_eos_or_at_the_limit(vllm: InProcessVllm) -> None:
    completions = vllm.generate(PROMPTS * 40, sampling(temperature=1.6, max_tokens=40))
    for completion in completions:
        assert EOS not in completion.ids[:-1]
        assert completion.truncated == (completion.ids[-1] != EOS)
        assert len(completion.ids) == 40 or not completion.truncated
        assert len(completion.ids) == len(completion.rollout_logprobs)
    assert True in {completion.truncated for completion in completions}


def test_a_stop_id_as_the_last_allowed_token_is_no_truncation(
    vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The likeliest token of the third prompt is made one; what no prompt draws ends none."""
    how = sampling(temperature=0.0, max_tokens=1)
    drawn = [one.ids for one in vllm.generate(PROMPTS, how)]
    monkeypatch.setattr(vllm, "stop_ids", drawn[2])
    found = vllm.generate(PROMPTS, how)
    assert [one.ids for one in found] == drawn
    assert [one.truncated for one in found] == [ids != drawn[2] for ids in drawn]
    monkeypatch.setattr(vllm, "stop_ids", [next(token for token in range(VOCAB) if [token] not in drawn)])
    assert all(one.truncated for one in vllm.generate(PROMPTS, how))


def test_each_stop_id_of_the_models_generation_settings_ends_a_response(
    vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = sampling(temperature=0.0)
    monkeypatch.setattr(vllm, "stop_ids", [])
    whole = [one.ids for one in vllm.generate(PROMPTS, how)]
    second = whole[2][5]
    monkeypatch.setattr(vllm.model.generation_config, "eos_token_id", [second, EOS])
    monkeypatch.setattr(vllm, "stop_ids", stop_ids(vllm.model, Tokenizer()))
    found = vllm.generate(PROMPTS, how)
    for ids, one in zip(whole, found, strict=True):
        end = next((place + 1 for place, token in enumerate(ids) if token in (EOS, second)), None)
        assert (one.ids, one.truncated) == (ids[:end], end is None)
    assert not found[2].truncated
    assert_same_greedy(vllm.model, vllm)


def test_the_seed_fixes_the_responses_whatever_came_before_and_whatever_else_is_asked(vllm: InProcessVllm) -> None:
    first = vllm.generate(PROMPTS, sampling())
    vllm.generate(PROMPTS[::-1], sampling(seed=9))
    assert vllm.generate(PROMPTS, sampling()) == first
    assert vllm.generate(PROMPTS, sampling(seed=6)) != first
    more = vllm.generate(PROMPTS + PROMPTS, sampling())
    assert [one.ids for one in more[: len(PROMPTS)]] == [one.ids for one in first]
    # Equal prompts draw differently.
    assert [one.ids for one in more[len(PROMPTS) :]] != [one.ids for one in first]


def test_siblings_read_their_prompt_once(vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    cached: list[int] = []
    generate = vllm.llm.generate

    def watched(*arguments: Any, **named: Any) -> Any:
        outputs = generate(*arguments, **named)
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    monkeypatch.setattr(vllm.llm, "generate", watched)
    completions = vllm.generate([PROMPTS[-1]] * 8, sampling())
    # Whole blocks of 32 of the 80 tokens.
    assert cached == [0] + [64] * 7
    assert_logprobs_are_the_models(vllm.model, completions, 1.0, [PROMPTS[-1]] * 8)


def test_progress_is_told_of_every_response(vllm: InProcessVllm) -> None:
    finished: list[int] = []
    vllm.generate(PROMPTS * 5, sampling(max_tokens=2), finished.append)
    assert sum(finished) == 40
    assert vllm.generate([], sampling()) == []


def test_a_weight_that_is_not_handed_over_kills_the_canary(
    vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = named_weights

    def without(name: str) -> Any:
        return lambda model: ((key, value) for key, value in weights(model) if key != name)

    for name in ("lm_head.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"):
        moved(vllm.model, seed=7, width=0.05)
        with monkeypatch.context() as patch:
            patch.setattr("sdpg.rollouts.vllm_in_process.named_weights", without(name))
            with pytest.raises(UserError, match=r"differ from the trainer's by .*rollout\.vllm\.canary_tolerance"):
                vllm.sync_weights()
        vllm.sync_weights()


def test_a_stale_prefix_cache_kills_the_canary(vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm.generate(PROMPTS, sampling())
    moved(vllm.model, seed=8, width=0.02)
    with monkeypatch.context() as patch:
        patch.setattr(vllm, "forget", lambda: None)
        with pytest.raises(UserError, match="the prefix cache"):
            vllm.sync_weights()
    vllm.sync_weights()
    assert vllm.difference < 1e-4


def test_one_small_update_is_noticed_where_it_was_not_taken_over(
    vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved(vllm.model, seed=9, width=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr("sdpg.rollouts.vllm_in_process.named_weights", lambda model: iter(()))
        with pytest.raises(UserError, match="does not sample from the policy that is trained"):
            vllm.sync_weights()
    vllm.sync_weights()


def test_logprobs_of_another_distribution_kill_the_canary(vllm: InProcessVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a server with raw log-probs would answer: those of temperature 1, whatever was drawn at.
    sample = vllm.sample

    def raw(prompts: Any, *arguments: Any) -> Any:
        drawn = sample(prompts, *arguments)
        from sdpg.rollouts import Completion

        return [
            (ids, recomputed(vllm.model, prompt, Completion(ids, logprobs, True), 1.0)[range(len(ids)), ids].tolist())
            for prompt, (ids, logprobs) in zip(prompts, drawn, strict=True)
        ]

    monkeypatch.setattr(vllm, "sample", raw)
    with pytest.raises(UserError, match="differ from the trainer's"):
        vllm.sync_weights()


def test_a_sequence_longer_than_what_vllm_was_started_for_is_refused(vllm: InProcessVllm) -> None:
    with pytest.raises(UserError, match=r"prompt of 150 tokens and a response of up to 24 take 174 .* of 160"):
        vllm.generate([[5] * 150], sampling())
    vllm.generate([[5] * 136], sampling())
