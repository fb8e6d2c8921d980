"""Tests the real vLLM as a server from ``python -m pipelines.serve``, on the CPU; it takes weights while it runs."""

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from ruamel.yaml import YAML
import torch

from sdpg.errors import UserError
from sdpg.params.vllm import VllmServer
from sdpg.records.schemas import read_rollouts
from sdpg.rollouts import vllm_server
from sdpg.rollouts.model_weights import named_weights
from sdpg.rollouts.vllm_server import ServedVllm
from tests.helpers.vllm_tiny import (
    PROMPTS,
    Tokenizer,
    assert_logprobs_are_the_models,
    assert_same_greedy,
    moved,
    needs_vllm,
    qwen3,
    sampling,
)  # fmt: skip
from tests.helpers.vllm_world import ROOT, World, train, tree

pytestmark = needs_vllm


class Server:
    """``python -m pipelines.serve`` in a folder of its own."""

    def __init__(self, folder: Path, model: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.settings = {
            "mode": "server", "url": f"http://127.0.0.1:{self.port}", "canary_tolerance": 1e-3,
            "weights_folder": str(folder / "weights"),
        }  # fmt: skip
        self.folder = folder
        model.save_pretrained(folder / "model")
        with (folder / "params.yaml").open("w") as file:
            YAML().dump(tree(self.settings), file)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "pipelines.serve", "--model", "model", "--dtype", "float32", "--eager"]
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--kv-cache-megabytes", "32"], cwd=self.folder, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.5)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("served"), world.base)
    yield found
    if found.process.poll() is None:
        found.kill()


class Ids:
    """The world's vocabulary, with the tiny models' end of a response."""

    eos_token_id, pad_token_id = Tokenizer.eos_token_id, Tokenizer.pad_token_id

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


@pytest.fixture
def served(world: World, server: Server) -> ServedVllm:
    """A client that follows a model of the base's shapes with random weights."""
    model = qwen3(
        seed=5, vocab_size=world.base.config.vocab_size, num_hidden_layers=1, initializer_range=0.25
    )  # fmt: skip
    engine = ServedVllm(model, Ids(len(world.tokenizer)), VllmServer(**server.settings), torch.float32, 120, 8)
    engine.sync_weights()
    return engine


def test_greedy_tokens_and_logprobs_are_those_of_transformers_before_and_after_a_sync(served: ServedVllm) -> None:
    assert_same_greedy(served.model, served)
    moved(served.model, seed=1)
    served.sync_weights()
    assert_same_greedy(served.model, served)
    assert served.difference < 1e-4


def test_logprobs_of_sampled_tokens_are_the_trainers_and_seeds_repeat(served: ServedVllm) -> None:
    for temperature in (1.0, 0.7):
        completions = served.generate(PROMPTS, sampling(temperature=temperature))
        assert_logprobs_are_the_models(served.model, completions, temperature)
        again = served.generate(PROMPTS, sampling(temperature=temperature))
        assert [one.ids for one in again] == [one.ids for one in completions]


def test_a_lost_weight_and_a_stale_cache_kill_the_canary(served: ServedVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(served.model, seed=2)
    with monkeypatch.context() as patch:
        patch.setattr(
            vllm_server, "named_weights", lambda model: (w for w in named_weights(model) if w[0] != "lm_head.weight")
        )
        with pytest.raises(UserError, match="differ from the trainer's"):
            served.sync_weights()
    served.sync_weights()
    served.generate(PROMPTS, sampling())
    moved(served.model, seed=3, width=0.02)
    ask = served.ask

    def keeping(method: str, path: str, body: Any = None) -> Any:
        return {"success": True} if path == "/reset_prefix_cache" else ask(method, path, body)

    with monkeypatch.context() as patch:
        patch.setattr(served, "ask", keeping)
        with pytest.raises(UserError, match="the prefix cache"):
            served.sync_weights()
    served.sync_weights()


def test_a_server_that_is_killed_ends_the_run_with_a_message_and_the_run_goes_on(
    world: World, server: Server, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"steps": 4, "eval_every": 4, "checkpoint_every": 1, "record_every": 2}

    def doomed(trainer: Any) -> None:
        sample = trainer.sampler.next

        def killing(step: int) -> Any:
            if step == 3:
                server.kill()
            return sample(step)

        trainer.sampler.next = killing

    with pytest.raises(UserError, match=r"\(rollout.vllm.url\) cannot be reached.*goes on from its last checkpoint"):
        train(world, server.settings, tmp_path, doomed, **settings)
    assert (tmp_path / "checkpoint-000002").is_dir()
    server.start()
    _, logged = train(world, server.settings, tmp_path, **settings)
    assert list(logged) == [3, 4]
    assert max(metrics["sampler_mismatch_max"] or 0 for metrics in logged.values()) < 1e-3
    for step in range(1, 5):
        assert len(read_rollouts(tmp_path / f"rollouts/step-{step:06d}-rank-0.parquet")) == 128
