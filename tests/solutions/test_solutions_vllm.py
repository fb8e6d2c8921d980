"""Tests the endpoint source against vLLM's own server, with a tiny random model; skipped where there is no vLLM."""

from collections.abc import Iterator
import importlib.util
import os
from pathlib import Path
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
import urllib3

from sdpg.errors import UserError
from sdpg.problems.sources import Problem
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.solutions.endpoint import EndpointSource
from sdpg.solutions.settings import Connection, Decoding, EndpointSettings
from sdpg.solutions.store import AnswerStore
from tests.helpers.solutions_project import make_project, questions

PYTHON = os.environ.get("VLLM_PYTHON", sys.executable)
"""The interpreter that vLLM is installed in, where it is not this one."""
NO_VLLM = "VLLM_PYTHON" not in os.environ and importlib.util.find_spec("vllm") is None

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NO_VLLM, reason="vLLM is not installed, so its server is not tested (VLLM_PYTHON may name one)"),
]

KEY = "sk-of-a-local-server"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_project(tmp_path_factory.mktemp("vllm"), questions(1)) / "inputs/models/m"
    tokenizer: Any = load_tokenizer(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=1000, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "VLLM_API_KEY": KEY, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }  # fmt: skip
    command = [
        PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", "writer",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", "512",
        "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(64 << 20),
    ]  # fmt: skip
    log = Path(tmp_path_factory.mktemp("log")) / "vllm.log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            for _ in range(240):
                assert process.poll() is None, log.read_text()[-3000:]
                try:
                    urllib3.request("GET", f"http://127.0.0.1:{port}/health", retries=False)
                    break
                except urllib3.exceptions.HTTPError:
                    time.sleep(1)
            else:
                pytest.fail(log.read_text()[-3000:])
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def way(url: str, store: AnswerStore, said: list[str], model: str = "writer", tokens: int = 20) -> EndpointSource:
    decoding = Decoding(temperature=1.0, top_p=0.9, max_tokens=tokens)
    settings = EndpointSettings(base_url=url, model=model, prompt="", system=None, decoding=decoding)
    return EndpointSource(settings, Connection(), 1, store, lambda problem: problem.problem, said.append)


def test_answers_tokens_and_errors(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    problems = [Problem(str(n), f"What is {n}+1?", "1", "", "hand") for n in range(6)]
    with AnswerStore(tmp_path) as store:
        monkeypatch.delenv("SOLUTIONS_API_KEY", raising=False)
        with pytest.raises(UserError, match=r"wants a key, and SOLUTIONS_API_KEY is not set .401"):
            way(server, store, said).check()
        monkeypatch.setenv("SOLUTIONS_API_KEY", KEY)
        right = way(server, store, said)
        right.check()
        assert not said
        found = right.find_candidates(problems, 0)
        assert all(one.text and one.failure is None for [one] in found)
        assert right.bought["requests"] == 6 and 0 < right.used()["completion_tokens"] <= 6 * 20
        assert way(server, store, said).find_candidates(problems, 0) == found
        with pytest.raises(UserError, match=r"answers 404 .* for the model 'other'"):
            way(server, store, said, "other").find_candidates(problems, 0)
        with pytest.raises(UserError, match=r"refuses the first request .400: .*(length|token)"):
            way(server, store, said, tokens=5000).find_candidates(problems, 0)
        assert way(server, store, said, "other").check() is None and "does not list the model 'other'" in said[-1]
