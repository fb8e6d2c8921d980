"""Tests the client of a vLLM server that is missing, wrong, slow or broken; no vLLM is needed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
from pathlib import Path
import socket
import threading
from typing import Any

import pytest
from safetensors.torch import load_file
import torch

from sdpg.errors import UserError
from sdpg.params.vllm import VllmServer
from sdpg.rollouts import Completion, Sampling
from sdpg.rollouts.vllm_server import ServedVllm, check_weights_folder
from tests.helpers.vllm_tiny import EOS, PROMPTS, VOCAB, Tokenizer, embedded, qwen3, recomputed, sampling

Answer = Callable[[str, Any], tuple[int, Any]]


class Pretended:
    """Answers as vLLM's server does, by the transformers engine on the weights that it was handed."""

    def __init__(self, model: Any) -> None:
        self.model, self.version, self.asked = model, "default", []
        self.config = {
            "model_config": {
                "logprobs_mode": "processed_logprobs",
                "max_model_len": 120,
                "dtype": "torch.float32",
                "hf_overrides": {},
            },
            "cache_config": {"block_size": 32},
        }
        self.overrides: dict[str, tuple[int, Any]] = {}
        self.lock = threading.Lock()

    def __call__(self, path: str, body: Any) -> tuple[int, Any]:
        path = path.split("?")[0]
        self.asked.append(path)
        if path in self.overrides:
            return self.overrides[path]
        match path:
            case "/server_info":
                return 200, {"vllm_config": self.config}
            case "/collective_rpc":
                (file,) = Path(body["kwargs"]["weights_path"]).glob("*.safetensors")
                weights = load_file(file)
                with torch.no_grad():
                    for name, parameter in self.model.named_parameters():
                        parameter.copy_(weights[name])
                return 200, {"results": [None]}
            case "/reset_prefix_cache":
                return 200, {"success": True}
            case "/update_weight_version":
                self.version = body["new_version"]
                return 200, {"success": True}
            case "/inference/v1/generate":
                return 200, {"choices": [self.generate(body["token_ids"], body["sampling_params"])]}
        return 404, {}

    def generate(self, prompt: list[int], options: Any) -> Any:
        assert options["logprobs"] == 0 and options["ignore_eos"]
        temperature = options["temperature"]
        with self.lock:
            engine = embedded(self.model)
            engine.stop_ids = options["stop_token_ids"] or [VOCAB]
            how = Sampling(temperature, 1.0, options["max_tokens"], options.get("seed", 0))
            one = engine.generate([prompt], how)[0]
            rows = recomputed(self.model, prompt, one, temperature or 1.0)
        content = [{"token_id": i, "logprob": row[i].item()} for i, row in zip(one.ids, rows, strict=True)]
        return {
            "token_ids": one.ids,
            "logprobs": {"content": content},
            "weight_versions": [{"version": self.version, "start": 0, "end": len(one.ids)}],
        }


@contextmanager
def serving(answer: Answer) -> Iterator[str]:
    """A server on a free port of 127.0.0.1; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, found = answer(self.path, body)
            data = json.dumps(found).encode() if not isinstance(found, bytes) else found
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = respond

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def pretended() -> Pretended:
    return Pretended(qwen3(seed=1))


def client(url: str, tmp_path: Path, model: Any = None, longest: int = 110, **changes: Any) -> ServedVllm:
    values = {"mode": "server", "url": url, "weights_folder": str(tmp_path / "weights"), "canary_tolerance": 1e-3}
    return ServedVllm(
        model or qwen3(seed=2), Tokenizer(), VllmServer(**(values | changes)), torch.float32, longest, 4
    )  # fmt: skip


def test_weights_go_through_the_folder_and_tokens_come_back(pretended: Pretended, tmp_path: Path) -> None:
    with serving(pretended) as url:
        engine = client(url, tmp_path)
        finished: list[int] = []
        completions = engine.generate(PROMPTS, sampling(temperature=0.0), finished.append)
    expected = embedded(engine.model).generate(PROMPTS, sampling(temperature=0.0))
    assert [one.ids for one in completions] == [one.ids for one in expected]
    assert [one.truncated for one in completions] == [one.truncated for one in expected]
    assert finished == [1] * len(PROMPTS)
    # Nothing is left of what was handed over, and the cache was emptied after the weights had come.
    assert not list(tmp_path.iterdir())
    order = [
        pretended.asked.index(path) for path in ("/collective_rpc", "/reset_prefix_cache", "/inference/v1/generate")
    ]
    assert order == sorted(order)
    assert engine.difference < 1e-4


def test_each_stop_id_of_the_models_generation_settings_ends_a_response(pretended: Pretended, tmp_path: Path) -> None:
    model = qwen3(seed=2)
    whole = embedded(model).generate(PROMPTS, sampling(temperature=0.0))
    second = next(one.ids[2] for one in whole if len(one.ids) > 4)
    model.generation_config.eos_token_id = [second, EOS]
    with serving(pretended) as url:
        found = client(url, tmp_path, model).generate(PROMPTS, sampling(temperature=0.0))
    expected = embedded(model).generate(PROMPTS, sampling(temperature=0.0))
    assert [(one.ids, one.truncated) for one in found] == [(one.ids, one.truncated) for one in expected]
    assert any(one.ids[-1] == second and not one.truncated for one in found)


def test_a_policy_that_nobody_trains_is_compared_in_the_servers_own_type(pretended: Pretended, tmp_path: Path) -> None:
    pretended.config["model_config"] |= {"dtype": "torch.bfloat16", "hf_overrides": {"head_dtype": "float32"}}
    settings = VllmServer(mode="server", weights_folder=str(tmp_path / "weights"))
    with serving(pretended) as url:
        settings = settings.model_copy(update={"url": url})
        assert ServedVllm(qwen3(), Tokenizer(), settings, None, 110, 4).dtype == torch.bfloat16
        assert ServedVllm(qwen3(), Tokenizer(), settings, torch.float32, 110, 4).dtype == torch.float32


def test_a_canary_that_differs_stops_the_run(pretended: Pretended, tmp_path: Path) -> None:
    pretended.overrides["/collective_rpc"] = (200, {"results": [None]})
    with serving(pretended) as url, pytest.raises(UserError, match="does not sample from the policy that is trained"):
        client(url, tmp_path).sync_weights()


def test_another_runs_weights_are_noticed(pretended: Pretended, tmp_path: Path) -> None:
    with serving(pretended) as url:
        engine = client(url, tmp_path)
        engine.sync_weights()
        pretended.version = "of another run"
        with pytest.raises(UserError, match="answered under other weights than this run handed over"):
            engine.generate(PROMPTS, sampling())


def test_a_server_in_use_by_others_is_not_given_weights_unnoticed(pretended: Pretended, tmp_path: Path) -> None:
    pretended.overrides["/reset_prefix_cache"] = (200, {"success": False})
    with serving(pretended) as url, pytest.raises(UserError, match="let no two runs share a server"):
        client(url, tmp_path).sync_weights()


def test_no_server_is_one_message(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=rf"{url} \(rollout.vllm.url\) cannot be reached.*sdpg serve"):
            client(url, tmp_path)


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        ("/server_info", (404, {}), r"does not offer /server_info \(404\): start it with `sdpg serve`"),
        ("/collective_rpc", (500, {"error": "no such folder"}), r"answers /collective_rpc with 500: .*no such folder"),
        ("/inference/v1/generate", (403, {}), r"does not offer /inference/v1/generate \(403\)"),
        ("/inference/v1/generate", (400, {"error": "too long"}), r"with 400: .*too long"),
        ("/inference/v1/generate", (500, {"error": "EngineDeadError"}), r"with 500: .*EngineDeadError"),
    ],
)
def test_what_the_server_refuses_is_shown(
    pretended: Pretended, tmp_path: Path, path: str, answer: Any, message: str
) -> None:
    pretended.overrides[path] = answer
    with serving(pretended) as url, pytest.raises(UserError, match=message):
        client(url, tmp_path).generate(PROMPTS, sampling())


def test_a_server_of_other_logprobs_or_too_short_sequences_is_refused(pretended: Pretended, tmp_path: Path) -> None:
    with serving(pretended) as url:
        with pytest.raises(UserError, match=r"take 130 tokens, but the server .* for sequences of 120"):
            client(url, tmp_path, longest=130)
        pretended.config["model_config"]["dtype"] = "torch.bfloat16"
        with pytest.raises(UserError, match=r"rounds its logits to torch\.bfloat16.*--hf-overrides '{\"head_dtype\""):
            client(url, tmp_path)
        pretended.config["model_config"]["logprobs_mode"] = "raw_logprobs"
        with pytest.raises(UserError, match=r"--logprobs-mode raw_logprobs"):
            client(url, tmp_path)


def test_a_server_that_hangs_or_dies_ends_the_call_at_once(pretended: Pretended, tmp_path: Path) -> None:
    slow, ended, asked = threading.Event(), threading.Event(), []

    def answer(path: str, body: Any) -> tuple[int, Any]:
        if path == "/inference/v1/generate" and slow.is_set():
            asked.append(path)
            ended.wait(300)
            return 500, {}
        return pretended(path, body)

    with serving(answer) as url:
        engine = client(url, tmp_path, timeout=0.5)
        engine.settings = engine.settings.model_copy(update={"timeout": 60.0})
        engine.sync_weights()
        engine.settings = engine.settings.model_copy(update={"timeout": 0.5})
        slow.set()
        with pytest.raises(UserError, match=r"did not answer within 0.5 s \(rollout.vllm.timeout\)"):
            engine.generate(PROMPTS * 20, sampling())
        ended.set()
        # Of many requests, a few at once, none follows the first that got no answer.
        assert 1 <= len(asked) < len(PROMPTS) * 20
    with pytest.raises(UserError, match=r"cannot be reached, or died"):
        engine.generate(PROMPTS, sampling())


def test_seeds_are_the_requests_own_unless_they_are_turned_off(pretended: Pretended, tmp_path: Path) -> None:
    with serving(pretended) as url:
        seeded, free = client(url, tmp_path), client(url, tmp_path, request_seeds=False)
        seeds = [option["seed"] for option in seeded.options(sampling(), 3)]
        assert len(set(seeds)) == 3 and seeds == [option["seed"] for option in seeded.options(sampling(), 3)]
        assert seeds != [option["seed"] for option in seeded.options(sampling(seed=6), 3)]
        assert all("seed" not in option for option in free.options(sampling(), 3))
        first = seeded.generate(PROMPTS, sampling())
        assert seeded.generate(PROMPTS, sampling()) == first
    assert {type(one) for one in first} == {Completion}


@pytest.mark.parametrize("held", ["thesis.txt", "model-1.safetensors", "model.safetensors", ".hidden"])
def test_a_folder_that_holds_anything_but_weights_is_not_replaced(tmp_path: Path, held: str) -> None:
    (tmp_path / "model-00000.safetensors").write_bytes(b"")
    check_weights_folder(tmp_path)
    check_weights_folder(tmp_path / "new")
    (tmp_path / held).write_text("kept")
    for place in (tmp_path, tmp_path / held):
        with pytest.raises(UserError, match=r"weights_folder is .* would be replaced"):
            check_weights_folder(place)


def test_weights_are_not_handed_over_through_a_folder_with_other_files(pretended: Pretended, tmp_path: Path) -> None:
    with serving(pretended) as url:
        engine = client(url, tmp_path)
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / "thesis.txt").write_text("kept")
        with pytest.raises(UserError, match="thesis"):
            engine.send_weights()
    assert (tmp_path / "weights" / "thesis.txt").read_text() == "kept"
