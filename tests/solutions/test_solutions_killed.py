"""Tests kills: what was paid for and has arrived is never paid for again, and nothing is lost."""

import contextlib
import json
from pathlib import Path
import signal
import sqlite3
import subprocess
import sys
import time
from typing import Any

import pytest

from pipelines import solutions
from sdpg.errors import entry_point
from sdpg.solutions.store import ANSWERED, LOST, SENT, AnswerStore
from tests.helpers.forked import start
from tests.helpers.paid_server import MODEL, Call, PaidServer, Reply, chat, error, paid_server, solved
from tests.helpers.solutions_project import environment, make_project, questions, read_lines, solve

AT_ONCE = 4

ASKING = """
import json, pathlib, sys
from sdpg.problems.sources import Problem
from sdpg.solutions.endpoint import EndpointSource
from sdpg.solutions.settings import Connection, EndpointSettings
from sdpg.solutions.store import AnswerStore
url, folder, count = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
decoding = {"temperature": 1, "top_p": 1, "max_tokens": 9}
way = EndpointSettings(base_url=url, model="writer", prompt="", system=None, decoding=decoding)
problems = [Problem(str(n), f"What is {n}+{n + 1}?", str(2 * n + 1), "", "hand") for n in range(count)]
with AnswerStore(folder) as store:
    connection = Connection(concurrency=4, first_pause=0.03)
    found = EndpointSource(way, connection, 1, store, lambda problem: problem.problem).find_candidates(problems, 0)
    print(json.dumps([one.text for [one] in found]))
"""
"""A script that runs the endpoint source alone, without the seconds that importing the rest takes."""


def number(call: Call) -> int:
    return int(call.question.split("+")[0].split()[-1])


def breaks_off(call: Call) -> bool:
    return number(call) % 10 == 3


def text_for(call: Call) -> str:
    return "It is \\boxed{-1}." if number(call) % 10 == 1 else solved(call.question)


def untroubled(call: Call) -> Reply:
    return Reply(body=chat(text_for(call)), paid=True)


def troubled(call: Call) -> Reply:
    """Some answers are wrong; at first some break off, and some requests are refused."""
    text = text_for(call)
    if call.nth == 1 and number(call) % 5 == 2:
        return error(429, Retry_After="0.2") if number(call) % 2 else error(500)
    if call.nth == 1 and breaks_off(call):
        return Reply(body=chat(text), cut=40, paid=True)
    return Reply(body=chat(text), delay=0.04, paid=True)


def digests(folder: Path, state: str) -> set[str]:
    """Requests in a state, read without the project's code."""
    if not (folder / "answers.sqlite").exists():
        return set()
    with contextlib.closing(sqlite3.connect(folder / "answers.sqlite")) as database:
        return {row[0] for row in database.execute("SELECT digest FROM requests WHERE state = ?", (state,))}


def ended(arguments: list[str], folder: Path, server: PaidServer, more: int, how: signal.Signals) -> tuple[int, str]:
    """Starts a process and ends it once the server has got so many requests more; its exit code and messages."""
    target = len(server.asked) + more
    with subprocess.Popen(
        arguments, cwd=folder, env=environment(), text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        arrived = server.wait_for(target, 120)
        process.send_signal(how)
        said = process.communicate(timeout=60)[1]
    assert arrived, said
    return process.returncode, said


class Ledger:
    """What must hold after each kill, whatever the moment."""

    def __init__(self, server: PaidServer, answers: Path) -> None:
        self.server, self.answers = server, answers
        self.cut_off: set[str] = set()
        self.kept: set[str] = set()
        self.calls = 0

    def check(self) -> None:
        """Looks at the store of a command that was just killed."""
        time.sleep(0.4)  # the server ends what it was at
        asked = self.server.asked
        assert not self.kept & {call.key for call in asked[self.calls :]}, "an answer that is kept is not asked again"
        assert self.kept <= digests(self.answers, ANSWERED), "and none is lost"
        self.kept, self.calls = digests(self.answers, ANSWERED), len(asked)
        under_way = digests(self.answers, SENT)
        assert len(under_way) <= AT_ONCE
        self.cut_off |= under_way
        for key in self.server.paid:
            assert key in self.kept | self.cut_off or self.broke_off(key), "all that was charged is accounted for"
        for key, times in self.server.paid.items():
            # Without the header, only what was under way at a kill, or broke off, can have been charged again.
            assert times == 1 or (not self.server.once and (key in self.cut_off or self.broke_off(key)))

    def broke_off(self, key: str) -> bool:
        return any(breaks_off(call) for call in self.server.asked if call.key == key)


@pytest.mark.parametrize("once", [True, False], ids=["with-the-header", "without"])
def test_killed_at_many_moments_nothing_is_paid_twice_and_nothing_lost(tmp_path: Path, once: bool) -> None:
    count = 60
    with paid_server(troubled, once=once, again=untroubled) as server:
        arguments = [sys.executable, "-c", ASKING, server.url, "answers", str(count)]
        ledger = Ledger(server, tmp_path / "answers")
        for moment in (1, 2, 7, 11, 18):
            assert ended(arguments, tmp_path, server, moment, signal.SIGKILL)[0] == -signal.SIGKILL
            ledger.check()
        assert 15 < len(ledger.kept) < count
        done = subprocess.run(arguments, cwd=tmp_path, env=environment(), text=True, capture_output=True, timeout=120)
        assert done.returncode == 0, done.stderr
        ledger.check()
        assert not digests(tmp_path / "answers", SENT) and len(ledger.kept) == len(server.paid) == count
        texts = json.loads(done.stdout)
        assert [n for n in range(count) if texts[n] != solved(f"{n}+{n + 1}")] == [1, 11, 21, 31, 41, 51]


def begun(project: Path, options: list[str]) -> Any:
    """The command in a fork of this process, which need not import everything once more."""

    def work() -> None:
        sys.argv = ["solutions", *options]
        entry_point(solutions.main)

    return start(project, work, project / "said")


@pytest.mark.slow
def test_the_command_killed_twice_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    project = make_project(tmp_path, questions(30))

    def options(server: PaidServer, out: str = "solved.jsonl", answers: str = "inputs/solutions") -> list[str]:
        return ["--endpoint", server.url, "--model", MODEL, "--samples", "2", "--concurrency", str(AT_ONCE),
                "--first-pause", "0.05", "--out", out, "--answers", answers]  # fmt: skip

    problems = project / "inputs/problems"
    with paid_server(troubled, once=True, again=untroubled) as server:
        ledger = Ledger(server, project / "inputs/solutions")
        for moment in (6, 13):
            target, process = len(server.asked) + moment, begun(project, options(server))
            assert server.wait_for(target, 120), (project / "said").read_text()
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            assert not (problems / "solved.jsonl").exists()
            ledger.check()
        done = solve(project, *options(server))
        assert done.returncode == 0, done.stderr
        assert "sent and brought no whole answer; an endpoint may have charged them" in done.stderr
        ledger.check()
        # A second sample where the first was wrong, and no request beside; each paid once.
        assert len(server.paid) == 30 + 3
        asked = len(server.asked)
        process = begun(project, options(server))
        process.join()
        assert process.exitcode == 0 and len(server.asked) == asked, (project / "said").read_text()
        # Never interrupted, with a store of its own, it comes out the same.
        process = begun(project, options(server, "other.jsonl", "inputs/other"))
        process.join()
        assert process.exitcode == 0, (project / "said").read_text()
    assert (problems / "other.jsonl").read_bytes() == (problems / "solved.jsonl").read_bytes()
    solutions = [row["solution"] for row in read_lines(problems / "solved.jsonl")]
    assert [n for n, text in enumerate(solutions) if text is None] == [1, 11, 21]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_it_waits_for_what_is_paid(tmp_path: Path, how: signal.Signals) -> None:
    script = f"from sdpg.errors import entry_point\ndef main(): exec({ASKING!r}, {{}})\nentry_point(main)"
    with paid_server(lambda call: Reply(body=chat(solved(call.question)), delay=0.3, paid=True)) as server:
        arguments = [sys.executable, "-c", script, server.url, "answers", "40"]
        code, said = ended(arguments, tmp_path, server, 6, how)
        assert code == 2 and "Traceback" not in said
        assert "stopping: answers under way are waited for" in said
        asked = len(server.asked)
        assert asked <= 6 + AT_ONCE and f"error: interrupted\n{asked} answers are kept" in said
        assert digests(tmp_path / "answers", ANSWERED) == set(server.paid)
        assert not digests(tmp_path / "answers", SENT)


CHILD = """
import itertools, pathlib, sys
from sdpg.solutions.store import AnswerStore
with AnswerStore(pathlib.Path(sys.argv[1])) as store:
    for number in itertools.count(int(sys.argv[2])):
        store.mark_sent(f"{number}")
        print("sent", number, flush=True)
        store.put(f"{number}", {"text": "x" * 20_000, "number": number})
        print("kept", number, flush=True)
"""


def test_a_store_whose_user_is_killed_keeps_all_that_it_took(tmp_path: Path) -> None:
    kept: set[int] = set()
    for round_ in range(5):
        start = 1000 * round_
        arguments = [sys.executable, "-c", CHILD, str(tmp_path), str(start)]
        process: Any = subprocess.Popen(arguments, env=environment(), text=True, stdout=subprocess.PIPE)
        assert process.stdout.readline() == f"sent {start}\n"
        lines = [process.stdout.readline().split() for _ in range(4 + round_)]
        process.kill()
        lines += [line.split() for line in process.stdout.read().splitlines() if line.count(" ") == 1]
        process.wait()
        new = {int(found) for what, found in lines if what == "kept"}
        assert new
        kept |= new
        with AnswerStore(tmp_path) as store:
            for found in kept:
                answer: Any = store.get(str(found))
                assert answer["number"] == found
            states = store.states()
            assert states[LOST] == 0 and states[SENT] <= round_ + 1
            assert len(kept) <= states[ANSWERED] <= len(kept) + round_ + 1
