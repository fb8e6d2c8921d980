"""Tests that one process at a time writes a place, with real processes that are stopped and killed."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import platform
import signal
import subprocess
import sys
import threading

import pytest

from sdpg.locks import InUse, exclusive, lock_file

HOLD = "import sys; from sdpg.locks import exclusive\nwith exclusive(*sys.argv[1:]): print('held', flush=True); input()"
FORKED = """
import os, sys, time
from sdpg.locks import exclusive
with exclusive("runs/grpo-0"):
    child = os.fork()
    if child == 0:
        time.sleep(600)
    print(child, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    return tmp_path


@contextmanager
def holder(*places: str, program: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the locks of these places; it has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_second_says_who_holds_it_and_what_to_do(project: Path) -> None:
    with holder("data", "runs/grpo-0") as process:
        assert first_line(process) == "held"
        with pytest.raises(InUse) as refused, exclusive("runs/rlsd-0", "runs/grpo-0"):
            pytest.fail("two write runs/grpo-0")
        for part in ("runs/grpo-0 is in use", f"process {process.pid} on {platform.node()}", f"kill {process.pid}",
                     "since 20", "exclusive(*sys.argv[1:])", "run the same command again"):  # fmt: skip
            assert part in str(refused.value)
        # Of several places, none is kept after one is refused; and others are free.
        with holder("runs/rlsd-0") as other:
            assert first_line(other) == "held"
        assert process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dead_owner_frees_it(number: signal.Signals) -> None:
    with holder("data") as process:
        assert first_line(process) == "held"
        process.send_signal(number)
        process.wait()
        with exclusive("data"):
            pass


def test_a_stopped_owner_keeps_it() -> None:
    with holder("data") as process:
        assert first_line(process) == "held"
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(InUse, match=str(process.pid)), exclusive("data"):
            pass


def test_a_child_that_outlives_its_parent_does_not_keep_it() -> None:
    with holder(program=FORKED) as process:
        child = int(first_line(process))
        try:
            with pytest.raises(InUse), exclusive("runs/grpo-0"):
                pass
            process.kill()
            process.wait()
            os.kill(child, 0)  # it lives
            with exclusive("runs/grpo-0"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_no_program_that_the_owner_starts_keeps_it() -> None:
    with exclusive("data"):
        started = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with holder("data") as process:
            assert first_line(process) == "held"
    finally:
        started.communicate(b"\n")


def test_a_thread_of_the_same_process_is_refused_too() -> None:
    refused: list[InUse] = []

    def second() -> None:
        try:
            with exclusive("data"):
                pass
        except InUse as error:
            refused.append(error)

    with exclusive("data"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        # And the refusal has not given the first one's lock away.
        with holder("data") as process:
            assert first_line(process) == ""
    assert len(refused) == 1 and f"process {os.getpid()} " in str(refused[0])


def test_an_error_gives_it_back_and_no_owner_is_named_any_more() -> None:
    with pytest.raises(RuntimeError), exclusive("reports"):
        raise RuntimeError
    assert lock_file("reports").read_text() == ""
    with exclusive("reports"):
        assert str(os.getpid()) in lock_file("reports").read_text()


@pytest.mark.parametrize("left", [b"", b"\xff\0", b"[]", b'{"pid": "x", "host": 3}', b'{"pid": 99999999999}'])
def test_a_damaged_name_is_no_obstacle(left: bytes) -> None:
    with holder("data") as process:
        assert first_line(process) == "held"
        lock_file("data").write_bytes(left)
        with pytest.raises(InUse, match="data is in use"), exclusive("data"):
            pass


def test_names_of_places_do_not_meet() -> None:
    places = ["runs/grpo-0", "runs-grpo-0", "runs/grpo/0", "../x", "x" * 5000, "é", ""]
    assert len({lock_file(place) for place in places}) == len(places)
    for place in places:
        with exclusive(place):
            assert lock_file(place).parent == Path(".state/locks") and lock_file(place).is_file()
