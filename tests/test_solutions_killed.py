"""The command killed in the middle: what was paid for and has arrived is never paid for again, and nothing is lost."""

import contextlib
from pathlib import Path
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any

from paid_server import MODEL, Call, PaidServer, Reply, chat, error, paid_server, solved
import pytest
from solutions_project import command, environment, make_project, questions, read_lines, solve

from sdpg.solutions.store import ANSWERED, LOST, SENT, AnswerStore

PROBLEMS = 40
AT_ONCE = 4


def troubled(call: Call) -> Reply:
    """A server in trouble: of the questions some are answered wrong, cut, late, or with an error at first."""
    number = int(call.question.split("+")[0].split()[-1])
    text = "It is \\boxed{-1}." if number % 10 == 1 else solved(call.question)
    if call.nth == 1 and number % 5 == 2:
        return error(429, Retry_After="0.2") if number % 2 else error(500)
    if call.nth == 1 and number % 10 == 3:
        return Reply(body=chat(text), cut=40, paid=True)
    return Reply(body=chat(text), delay=0.04, paid=True)


def options(server: PaidServer, out: str = "solved.jsonl", answers: str = "inputs/solutions") -> list[str]:
    return ["--endpoint", server.url, "--model", MODEL, "--samples", "2", "--concurrency", str(AT_ONCE), "--first-pause",
            "0.05", "--out", out, "--answers", answers]  # fmt: skip


def answered_digests(project: Path) -> set[str]:
    """What the store holds, read without the command."""
    with contextlib.closing(sqlite3.connect(project / "inputs/solutions/answers.sqlite")) as database:
        return {row[0] for row in database.execute("SELECT digest FROM requests WHERE state = ?", (ANSWERED,))}


def under_way(project: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(project / "inputs/solutions/answers.sqlite")) as database:
        return {row[0] for row in database.execute("SELECT digest FROM requests WHERE state = ?", (SENT,))}


def kill_after(project: Path, server: PaidServer, requests: int, how: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Starts the command and ends it once the server has got so many requests more."""
    target = len(server.asked) + requests
    with subprocess.Popen(
        command(*options(server)), cwd=project, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:  # fmt: skip
        assert server.wait_for(target, 90), process.communicate()[1]
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess([], process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False], ids=["with-idempotency", "without"])
def test_killed_at_any_moment_nothing_is_paid_twice_and_nothing_lost(tmp_path: Path, once: bool) -> None:
    project = make_project(tmp_path, questions(PROBLEMS))
    with paid_server(troubled, once=once) as server:
        again: set[str] = set()
        for moment in (1, 3, 11, 16):
            done = kill_after(project, server, moment, signal.SIGKILL)
            assert done.returncode == -signal.SIGKILL
            assert not (project / "inputs/problems/solved.jsonl").exists()
            time.sleep(0.3)  # the server ends what it was at
            kept, cut_off, calls = answered_digests(project), under_way(project), len(server.asked)
            assert len(cut_off) <= AT_ONCE
            again |= cut_off
            # Whatever the server has charged for is either kept, or known to have been under way, or broke off before.
            lost = {key for key in server.paid if key not in kept | cut_off}
            assert all(_cut(key, server) for key in lost)
            done = kill_after(project, server, 2, signal.SIGKILL)
            assert not kept & {call.key for call in server.asked[calls:]}, "an answer that is kept is not asked again"
            time.sleep(0.3)
            again |= under_way(project)
        kept, calls = answered_digests(project), len(server.asked)
        done = solve(project, *options(server))
        assert done.returncode == 0, done.stderr
        assert "were sent and brought no whole answer; an endpoint may have charged them" in done.stderr
        assert not kept & {call.key for call in server.asked[calls:]}
        calls = len(server.asked)
        assert solve(project, *options(server)).returncode == 0 and len(server.asked) == calls, "and all is kept"

        if once:
            assert set(server.paid.values()) == {1}
        else:
            twice = {key for key, times in server.paid.items() if times > 1}
            assert all(key in again or _cut(key, server) for key in twice), "only what was under way, or broke off"
        # A second sample where the first was wrong, and no request beside.
        assert len(server.paid) == PROBLEMS + 4
        # Never interrupted, it comes out the same.
        server.once = True
        assert solve(project, *options(server, "other.jsonl", "inputs/other")).returncode == 0
    folder = project / "inputs/problems"
    assert (folder / "other.jsonl").read_bytes() == (folder / "solved.jsonl").read_bytes()
    solutions = [row["solution"] for row in read_lines(folder / "solved.jsonl")]
    assert [n for n, text in enumerate(solutions) if text is None] == [1, 11, 21, 31]


def _cut(key: str, server: PaidServer) -> bool:
    """Whether the server broke off an answer to this request."""
    question = next(call.question for call in server.asked if call.key == key)
    return int(question.split("+")[0].split()[-1]) % 10 == 3


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_waits_for_what_is_paid(tmp_path: Path, how: signal.Signals) -> None:
    project = make_project(tmp_path, questions(PROBLEMS))
    with paid_server(lambda call: Reply(body=chat(solved(call.question)), delay=0.3, paid=True)) as server:
        done = kill_after(project, server, 6, how)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert "stopping: answers under way are waited for" in done.stderr
        asked = len(server.asked)
        assert asked <= 6 + AT_ONCE and f"error: interrupted\n{asked} answers are kept" in done.stderr
        assert answered_digests(project) == set(server.paid) and not under_way(project)


CHILD = """
import itertools, pathlib, sys
from sdpg.solutions.store import AnswerStore
with AnswerStore(pathlib.Path(sys.argv[1])) as store:
    for number in itertools.count(int(sys.argv[2])):
        store.sent(f"{number}")
        print("sent", number, flush=True)
        store.put(f"{number}", {"text": "x" * 20_000, "number": number})
        print("kept", number, flush=True)
"""


def test_a_store_whose_user_is_killed_keeps_all_that_it_took(tmp_path: Path) -> None:
    kept: set[int] = set()
    for round_ in range(6):
        start = 1000 * round_
        process: Any = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), str(start)], env=environment(), text=True, stdout=subprocess.PIPE
        )  # fmt: skip
        assert process.stdout.readline() == f"sent {start}\n"
        time.sleep(0.05 + 0.037 * round_)
        process.kill()
        lines = [line.split() for line in process.stdout.read().splitlines() if line.count(" ") == 1]
        process.wait()
        new = {int(number) for what, number in lines if what == "kept"}
        assert new
        kept |= new
        with AnswerStore(tmp_path) as store:
            for number in kept:
                assert store.get(str(number))["number"] == number
            states = store.states()
            assert states[LOST] == 0 and states[SENT] <= round_ + 1
            assert len(kept) <= states[ANSWERED] <= len(kept) + round_ + 1
