"""Part 9: vLLM in process: start, weights, canary, seeds, stop tokens, sleep, and log-probs against the trainer's."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch
import warnings

import torch

from benchmarks.figures import SkippedError
from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.gpu_check.steps import LETTERS, Shape, letters_tokenizer, random_model
from sdpg.errors import UserError
from sdpg.params.vllm import VllmInProcess
from sdpg.rollouts import Sampling, vllm_in_process
from sdpg.rollouts.canary import Canary
from sdpg.rollouts.model_weights import named_weights
from sdpg.rollouts.vllm_in_process import InProcessVllm, close_engine
from sdpg.rollouts.vllm_start import installed

SHAPE = Shape(128, 256, 2, 2, 1, 64, 320, True, 512)
TOLERANCE = 0.05
"""Nats per token, as ``rollout.vllm.canary_tolerance``."""
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=32, seed=5)
TAKEN = 0.12
"""The share of the GPU that is in use as vLLM starts: with its default share of 92% it would refuse."""
LOST = "model.layers.1.mlp.down_proj.weight"


def check(run: Run) -> None:
    """What the trainer asks of the engine, in its order; the first failure ends the part."""
    started: list[Any] = []
    checks: dict[str, tuple[str, Callable[[], Answer]]] = {
        "start": (f"starts with {TAKEN:.0%} of the GPU in use", lambda: _start(run, started)),
        "head": ("float32 logits", lambda: _head(started[0])),
        "weights and canary": (f"within {TOLERANCE} nats", lambda: _sync(started[0])),
        "a lost weight": ("ends the run", lambda: _lost(started[0])),
        "responses": (f"log-probs within {TOLERANCE} nats of the trainer's", lambda: _sample(started[0])),
        "seeds": ("repeat, and differ from each other", lambda: _seeds(started[0])),
        "stop tokens": ("each of two ends a response", lambda: _stops(started[0])),
        "sleep": ("memory is given back", lambda: _sleep(run, started[0])),
        "other weights, waking": (f"within {TOLERANCE} nats", lambda: _moved(started[0])),
        "responses afterwards": (f"log-probs within {TOLERANCE} nats", lambda: _sample(started[0])),
    }
    try:
        for name, (expected, function) in checks.items():
            answer = run.check(name, expected, function)
            if (name == "start" and answer is None) or (answer is not None and answer.holds is False):
                return
    finally:
        started.clear()
        close_engine()


def _start(run: Run, started: list[Any]) -> Answer:
    if not installed():
        raise SkippedError("vllm is not installed")
    dtype = "bfloat16" if run.on_gpu else "float32"
    settings = VllmInProcess(
        mode="in_process", dtype=dtype, kv_cache_megabytes=64, eager=not run.on_gpu, sleep=run.on_gpu,
        canary_tolerance=TOLERANCE,
    )  # fmt: skip
    model = random_model(SHAPE, run.device, spread=0.1)
    size = int(TAKEN * torch.cuda.get_device_properties(run.device).total_memory) if run.on_gpu else 0
    taken = torch.empty(size, dtype=torch.uint8, device=run.device)
    engine = InProcessVllm(model, letters_tokenizer(), settings, getattr(torch, dtype), 160, 16, _prompts())
    del taken
    started.append(engine)
    config = engine.llm.llm_engine.vllm_config
    runner = "V2" if config.use_v2_model_runner else "V1"
    return Answer(f"blocks of {engine.block} tokens, model runner {runner}", True, values={"runner": runner})


def _prompts() -> list[list[int]]:
    letters = letters_tokenizer()(LETTERS)["input_ids"]
    return [letters[place:][: 5 + 3 * place] * 2 for place in range(8)]


def _head(engine: Any) -> Answer:
    found = engine.llm.llm_engine.vllm_config.model_config.head_dtype
    return Answer(str(found), found == torch.float32)


def _sync(engine: Any) -> Answer:
    engine.sync_weights()
    return Answer(f"{engine.difference:.1e} nats", engine.difference <= TOLERANCE, values={"nats": engine.difference})


def _lost(engine: Any) -> Answer:
    """Hands over all changed weights but one."""
    _change(engine.model)

    def without(model: Any) -> Any:
        return (pair for pair in named_weights(model) if pair[0] != LOST)

    refused = False
    with patch.object(vllm_in_process, "named_weights", without), warnings.catch_warnings(action="ignore"):
        try:
            engine.sync_weights()
        except UserError:
            refused = True
    nats = engine.difference
    engine.sync_weights()
    return Answer(f"{nats:.1e} nats" + ("" if refused else ", not noticed"), refused, values={"nats": nats})


def _sample(engine: Any) -> Answer:
    """The mean difference per token over the responses to eight prompts."""
    completions = engine.generate(_prompts(), SAMPLING)
    canary = Canary(_prompts(), SAMPLING.max_tokens, engine.dtype, SAMPLING.temperature)
    differences = canary.differences(engine.model, completions)
    nats = sum(differences) / len(differences)
    return Answer(f"{len(differences)} tokens, {nats:.1e} nats", nats <= TOLERANCE, values={"nats": nats})


def _seeds(engine: Any) -> Answer:
    """Of each response its own, and of a call as a whole."""
    kept, wrong = engine.settings, []
    for own in (True, False):
        engine.settings = kept.model_copy(update={"request_seeds": own})
        first, again, other = (
            [one.ids for one in engine.generate(_prompts(), replace(SAMPLING, seed=seed))] for seed in (5, 5, 6)
        )
        if first != again or any(a == b for a, b in zip(first, other, strict=True)):
            wrong.append("of each response" if own else "of a call")
    engine.settings = kept
    return Answer(f"wrong: those {' and '.join(wrong)}" if wrong else "they do", not wrong)


def _stops(engine: Any) -> Answer:
    """A token that the greedy response to the third prompt contains is made a second one."""
    how, kept = replace(SAMPLING, temperature=0.0), engine.stop_ids
    engine.stop_ids = []
    whole = [one.ids for one in engine.generate(_prompts(), how)]
    engine.stop_ids = sorted({*kept, whole[2][5]})
    found = engine.generate(_prompts(), how)
    right = True
    for ids, one in zip(whole, found, strict=True):
        end = next((place + 1 for place, token in enumerate(ids) if token in engine.stop_ids), None)
        right &= (one.ids, one.truncated) == (ids[:end], end is None)
    engine.stop_ids = kept
    ended = sum(not one.truncated for one in found)
    return Answer(f"{ended} of {len(found)} responses ended", right and not found[2].truncated)


def _sleep(run: Run, engine: Any) -> Answer:
    """It rests once the rollouts are drawn."""
    if not run.on_gpu:
        raise SkippedError("only a GPU's memory is given back")
    awake = torch.cuda.mem_get_info()[0]
    engine.rest()
    mib = (torch.cuda.mem_get_info()[0] - awake) / 2**20
    return Answer(f"{mib:,.0f} MiB", mib >= 48, values={"mib": mib})


def _change(model: Any) -> None:
    generator = torch.Generator(model.device).manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, device=parameter.device)


def _moved(engine: Any) -> Answer:
    _change(engine.model)
    return _sync(engine)
