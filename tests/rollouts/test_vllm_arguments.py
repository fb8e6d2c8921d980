"""Tests what vLLM makes of the arguments that it is started with, by its own functions and without an engine."""

from itertools import pairwise
from pathlib import Path
import random
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from sdpg.rollouts.model_weights import claim_config_folder
from sdpg.rollouts.vllm_in_process import at_work
from sdpg.rollouts.vllm_start import engine_arguments, load_vllm
from tests.helpers.vllm_tiny import needs_vllm, qwen3

GIB = 1 << 30


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return claim_config_folder(qwen3(), tmp_path, 0)[0]


def config(folder: Path, dtype: str = "bfloat16", megabytes: int | None = 24576, share: float | None = None) -> Any:
    """vLLM's own reading of the arguments of one start."""
    load_vllm()
    from vllm.engine.arg_utils import EngineArgs  # pyright: ignore[reportMissingImports]

    arguments = engine_arguments(dtype, megabytes, share, 200, 8, eager=False)
    return EngineArgs(model=str(folder), load_format="dummy", **arguments).create_engine_config()


def requested(found: Any, free: float) -> int:
    """The bytes that vLLM's GPU worker asks for on a card of 80 GiB."""
    from vllm.v1.worker.utils import request_memory  # pyright: ignore[reportMissingImports]

    snapshot = SimpleNamespace(total_memory=80 * GIB, free_memory=int(free * GIB), device_="cuda:0")
    return request_memory(snapshot, found.cache_config)


@needs_vllm
def test_vllm_starts_on_a_card_that_the_trainer_has_filled(folder: Path) -> None:
    found = config(folder)
    assert found.cache_config.kv_cache_memory_bytes == 24 * GIB
    for free in (72, 63, 2):
        assert requested(found, free) < GIB
    # vLLM does refuse what is more than is free: this is its function.
    shared = config(folder, megabytes=None, share=0.4)
    assert requested(shared, 33) == 32 * GIB
    with pytest.raises(ValueError, match="less than desired GPU memory utilization"):
        requested(shared, 31)


@needs_vllm
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_is_float32_whatever_the_weights_are(folder: Path, dtype: str) -> None:
    found = config(folder, dtype).model_config
    assert (found.dtype, found.head_dtype) == (getattr(torch, dtype), torch.float32)


@needs_vllm
def test_compiled_code_is_found_again_by_another_start(tmp_path: Path) -> None:
    """vLLM's key of compiled code, from two starts one after the other, and of two at the same time."""
    first, lock = claim_config_folder(qwen3(seed=1), tmp_path, 0)
    key = config(first).compute_hash()
    beside, _ = claim_config_folder(qwen3(seed=2), tmp_path, 0)
    assert config(beside).compute_hash() != key
    lock.release()
    again, _ = claim_config_folder(qwen3(seed=3), tmp_path, 0)
    assert config(again).compute_hash() == key


def test_a_configuration_has_the_same_folder_at_each_start_and_two_processes_have_two(tmp_path: Path) -> None:
    """The lock is the operating system's, which takes it from a process that ends."""
    first, first_lock = claim_config_folder(qwen3(), tmp_path, 0)
    second, second_lock = claim_config_folder(qwen3(), tmp_path, 0)
    third, _third_lock = claim_config_folder(qwen3(), tmp_path, 3)
    fourth, _fourth_lock = claim_config_folder(qwen3(num_hidden_layers=3), tmp_path, 0)
    assert len({first, second, third, fourth}) == 4
    assert (first / "config.json").read_text() == (second / "config.json").read_text()
    second_lock.release()
    assert claim_config_folder(qwen3(), tmp_path, 0)[0] == second
    first_lock.release()
    assert claim_config_folder(qwen3(), tmp_path, 0)[0] == first


def draws() -> tuple[float, int, float]:
    return random.random(), int(numpy.random.randint(1 << 30)), torch.rand(()).item()


def test_each_call_of_vllm_draws_from_its_own_seed_and_the_process_from_where_it_was() -> None:
    sources = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    expected = [draws() for _ in range(2)]
    random.setstate(sources[0])
    numpy.random.set_state(sources[1])
    torch.set_rng_state(sources[2])
    found = [draws()]
    drawn = []
    for seed in (1, 2, 1 << 62, 2):
        with at_work(True, seed):
            drawn.append(draws())
    found.append(draws())
    assert found == expected
    assert drawn[1] == drawn[3]
    assert all(a != b for one, other in pairwise(drawn) for a, b in zip(one, other, strict=True))


@needs_vllm
def test_model_runner_v2_draws_another_seed_for_each_unseeded_request_of_each_step() -> None:
    """Its own function, which takes a request in, on arrays in place of a GPU's."""
    load_vllm()
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.v1.worker.gpu.sample.states import SamplingStates  # pyright: ignore[reportMissingImports]

    fields = {name: SimpleNamespace(np=numpy.zeros(4)) for name in ("temperature", "top_p", "top_k", "min_p")}
    seeds = SimpleNamespace(np=numpy.zeros(4, dtype=numpy.int64))
    states = SimpleNamespace(
        **fields, seeds=seeds, seeds_set=numpy.zeros(4, dtype=bool), num_logprobs=numpy.zeros(4), vocab_size=9
    )
    steps = []
    for step in (1, 2, 1):
        with at_work(True, step):
            for request in range(4):
                SamplingStates.add_request(states, request, SamplingParams(temperature=1.0))
        steps.append(seeds.np.tolist())
    assert len({*steps[0], *steps[1]}) == 8
    assert steps[2] == steps[0]
