"""Tests on which address the vLLM server is started."""

from pathlib import Path
import sys

import pytest

from pipelines import serve
from sdpg.params import load_params
from sdpg.params.vllm import VllmServer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("url", "options", "host"),
    [
        ("http://127.0.0.1:8123", [], "127.0.0.1"),
        ("http://10.0.0.5:8123", [], "127.0.0.1"),
        ("http://0.0.0.0:8123", [], "127.0.0.1"),
        ("http://10.0.0.5:8123", ["--public"], "0.0.0.0"),
    ],
)
def test_the_vllm_server_listens_elsewhere_only_when_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, options: list[str], host: str
) -> None:
    read = load_params(ROOT / "params.yaml")
    rollout = read.rollout.model_copy(update={"vllm": VllmServer(mode="server", url=url)})
    (tmp_path / "config.json").write_text("{}")
    lines: list[list[str]] = []
    for name in ("VLLM_SERVER_DEV_MODE", "VLLM_NO_USAGE_STATS"):
        monkeypatch.setenv(name, "")  # the command sets them for the server, and they are put back after the test
    monkeypatch.setattr("sdpg.params.load_params", lambda: read.model_copy(update={"rollout": rollout}))
    monkeypatch.setattr("sdpg.rollouts.vllm_start.installed", lambda: True)
    monkeypatch.setattr(serve.os, "execv", lambda program, line: lines.append(line))
    monkeypatch.setattr(sys, "argv", ["serve", "--model", str(tmp_path), "--kv-cache-megabytes", "64", *options])
    serve.main()
    (line,) = lines
    assert line[line.index("--host") + 1] == host and line[line.index("--port") + 1] == "8123"
