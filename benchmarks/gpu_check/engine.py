"""Part 9: vLLM in process: start, sleep, wake, weights, canary, and log-probs against the trainer's."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.figures import SkippedError
from benchmarks.gpu_check.checks import Answer, Run
from benchmarks.gpu_check.steps import LETTERS, Shape, letters_tokenizer, random_model
from sdpg.models.batches import token_batch
from sdpg.models.loading import response_logits
from sdpg.params.vllm import VllmInProcess
from sdpg.rollouts import Sampling
from sdpg.rollouts.vllm_in_process import InProcessVllm, close_engine
from sdpg.rollouts.vllm_start import installed

SHAPE = Shape(128, 256, 2, 2, 1, 64, 320, True, 512)
TOLERANCE = 0.05
"""Nats per token, as ``rollout.vllm.canary_tolerance``."""
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=32, seed=5)


def check(run: Run) -> None:
    """What the trainer asks of the engine, in its order; the first failure ends the part."""
    started: list[Any] = []
    checks: dict[str, tuple[str, Callable[[], Answer]]] = {
        "start": ("starts", lambda: _start(run, started)),
        "weights and canary": (f"within {TOLERANCE} nats", lambda: _sync(started[0])),
        "responses": (f"log-probs within {TOLERANCE} nats of the trainer's", lambda: _sample(started[0])),
        "sleep": ("memory is given back", lambda: _sleep(run, started[0])),
        "other weights, waking": (f"within {TOLERANCE} nats", lambda: _moved(started[0])),
        "responses afterwards": (f"log-probs within {TOLERANCE} nats", lambda: _sample(started[0])),
    }
    try:
        for name, (expected, function) in checks.items():
            answer = run.check(name, expected, function)
            if answer is None or answer.holds is False:
                return
    finally:
        started.clear()
        close_engine()


def _start(run: Run, started: list[Any]) -> Answer:
    if not installed():
        raise SkippedError("vllm is not installed")
    dtype = "bfloat16" if run.on_gpu else "float32"
    settings = VllmInProcess(
        mode="in_process", dtype=dtype, kv_cache_megabytes=64, eager=True, sleep=run.on_gpu, canary_tolerance=TOLERANCE
    )
    model = random_model(SHAPE, run.device, spread=0.1)
    engine = InProcessVllm(model, letters_tokenizer(), settings, getattr(torch, dtype), 160, 16)
    started.append(engine)
    return Answer(f"blocks of {engine.block} tokens", True)


def _sync(engine: Any) -> Answer:
    engine.sync_weights()
    return Answer(f"{engine.difference:.1e} nats", engine.difference <= TOLERANCE, values={"nats": engine.difference})


def _sample(engine: Any) -> Answer:
    """The mean difference per token over the responses to eight prompts."""
    letters = letters_tokenizer()(LETTERS)["input_ids"]
    prompts = [letters[: 5 + 3 * place] for place in range(8)]
    completions = engine.generate(prompts, SAMPLING)
    device = engine.model.device
    batch = token_batch(prompts, [one.ids for one in completions], 0, device)
    with torch.no_grad(), torch.autocast(device.type, dtype=engine.dtype, enabled=engine.dtype != torch.float32):
        logits = response_logits(engine.model, batch, SAMPLING.temperature)
    expected = logits.log_softmax(-1).gather(1, batch.targets.unsqueeze(1)).squeeze(1).cpu()
    found = torch.tensor([value for one in completions for value in one.rollout_logprobs])
    nats = (found - expected).abs().mean().item()
    return Answer(f"{len(found)} tokens, {nats:.1e} nats", nats <= TOLERANCE, values={"nats": nats})


def _sleep(run: Run, engine: Any) -> Answer:
    """After a generation it sleeps."""
    if not run.on_gpu:
        raise SkippedError("only a GPU's memory is given back")
    asleep = torch.cuda.mem_get_info()[0]
    engine.llm.wake_up()
    awake = torch.cuda.mem_get_info()[0]
    engine.llm.sleep(level=1)
    engine.asleep = True
    mib = (asleep - awake) / 2**20
    return Answer(f"{mib:,.0f} MiB", mib >= 48, values={"mib": mib})


def _moved(engine: Any) -> Answer:
    generator = torch.Generator(engine.model.device).manual_seed(3)
    with torch.no_grad():
        for parameter in engine.model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, device=parameter.device)
    return _sync(engine)
