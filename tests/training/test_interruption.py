"""Tests SIGTERM: training keeps what it has done and goes on to the same bits, other work ends, a second one kills."""

from pathlib import Path
import random
import subprocess
import sys

from tests.helpers.interrupted import STEPS, TIMES

ROOT = Path(__file__).parents[2]


def files(folder: Path) -> dict[str, bytes]:
    """Every file but timing.csv, which holds times; records say when they were written in no column."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timing.csv"
    }


def test_sigterm_at_ten_random_moments_loses_no_step_and_no_bit(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.helpers.interrupted", str(tmp_path), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    said = f"seed {seed}\n{done.stdout}\n{done.stderr[-3000:]}"
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("attempt ")]
    assert [code for code, _ in lines] == [*["75"] * TIMES, "0"], said
    # A step that was begun is finished and kept.
    kept = [0 if name == "nothing" else int(name.removeprefix("checkpoint-")) for _, name in lines]
    assert kept == sorted(kept) and kept[-1] == STEPS and len(set(kept)) > TIMES // 2, said
    assert done.stderr.count("a second one ends this at once") == TIMES, said
    assert f"sdpg-ufkl-0: interrupted with {kept[4]} of {STEPS} steps done, which are kept: run the same" in done.stderr
    whole, resumed = files(tmp_path / "whole"), files(tmp_path / "interrupted")
    assert whole.keys() == resumed.keys() and len(whole) > STEPS
    assert [name for name in whole if whole[name] != resumed[name]] == [], said


def started(body: str) -> subprocess.Popen[str]:
    """A process under a handler, which has said that it is ready."""
    code = f"""
import sys, time, threading
from sdpg import interruption
from sdpg.errors import entry_point
from sdpg.interruption import ended_by_termination, heard_termination

def main():
    {body}

entry_point(main)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_a_second_request_ends_a_process_that_waits_and_the_same_one_does_not() -> None:
    # The main thread waits for what never comes, and runs no handler.
    body = """
    interruption.SAME_REQUEST = float(1e9 if {patient} else 0)
    with heard_termination() as asked:
        print("ready", flush=True)
        while not asked():
            time.sleep(0.01)
        print("asked", flush=True)
        {then}
"""
    process = started(body.format(patient=False, then="threading.Event().wait()"))
    process.terminate()
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    process.terminate()
    assert process.wait(60) == 128 + 15
    process = started(body.format(patient=True, then="sys.stdin.readline()"))
    process.terminate()
    assert process.stdout is not None and process.stdout.readline() == "asked\n"
    process.terminate()
    # Its reading ends with the input, which is closed here.
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_work_that_is_not_kept_in_parts_ends_at_once_with_the_code_that_says_so() -> None:
    body = """
    with ended_by_termination("the base"):
        try:
            print("ready", flush=True)
            threading.Event().wait()
        finally:
            print("cleaned up", flush=True)
"""
    process = started(body)
    process.terminate()
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (75, "cleaned up\n")
    assert error == "SIGTERM: the base is not finished, and starts anew when the same command is run again\n"
