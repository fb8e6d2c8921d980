"""Tests the rehearsal of qwen3-4b: what sets its profile apart, and the inputs that it reads."""

from pathlib import Path
import socket
import sys
from typing import Any

import pytest
import torch

from pipelines import rehearse
from pipelines.rehearsal import HELD_OUT, rehearsal_changes, write_inputs
from sdpg.errors import UserError
from sdpg.files import read_json_lines, write_json_lines
from sdpg.models.loading import load_model
from sdpg.objective.advantages import group_advantages
from sdpg.params import HubModel, Params, load_params, read_yaml
from sdpg.params.configure import configure
from sdpg.params.vllm import VllmServer
from sdpg.planning.plan import planned_params
from sdpg.problems.prepare import prepare
from sdpg.problems.prompts import prompt_ids
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.rewards.verifiers import Verifier
from sdpg.rollouts import Sampling
from sdpg.rollouts.embedded import EmbeddedEngine
from tests.params.test_overlays import leaves, project

__all__ = ["project"]
ROOT = Path(__file__).parents[2]
DIFFERENCES = {
    "/profile",
    # paths
    "/data/folder", "/base/folder", "/base/model/id", "/base/model/revision",
    # steps
    "/train/steps", "/train/eval_every", "/train/checkpoint_every", "/train/record_every", "/tune/steps",
    "/tune/eval_every",
    # batches
    "/train/prompts_per_step", "/train/tokens_per_micro_batch", "/rollout/batch", "/evaluation/batch",
    # sizes
    "/data/validation_size", "/rollout/max_tokens", "/rollout/vllm/kv_cache_megabytes", "/reward/workers",
    "/train/head_megabytes", "/train/threads", "/train/distributed/processes", "/train/record_rows",
    "/evaluation/samples", "/evaluation/final_samples", "/evaluation/max_tokens", "/report/resamples", "/tune/samples",
    # what a CPU cannot do, or only in minutes
    "/rollout/vllm/sleep", "/rollout/vllm/eager", "/train/device",
}  # fmt: skip


def test_it_is_qwen3_4b_but_for_paths_sizes_steps_and_batches(project: Path) -> None:
    trees = []
    for profile in ("qwen3-4b", "rehearsal"):
        configure(project, profile=profile, preset="paper", methods="all")
        trees.append(leaves(read_yaml(project / "params.yaml")))
    large, small = trees
    assert large.keys() == small.keys()
    assert {key for key in large if large[key] != small[key]} == DIFFERENCES


QWEN = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-4b")


def test_the_profile_is_what_the_command_makes_of_qwen3_4b(project: Path) -> None:
    configure(project, profile="rehearsal", preset="paper")
    expected = load_params(project / "params.yaml")
    configure(project, profile="qwen3-4b", changes=rehearsal_changes("qwen3-4b", project))
    assert load_params(project / "params.yaml") == expected
    assert planned_params("qwen3-4b", project, rehearsal_changes("qwen3-4b", project)) == expected


@pytest.mark.parametrize("profile", QWEN)
@pytest.mark.parametrize(("server", "lora"), [(False, False), (True, False), (False, True), (True, True)])
def test_every_profiles_path_is_rehearsed_with_a_server_and_with_lora(
    project: Path, profile: str, server: bool, lora: bool
) -> None:
    url = "http://127.0.0.1:8123" if server else None
    changes = rehearsal_changes(profile, project, url, lora)
    real, small = planned_params(profile, project), planned_params(profile, project, changes)
    trees = [leaves(one.model_dump(mode="json")) for one in (real, small)]
    different = {key for key in trees[0].keys() | trees[1].keys() if trees[0].get(key) != trees[1].get(key)}
    allowed = DIFFERENCES | {"/data/benchmarks/gsm8k/problems"}
    if server:
        allowed |= {key for tree in trees for key in tree if key.startswith("/rollout/vllm")}
        assert isinstance(small.rollout.vllm, VllmServer) and small.rollout.vllm.url == url
    if lora:
        allowed |= {key for tree in trees for key in tree if key.startswith("/train/lora")}
        assert small.train.lora is not None and small.train.lora.target_modules == "all-linear"
    assert different <= allowed
    assert small.profile == "rehearsal"
    # One process where the profile has one.
    processes = 1 if real.train.distributed.processes == 1 else 2
    assert small.train.distributed == real.train.distributed.model_copy(update={"processes": processes})


COUNTS = {"aime24": 30, "aime25": 30, "amc23": 40}


def write_benchmarks(folder: Path) -> None:
    """Problems other than the real ones, in their form and number."""
    for name, count in COUNTS.items():
        rows = [{"problem": f"In {name}, find $x_{{{i}}}$.", "answer": str(i)} for i in range(1, count + 1)]
        write_json_lines(folder / f"{name}.jsonl", rows)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Params:
    """The inputs, written once."""
    folder = tmp_path_factory.mktemp("rehearsal")
    write_benchmarks(folder / "jsonl")
    params = planned_params("rehearsal", ROOT)
    data = params.data.model_copy(update={"folder": str(folder / "problems")})
    base = params.base.model_copy(update={"folder": str(folder / "models")})
    params = params.model_copy(update={"data": data, "base": base})
    written = write_inputs(params, folder / "jsonl")
    assert len(written) == 5 and all(path.exists() for path in written)
    return params


def model_folder(params: Params) -> Path:
    assert isinstance(params.base.model, HubModel) and params.base.local_folder is not None
    return params.base.local_folder


def test_prepare_takes_them_for_the_hubs(inputs: Params) -> None:
    prepared = prepare(inputs)
    assert {name: len(rows.rows) for name, rows in prepared.benchmarks.items()} == COUNTS
    assert (len(prepared.train.rows), len(prepared.validation.rows)) == (72, 8)
    row = prepared.train.rows[0]
    assert "Hint: the correct answer is" in (row.teacher_prompt or "") and "<|im_start|>user" in row.student_prompt
    [aime] = [r for r in prepared.benchmarks["aime24"].rows if r.answer == "7"]
    assert "In aime24, find $x_{7}$." in aime.student_prompt


def test_the_model_is_laid_out_like_the_large_one(inputs: Params) -> None:
    folder = model_folder(inputs)
    assert len(list(folder.glob("model-*.safetensors"))) > 1 and (folder / "model.safetensors.index.json").is_file()
    model = load_model(folder)
    config = model.config
    assert config.tie_word_embeddings and config.head_dim == 128 and config.max_position_embeddings == 40_960
    assert config.rope_parameters["rope_theta"] == 1e6
    assert config.vocab_size == len(load_tokenizer(folder))


def test_some_random_responses_are_right_so_that_gates_open(inputs: Params) -> None:
    tokenizer = load_tokenizer(model_folder(inputs))
    rows = prepare(inputs).train.rows[: inputs.train.prompts_per_step]
    siblings = inputs.train.responses_per_prompt
    asked = [row for row in rows for _ in range(siblings)]
    engine = EmbeddedEngine(load_model(model_folder(inputs)), tokenizer, 64)
    sampling = Sampling(1.0, 1.0, inputs.rollout.max_tokens, 0)
    completions = engine.generate([prompt_ids(tokenizer, row.student_prompt) for row in asked], sampling)
    texts = [str(tokenizer.decode(completion.ids, skip_special_tokens=True)) for completion in completions]
    with Verifier(inputs.reward) as verifier:
        verdicts = verifier.score(texts, [row.answer for row in asked], [one.truncated for one in completions])
    rewards = torch.tensor([one.reward for one in verdicts]).view(-1, siblings).double()
    advantages = group_advantages(rewards, "population", 1e-6)
    opened = (advantages > 0).any(dim=1).sum().item()
    assert opened >= 1, "or neither a teacher's pass nor an outcome term would be rehearsed"
    assert opened < len(rows), "groups of equal rewards are rehearsed too"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "amc23.jsonl").unlink(), r"amc23\.jsonl does not exist: --dir is a folder with"),
        (
            lambda folder: write_json_lines(folder / "aime25.jsonl", read_json_lines(folder / "aime25.jsonl")[:-1]),
            r"aime25\.jsonl holds 29 problems, but AIME25 has 30",
        ),
    ],
)
def test_a_benchmark_that_is_not_whole_is_refused(inputs: Params, tmp_path: Path, change: Any, message: str) -> None:
    source = Path(inputs.data.folder).parent / "jsonl"
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    data = inputs.data.model_copy(update={"folder": str(tmp_path / "problems")})
    with pytest.raises(UserError, match=message):
        write_inputs(inputs.model_copy(update={"data": data}), tmp_path)
    assert not (tmp_path / "problems").exists()


def test_what_other_profiles_read_is_left_alone(project: Path) -> None:
    configure(project, profile="rehearsal")
    rehearsal = load_params(project / "params.yaml")
    configure(project, profile="qwen3-4b")
    real = load_params(project / "params.yaml")
    assert (real.data.folder, real.base.folder) == ("inputs/problems", "inputs/models")
    assert Path(rehearsal.data.folder).parent == Path(rehearsal.base.folder).parent == Path("inputs/rehearsal")


def test_gsm8ks_form_is_made_up_in_the_hubs_layout(tmp_path: Path) -> None:
    params = planned_params("qwen3-0.6b", ROOT, rehearsal_changes("qwen3-0.6b", ROOT))
    data = params.data.model_copy(update={"folder": str(tmp_path / "problems")})
    base = params.base.model_copy(update={"folder": str(tmp_path / "models")})
    params = params.model_copy(update={"data": data, "base": base})
    # No file of the user's is read.
    assert len(write_inputs(params, tmp_path / "nowhere")) == 2
    prepared = prepare(params)
    assert {name: len(rows.rows) for name, rows in prepared.benchmarks.items()} == {"gsm8k": HELD_OUT}
    assert (len(prepared.train.rows), len(prepared.validation.rows)) == (72, 8)
    row = prepared.train.rows[2]
    assert row.answer in "0123456789" and row.solution and "####" not in row.solution
    assert row.solution in (row.teacher_prompt or "")


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The parameters of a rehearsal with a server at a free port, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    return planned_params("qwen3-4b", ROOT, rehearsal_changes("qwen3-4b", ROOT, url))


def answers(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0


def test_the_server_is_there_within_the_block_and_gone_after_it(
    serving: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(serving.rollout.vllm, VllmServer)
    url = serving.rollout.vllm.url
    code = f"""
import http.server, time
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
time.sleep(1.5)  # as a server that takes time to start
http.server.HTTPServer(("127.0.0.1", {url.rpartition(":")[2]}), Health).serve_forever()
"""
    monkeypatch.setattr(rehearse, "server_command", lambda params: [sys.executable, "-c", code])
    with rehearse.served(serving):
        assert answers(url)
        with pytest.raises(UserError, match=r"listens on 127\.0\.0\.1:\d+ already"), rehearse.served(serving):
            pass
        assert answers(url), "somebody else's server is left alone"
    assert not answers(url)
    with pytest.raises(ZeroDivisionError), rehearse.served(serving):
        raise ZeroDivisionError
    assert not answers(url)


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(
    serving: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearse, "server_command", lambda params: [sys.executable, "-c", "raise SystemExit('no KV')"])
    message = r"did not start; \.state/rehearsal-server\.log ends with:\nno KV"
    with pytest.raises(UserError, match=message), rehearse.served(serving):
        pass


def test_without_a_server_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearse, "server_command", lambda params: pytest.fail("a server is started"))
    with rehearse.served(planned_params("rehearsal", ROOT)):
        pass


def test_the_server_starts_from_the_rehearsals_model(serving: Params) -> None:
    command = rehearse.server_command(serving)
    assert command[2:5] == ["pipelines.serve", "--model", "inputs/rehearsal/models/rehearsal/random-weights"]
    assert "--eager" in command and "--kv-cache-megabytes" in command
