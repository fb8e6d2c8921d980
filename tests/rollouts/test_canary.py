"""Tests the comparison after each hand-over of weights, with an engine whose copy is a module of transformers."""

from collections.abc import Iterator
import copy
from typing import Any
import warnings

import pytest
import torch

from sdpg.errors import UserError
from sdpg.params.vllm import VllmInProcess
from sdpg.rollouts import Completion
from sdpg.rollouts.canary import LONGEST_PROMPT, PROMPTS, TOKENS, Canary, make_canary
from sdpg.rollouts.embedded import EmbeddedEngine
from sdpg.rollouts.protocol import Sampling
from sdpg.rollouts.vllm_engine import VllmEngine
from tests.helpers.vllm_tiny import VOCAB, Tokenizer, embedded, moved, qwen3, recomputed, sampling, settings

EXAMPLES = [[2 + (7 * row + 3 * place) % 190 for place in range(40 + row)] for row in range(6)]
LAYERS = 4


class Copied(VllmEngine):
    """Samples from a copy of the weights, which takes over all of them but ``lost``, the first ``faults`` times."""

    def __init__(self, model: Any, dtype: torch.dtype, tolerance: float = 0.05) -> None:
        self.copy, self.lost, self.faults, self.sent, self.shift = copy.deepcopy(model).to(dtype), "", 99, 0, 0.0
        chosen: VllmInProcess = settings(canary_tolerance=tolerance)
        super().__init__(model, Tokenizer(), chosen, dtype, 256, EXAMPLES)
        # As vLLM is asked to: the head's weights are rounded, its logits are not.
        self.copy.lm_head.float().register_forward_pre_hook(lambda _, states: (states[0].float(),))

    def send_weights(self) -> None:
        self.sent += 1
        with torch.no_grad():
            for (name, own), new in zip(self.copy.named_parameters(), self.model.parameters(), strict=True):
                if name != self.lost or self.sent > self.faults:
                    own.copy_(new.to(self.dtype))

    @property
    def block(self) -> int:
        return 16

    @property
    def together(self) -> bool:
        return False

    def rest(self) -> None: ...

    def sample(self, prompts: Any, options: Any, seed: int, progress: Any) -> list[tuple[list[int], list[float]]]:
        engine = EmbeddedEngine(self.copy, Tokenizer(), 16)  # type: ignore[arg-type]
        engine.stop_ids = options[0]["stop_token_ids"] or [VOCAB]
        how = Sampling(options[0]["temperature"], 1.0, options[0]["max_tokens"], seed)
        return [
            (one.ids, [value + self.shift for value in one.rollout_logprobs]) for one in engine.generate(prompts, how)
        ]


def deep(seed: int = 0) -> Any:
    """A model of four layers whose logits have the spread of a language model's, 3."""
    model = qwen3(seed, tied=False, num_hidden_layers=LAYERS, initializer_range=0.05)
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 3 / 64**0.5, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return deep()


@pytest.fixture
def half(model: Any) -> Iterator[Copied]:
    """An engine whose weights and passes are bfloat16; what it is told is put right before the next test."""
    before = copy.deepcopy(model.state_dict())
    yield Copied(model, torch.bfloat16)
    model.load_state_dict(before)


def test_prompts_are_the_runs_own_and_longer_than_two_blocks() -> None:
    canary = make_canary([*EXAMPLES, EXAMPLES[0]], 16, 300, torch.float32)
    assert canary.prompts == EXAMPLES[:PROMPTS] and canary.tokens == TOKENS
    # Those of 40 tokens do not fill two blocks of 32: two are joined.
    wide = make_canary([EXAMPLES[0], *EXAMPLES], 32, 300, torch.float32)
    assert wide.prompts == [EXAMPLES[at] + EXAMPLES[at + 1] for at in (0, 2, 4)]
    long = make_canary([[*range(1000)]], 16, 5000, torch.float32)
    assert long.prompts == [[*range(LONGEST_PROMPT)]]
    # Where little fits, there is a shorter response behind a shorter prompt.
    short = make_canary(EXAMPLES, 32, 50, torch.float32)
    assert short.tokens == 25 and short.prompts[3] == EXAMPLES[3][:25]
    assert make_canary([range(9)], 32, 300, torch.float32).prompts == [[*range(9)]]


def test_what_is_expected_is_what_the_trainer_reads(model: Any) -> None:
    model.train()
    canary = Canary(EXAMPLES[:3], TOKENS, torch.float32)
    drawn = embedded(model).generate(canary.prompts, sampling(temperature=0.8, max_tokens=TOKENS))
    expected = [
        recomputed(model, prompt, one, 0.8)[range(len(one.ids)), one.ids]
        for prompt, one in zip(canary.prompts, drawn, strict=True)
    ]
    found = torch.tensor(canary.expected(model, [one.ids for one in drawn]))
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)
    assert model.training
    third = Completion(drawn[2].ids, [value - 0.25 for value in drawn[2].rollout_logprobs], False)
    differences = canary.differences(model, [*drawn[:2], third])
    assert max(differences[: -len(third.ids)]) < 1e-5
    assert differences[-1] == pytest.approx(0.25, abs=1e-5)


def test_rounding_moves_logprobs_by_what_the_tolerance_is_derived_from(half: Copied) -> None:
    """0.8 · ε · s / T · mean(1 − p), see :mod:`sdpg.rollouts.canary`."""
    model = half.model
    half.sync_weights()
    canary = make_canary(EXAMPLES, 16, 256, torch.bfloat16)
    drawn = half.sample(canary.prompts, half.options(canary.sampling(0), 4, stop=False), 0, None)
    found = canary.differences(model, [Completion(*one, False) for one in drawn])
    assert len(found) == PROMPTS * TOKENS
    whole = [prompt + ids for prompt, (ids, _) in zip(canary.prompts, drawn, strict=True)]
    apart, length, spread = 0.0, 0.0, []
    with torch.no_grad():
        for row in whole:
            ids = torch.tensor([row])
            with torch.autocast("cpu", torch.bfloat16):
                own = model.model(ids).last_hidden_state.float()
            other = half.copy.model(ids).last_hidden_state.float()
            apart, length = apart + (own - other).square().sum().item(), length + own.square().sum().item()
            spread.append((own @ model.lm_head.weight.T).std(-1).mean().item())
    unsure = 1 - torch.tensor([value for _, logprobs in drawn for value in logprobs]).exp().mean().item()
    predicted = 0.8 * (apart / length) ** 0.5 * (sum(spread) / len(spread)) / 0.8 * unsure
    assert sum(found) / len(found) == pytest.approx(predicted, rel=0.2)
    assert half.difference == sum(found) / len(found)


def test_bfloat16_passes_and_a_layer_that_is_not_handed_over_does_not(half: Copied) -> None:
    half.sync_weights()
    assert 0.005 < half.difference < 0.05
    moved(half.model, seed=3, width=0.02)
    half.sync_weights()
    half.lost, sent = "model.layers.2.mlp.down_proj.weight", half.sent
    moved(half.model, seed=4, width=0.05)
    with pytest.warns(UserWarning, match="once more"), pytest.raises(UserError, match="at the second try too"):
        half.sync_weights()
    assert half.sent == sent + 2
    assert half.difference > 0.1


def test_what_goes_wrong_once_is_put_right_by_the_second_try(half: Copied) -> None:
    half.lost, half.faults = "model.layers.2.mlp.down_proj.weight", 1
    moved(half.model, seed=5, width=0.05)
    with pytest.warns(UserWarning, match=r"differ from the trainer's by .* nats per token"):
        half.sync_weights()
    assert half.sent == 2 and half.difference < 0.05


@pytest.mark.parametrize(("shift", "right"), [(0.0005, True), (0.0015, False), (float("nan"), False)])
def test_the_tolerance_is_that_of_the_mean_and_lets_no_nan_pass(model: Any, shift: float, right: bool) -> None:
    engine = Copied(model, torch.float32, tolerance=1e-3)
    engine.shift = shift
    if right:
        with warnings.catch_warnings(action="error"):
            engine.sync_weights()
        assert engine.difference == pytest.approx(shift, abs=1e-5)
    else:
        with pytest.warns(UserWarning), pytest.raises(UserError, match=r"canary_tolerance: 0\.001"):
            engine.sync_weights()


def test_the_prompts_are_those_that_were_asked_last(model: Any) -> None:
    engine = Copied(model, torch.float32)
    asked: list[Any] = []
    sample = engine.sample
    engine.sample = lambda prompts, *rest: asked.append(prompts) or sample(prompts, *rest)  # type: ignore[method-assign]
    engine.sync_weights()
    for prompts in ([EXAMPLES[5]] * 2 + [EXAMPLES[4]], [EXAMPLES[1]]):
        engine.generate(prompts, sampling(max_tokens=3))
    engine.sync_weights()
    assert asked[0] == EXAMPLES[:4] and asked[-1] == [EXAMPLES[1]]
    # A model that nobody trains is compared before its first answers, behind what is asked.
    engine.synced = False
    engine.generate([EXAMPLES[5]] * 2 + [EXAMPLES[4]], sampling(max_tokens=3))
    assert asked[-2] == [EXAMPLES[5], EXAMPLES[4]]
