"""Tests that a worker which is stopped, killed or starved costs no answer its reward, and hangs nothing."""

from collections.abc import Iterator
import os
from pathlib import Path
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from sdpg.params import RewardParams
from sdpg.rewards.math_verify_pool import MATH_VERIFY_MEMORY_BYTES
from sdpg.rewards.verifiers import Status, Verifier
from sdpg.rewards.worker_pool import PairPool

ENDLESS = r"\binom{10^9}{5\cdot 10^8}"
"""One call of C code that no signal handler of Python's interrupts."""


def wait_for_the_word(folder: str, answer: str) -> bool:
    """Runs in a worker: says who it is, then works until the file ``go`` is there."""
    (Path(folder) / f"{answer}-{os.getpid()}").touch()
    while not (Path(folder) / "go").exists():
        pass
    return answer != "wrong"


def sleep_or_not(gold: str, answer: str) -> bool:
    """Runs in a worker."""
    if answer == "sleep":
        time.sleep(10_000)
    if answer == "raise":
        raise LookupError(gold)
    if answer == "recurse":
        return sleep_or_not(gold, answer)
    return gold == answer


def work_on_one_core(core: str, seconds: str) -> bool:
    """Runs in a worker: takes so much processor time on a core, and by the clock at least twice as much."""
    os.sched_setaffinity(0, {int(core)})
    begin, begun = time.perf_counter(), time.process_time()
    while time.process_time() - begun < float(seconds):
        pass
    return time.perf_counter() - begin > 2 * float(seconds)


def memory_limit(gold: str, answer: str) -> int:
    """Runs in a worker."""
    return resource.getrlimit(resource.RLIMIT_AS)[0]


def fail_to_start() -> None:
    """Runs in a worker."""
    os._exit(7)


def seen(folder: Path, answer: str) -> list[int]:
    """Returns the processes that have begun with an answer."""
    return [int(path.name.rpartition("-")[2]) for path in folder.glob(f"{answer}-*")]


def when_begun(folder: Path, answer: str, *signals: signal.Signals) -> threading.Thread:
    """Sends the signals to the worker that has begun with an answer, and then gives the word."""

    def act() -> None:
        while not (begun := seen(folder, answer)):
            time.sleep(0.01)
        for number in signals:
            os.kill(begun[0], number)
        (folder / "go").touch()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def busy_core() -> Iterator[int]:
    """A core on which four processes do nothing but work."""
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}})\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    yield core
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_is_stopped_or_killed_is_replaced_and_its_answer_tried_again(
    tmp_path: Path, number: signal.Signals
) -> None:
    pool = PairPool(wait_for_the_word, 2, timeout=20.0)
    thread = when_begun(tmp_path, "second", number)
    pairs = [(str(tmp_path), answer) for answer in ("first", "second", "wrong", "fourth")]
    try:
        assert list(pool.run(pairs).values()) == [True, True, False, True] and pool.failures == 0
        thread.join()
        assert len(seen(tmp_path, "second")) == 2 and len(seen(tmp_path, "fourth")) == 1
    finally:
        pool.close()


def test_an_answer_that_breaks_two_workers_has_no_verdict(tmp_path: Path) -> None:
    pool = PairPool(wait_for_the_word, 1, timeout=20.0)

    def kill_twice() -> None:
        killed: set[int] = set()
        while len(killed) < 2:
            for process in set(seen(tmp_path, "second")) - killed:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
            time.sleep(0.01)
        (tmp_path / "go").touch()

    threading.Thread(target=kill_twice, daemon=True).start()
    try:
        assert list(pool.run([(str(tmp_path), answer) for answer in ("second", "third")]).values()) == [None, True]
        assert pool.failures == 1 and len(seen(tmp_path, "second")) == 2 and len(seen(tmp_path, "third")) == 1
    finally:
        pool.close()


def test_an_idle_worker_that_is_stopped_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    pool = PairPool(wait_for_the_word, 1, timeout=20.0)
    try:
        assert pool.run([(str(tmp_path), "first")]) == {(str(tmp_path), "first"): True}
        os.kill(seen(tmp_path, "first")[0], signal.SIGSTOP)
        assert pool.run([(str(tmp_path), "second")]) == {(str(tmp_path), "second"): True}
        assert seen(tmp_path, "second") != seen(tmp_path, "first") and pool.failures == 0
        os.kill(seen(tmp_path, "second")[0], signal.SIGSTOP)
    finally:
        pool.close()  # a stopped worker ends too


def test_waiting_and_recursion_count_against_the_answer_and_errors_are_raised() -> None:
    pool = PairPool(sleep_or_not, 1, timeout=0.5)
    try:
        found = pool.run([("a", "a"), ("a", "sleep"), ("a", "recurse"), ("a", "b")])
        assert list(found.values()) == [True, None, None, False] and pool.failures == 2
        with pytest.raises(LookupError, match="gold"):
            pool.run([("a", "a"), ("gold", "raise"), ("a", "b")])
        assert pool.run([("b", "b")]) == {("b", "b"): True}
    finally:
        pool.close()


def test_workers_that_do_not_start_are_an_error_and_no_verdict() -> None:
    with pytest.raises(RuntimeError, match=r"3 verifier workers in a row ended while .* exit code 7"):
        PairPool(sleep_or_not, 1, timeout=1.0, warm=fail_to_start).run([("a", "a")])


def test_workers_have_little_memory() -> None:
    assert MATH_VERIFY_MEMORY_BYTES < 500_000_000
    pool = PairPool(memory_limit, 1, timeout=5.0, memory=MATH_VERIFY_MEMORY_BYTES)
    assert pool.run([("a", "b")]) == {("a", "b"): MATH_VERIFY_MEMORY_BYTES}
    pool.close()
    with Verifier(RewardParams()) as verifier:
        assert verifier._pool._task.memory == MATH_VERIFY_MEMORY_BYTES


def test_a_process_ends_although_its_worker_is_stopped() -> None:
    code = (
        "import os, signal; from sdpg.rewards.worker_pool import PairPool\n"
        "from tests.rewards.test_worker_pool import sleep_or_not\n"
        "pool = PairPool(sleep_or_not, 1, 5.0); print(pool.run([('a', 'a')]))\n"
        "os.kill(pool._workers[0].process.pid, signal.SIGSTOP)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{('a', 'a'): True}\n", "")


def test_the_answers_after_hostile_ones_are_not_punished() -> None:
    pairs = [
        ("204", r"\sum_{a=1}^{99999}\sum_{b=1}^{99999} \sin(ab)"),
        (r"\sqrt{2}+1", r"1+\sqrt{2}"),
        (r"x^2+1", "1+x^2"),
    ]
    with Verifier(RewardParams(timeout=0.2, workers=1)) as verifier:
        assert verifier.compare(pairs) == [Status.TIMEOUT, Status.CORRECT, Status.CORRECT]
        assert verifier.failures == 1


def test_a_starved_worker_is_not_the_answers_fault(busy_core: int) -> None:
    pool = PairPool(work_on_one_core, 1, timeout=0.2)
    try:
        assert pool.run([(str(busy_core), "0.1"), (str(busy_core), "0.4")]) == {
            (str(busy_core), "0.1"): True, (str(busy_core), "0.4"): None
        }  # fmt: skip
    finally:
        pool.close()
