"""Tests that missing inputs are reported with the place where they belong, and that files put there are used."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
import shutil
import socket
import threading
from typing import Any

import pytest

from pipelines.check import check_inputs
from sdpg.errors import UserError
from sdpg.evaluation.base import build_base
from sdpg.files import write_json_lines
from sdpg.models.loading import load_model
from sdpg.problems.inputs import _hub_answers, check_at_hand
from sdpg.problems.prepare import prepare, write_prepared
from tests.evaluation.test_base import params, project

__all__ = ["project"]
COMMIT = "ab" * 20
MODEL = {"kind": "hub", "id": "lab/tiny", "revision": COMMIT}
SUMS = {"kind": "hub", "id": "lab/sums", "revision": COMMIT, "config": "en", "split": "test"}


@pytest.fixture
def offline(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", project / "loaded")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    return project


def changed(**data: Any) -> Any:
    benchmarks = {"sums": {"title": "Sums", "source": SUMS}}
    return params(base__model=MODEL, data__benchmarks=benchmarks, **data)


def test_everything_that_is_missing_is_in_one_message(offline: Path) -> None:
    train = {"kind": "file", "path": "solved.jsonl", "columns": {"solution": "work"}, "made_from": SUMS}
    with pytest.raises(UserError) as caught:
        check_inputs(changed(data__train=train))
    message = str(caught.value)
    assert message.startswith("the Hugging Face hub cannot be reached")
    for text in (
        f"base.model: lab/tiny, revision {COMMIT}", "inputs/models/lab/tiny/ (config.json, *.safetensors",
        f"hf download lab/tiny --revision {COMMIT} --local-dir inputs/models/lab/tiny",
        f"data.benchmarks.sums.source: lab/sums, config en, split test, revision {COMMIT}",
        "inputs/problems/lab/sums/ (the dataset's files as they are on the hub, README.md included)",
        f"hf download --repo-type dataset lab/sums --revision {COMMIT} --local-dir inputs/problems/lab/sums",
        f"data.train.path: made from the problems of lab/sums, config en, split test, revision {COMMIT}",
        "inputs/problems/solved.jsonl (one JSON object a line, with problem, answer, work)",
    ):  # fmt: skip
        assert text in message
    assert not (offline / "data").exists()


def test_a_missing_file_says_what_it_is_made_from(offline: Path) -> None:
    train = {"kind": "file", "path": "solved.jsonl", "columns": {"solution": "work"}, "made_from": SUMS}
    with pytest.raises(
        UserError, match=r"^data\.train\.path: inputs/problems/solved\.jsonl does not exist \(made from"
    ):
        check_at_hand(params(data__train=train))


def hub_model_folder(project: Path) -> None:
    shutil.move(project / "inputs/models/tiny", project / "inputs/models/lab/tiny")


def dataset_folder(project: Path) -> None:
    rows = [{"problem": f"What is {n}+3?", "answer": str(n + 3)} for n in range(24, 30)]
    write_json_lines(project / "inputs/problems/lab/sums/en/test.jsonl", rows)
    card = "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: test\n    path: en/test.jsonl\n---\n"
    (project / "inputs/problems/lab/sums/README.md").write_text(card)


def test_files_put_where_the_message_says_are_used_without_the_hub(offline: Path) -> None:
    hub_model_folder(offline)
    dataset_folder(offline)
    settings = changed()
    check_inputs(settings)
    prepared = prepare(settings)
    assert len(prepared.benchmarks["sums"].rows) == 6
    write_prepared(prepared, Path("data"))
    folder = build_base(settings)
    assert folder is not None and load_model(folder).config.hidden_size == 32


@pytest.mark.parametrize(
    ("put", "left"),
    [(hub_model_folder, "data.benchmarks.sums.source: lab/sums"), (dataset_folder, "base.model: lab/tiny")],
)
def test_what_is_there_is_not_asked_for(offline: Path, put: Callable[[Path], None], left: str) -> None:
    put(offline)
    with pytest.raises(UserError) as caught:
        check_at_hand(changed())
    assert [line.strip().split(",")[0] for line in str(caught.value).splitlines()[1::3]] == [left]


def test_a_hub_that_answers_is_left_to_those_who_ask_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdpg.problems.inputs._hub_answers", lambda: True)
    check_at_hand(changed())


@pytest.mark.parametrize("weights", ["*.safetensors", "tokenizer*"])
def test_a_model_folder_by_id_is_checked_like_any_other(offline: Path, weights: str) -> None:
    hub_model_folder(offline)
    for file in (offline / "inputs/models/lab/tiny").glob(weights):
        file.unlink()
    with pytest.raises(UserError, match=r"base\.model\.id: .*lab/tiny has no .*safetensors|lab/tiny has no tokenizer"):
        check_inputs(params(base__model=MODEL))


class _Answer(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize("status", [200, 404, 503])
def test_any_answer_means_that_the_hub_is_there(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_Answer, "status", status)
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert _hub_answers()


def test_silence_means_that_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
    assert not _hub_answers()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert not _hub_answers()
