"""Tests that whatever bytes a run's files hold, their readers return or raise an error that names the file."""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
import pytest

from app import sources, store
from app.sources import SAMPLE
from sdpg.errors import UserError
from sdpg.params import read_yaml
from sdpg.records.manifest import read_manifest
from sdpg.records.schemas import read_evaluations, read_rollouts
from sdpg.records.watch import read_history
from sdpg.reproduction.divergence import first_differences
from sdpg.results import runs
from sdpg.tuning.trials import read_curve

RUN = SAMPLE / "runs/grpo-0"
METRICS = b"step,reward,entropy,length,leak\n1,0.5,,12.0,a\n2,-1e3,nan,3,b\n"
CONFIG = b"method: grpo\nseed: 0\nparams: {train: {lr: 1.0e-4}, run: [grpo, \xc3\xbc]}\nversions: {torch: '2.13.0'}\n"
MANIFEST = json.dumps({
    "version": 1, "name": "grpo-0", "fingerprint": "", "made_from": {}, "files": {"a": {"size": 1, "sha256": "0" * 64}}
}).encode()  # fmt: skip
NASTY = (
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\n", b",", b'"', b"'", b"nan", b"inf", b"1e400", b"9" * 5000, b"[" * 3000,
    b"&a [*a]", b"!!bool x", b"2026-02-31", b"step,step", b"\r", b"PAR1", b"{", b"null", b": ", b"\xef\xbb\xbf",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file cut short, with bits flipped, with parts left out, repeated or replaced; or any bytes at all."""
    content = whole
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        end = draw(st.integers(at, min(len(content), at + 40)))
        piece = draw(st.sampled_from(NASTY) | st.binary(max_size=8))
        kind = draw(st.sampled_from(("cut", "flip", "replace", "repeat", "anything")))
        if kind == "cut":
            content = content[:at]
        elif kind == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << draw(st.integers(0, 7))]) + content[at + 1 :]
        elif kind == "repeat":
            content = content[:end] + content[at:]
        elif kind == "anything":
            content = piece if draw(st.booleans()) else draw(st.binary(max_size=60))
        else:
            content = content[:at] + piece + content[end:]
    return content


def last_step(file: Path) -> Any:
    run = runs.Run("grpo", 0, file.parent, {}, runs._read_csv(file, ["step", "reward"], "train@grpo-0"), {}, {})
    return run.last_step


def compared(file: Path) -> Any:
    other = file.parent / "other"
    other.mkdir(exist_ok=True)
    (other / "metrics.csv").write_bytes(METRICS)
    return first_differences(other, file.parent), first_differences(file.parent, other)


READERS: list[tuple[str, str, bytes, Callable[[Path], Any]]] = [
    ("metrics.csv in tables", "metrics.csv", METRICS, last_step),
    ("metrics.csv in alarms", "metrics.csv", METRICS, read_history),
    ("metrics.csv in the app", "metrics.csv", METRICS, store._read_csv),
    ("metrics.csv in verify", "metrics.csv", METRICS, compared),
    ("curves.csv of a trial", "curves.csv", b"step,validation\n0,0.5\n4,0.75\n", lambda file: read_curve(file.parent)),
    ("config.yaml", "config.yaml", CONFIG, read_yaml),
    ("config.yaml in the app", "config.yaml", CONFIG, sources.read_config),
    ("manifest.json", "manifest.json", MANIFEST, lambda file: read_manifest(file.parent)),
    ("rollouts", "step-000001-rank-0.parquet", b"", read_rollouts),
    ("evaluations", "final.parquet", b"", read_evaluations),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


@pytest.mark.parametrize(("name", "file", "whole", "read"), READERS, ids=[reader[0] for reader in READERS])
def test_any_bytes_are_read_or_refused_by_name(
    name: str, file: str, whole: bytes, read: Callable[[Path], Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)  # the app keeps what it has read in the folder where it was started
    if not whole:
        [source, *_] = sorted((RUN / "rollouts").iterdir()) if name == "rollouts" else sorted(
            (SAMPLE / "evaluations/grpo-0").glob("*.parquet"))  # fmt: skip
        whole = source.read_bytes()
    path = place / file
    path.write_bytes(whole)
    read(path)  # the whole file can be read

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged(whole))
    @example(b"")
    @example(b"\xff\xfe\x00")
    @example(b"step,reward\n1,2,3\n4\n")
    @example(b"step,reward\nnan,1\n")
    @example(b"step,reward\n1e400,1\n")
    @example(b"step,reward,\x00\n1,2,3\n")
    @example(b"step,reward\n1," + b"9" * 200_000 + b"\n")
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            assert str(path) in str(error) or read is sources.read_config, error

    check()
