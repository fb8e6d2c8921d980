"""Tests the endpoint source against a real local server: what goes wrong, what it costs, what is kept."""

import json
from pathlib import Path
import threading
import time
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.solutions.endpoint import EndpointSource, _Round
from sdpg.solutions.settings import Connection
from sdpg.solutions.store import ANSWERED, IDLE, LOST, SENT, AnswerStore
from tests.helpers.asked_endpoint import Asked, once, problems, render, settings_for
from tests.helpers.paid_server import (
    MODEL,
    Call,
    Reply,
    answered,
    chat,
    error,
    paid_server,
    right,
    solved,
    wrong,
)


def test_what_is_sent_and_what_comes_back(store: AnswerStore) -> None:
    with paid_server() as server:
        asked = Asked(server, store)
        found = asked.ask()
    assert [one.text for one in found] == [solved(p.problem) for p in asked.problems]
    assert {one.origin for one in found} == {f"{MODEL} at {server.url}"}
    first = server.asked[0]
    assert first.body == {
        "model": MODEL, "messages": [{"role": "user", "content": "What is 0+1? Box it."}], "temperature": 0.5,
        "top_p": 0.9, "max_tokens": 50,
    }  # fmt: skip
    assert first.key == found[0].request and "authorization" not in first.headers
    assert asked.source.used() == {
        "requests": 4, "from_store": 0, "prompt_tokens": 20, "completion_tokens": 40, "lost": 0
    }  # fmt: skip
    assert asked.source.bought == {"requests": 4, "tokens": 60}


def test_an_answer_is_bought_once_and_a_second_sample_is_another(store: AnswerStore) -> None:
    with paid_server() as server:
        first = Asked(server, store).ask()
        again = Asked(server, store)
        assert again.ask() == first
        assert (
            len(server.asked) == 4 and again.source.bought["requests"] == 0 and again.source.used()["from_store"] == 4
        )
        again.ask(attempt=1)
    assert len(server.asked) == 8 and set(server.paid.values()) == {1}


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"system": "s"}, {"body": {"top_k": 2}},
               {"body": {"top_p": None}}, {"base_url": "http://127.0.0.1:1/v2"}]
)  # fmt: skip
def test_whatever_is_asked_is_part_of_the_digest(store: AnswerStore, change: dict[str, Any]) -> None:
    [problem] = problems(1)
    url = "http://127.0.0.1:1/v1"
    plain, other = (EndpointSource(settings_for(url, **c), Connection(), 1, store, render) for c in ({}, change))
    assert plain.request(problem, 0)[0] != other.request(problem, 0)[0]
    assert (
        plain.request(problem, 0)[0]
        == EndpointSource(settings_for(url), Connection(), 1, store, render).request(problem, 0)[0]
    )
    assert ("top_p" in other.request(problem, 0)[1]) == (change != {"body": {"top_p": None}})


def test_two_problems_of_one_text_are_one_request(store: AnswerStore) -> None:
    with paid_server() as server:
        asked = Asked(server, store, 1)
        asked.problems = asked.problems * 3
        assert len({one.text for one in asked.ask()}) == 1 and len(server.asked) == 1


GOOD = chat(solved("0+1"))


@pytest.mark.parametrize(
    ("reply", "lost"),
    [
        (error(429), False),
        (error(500), False),
        (error(503), False),
        (error(504), True),
        (Reply(body=GOOD, cut=20, paid=True), True),
        (Reply(body=GOOD, cut=0, paid=True), True),
        (Reply(body=GOOD[:40], paid=True), True),
        (Reply(body=b"[" * 100_000, paid=True), True),
        (Reply(body=b"\xff\xfe", paid=True), True),
        (Reply(body=b"[]", paid=True), True),
        (Reply(body=b'{"choices": []}', paid=True), True),
        (Reply(body=chat(7), paid=True), True),
        (Reply(body=chat([{"type": "text"}]), paid=True), True),
        (Reply(body=GOOD, delay=1.5, paid=True), True),
        (Reply(body=b'{"error": {"message": "overloaded"}}'), False),
    ],
    ids=["429", "500", "503", "504", "half", "headers-only", "half-json", "deep", "no-utf8", "list", "no-choice",
         "number", "parts", "time-out", "error-in-200"],
)  # fmt: skip
def test_what_may_go_well_next_time_is_asked_again(store: AnswerStore, reply: Reply, lost: bool) -> None:
    with paid_server(once(reply), once=True) as server:
        asked = Asked(server, store, timeout=1.0 if reply.delay else 20.0)
        found = asked.ask()
    assert [one.text for one in found] == [solved(p.problem) for p in asked.problems]
    assert [call.nth for call in server.asked].count(2) == 4
    # On a busy machine a right answer may come too late as well.
    assert len(server.asked) == 8 or reply.delay
    assert set(server.paid.values()) == {1}, "an endpoint that knows the header charges once"
    assert store.states() == {ANSWERED: 4}
    assert asked.source.used()["lost"] == (len(server.asked) - 4) * lost


def test_half_an_answer_without_a_length_is_no_answer(store: AnswerStore) -> None:
    chunk = f"{len(GOOD):x}\r\n".encode() + GOOD
    half = Reply(body=chunk, headers={"Transfer-Encoding": "chunked"}, cut=len(chunk) - 10, paid=True)
    with paid_server(once(half)) as server:
        assert len({one.text for one in Asked(server, store).ask()}) == 4
    assert store.states() == {ANSWERED: 4}


def test_retry_after_is_honoured_by_all(store: AnswerStore) -> None:
    refused: list[float] = []

    def behave(call: Call) -> Reply:
        if "What is 1+2?" in call.question and not refused:
            refused.append(call.time)
            return error(429, Retry_After="2")
        return Reply(body=chat(solved(call.question)), delay=0.05, paid=True)

    with paid_server(behave) as server:
        Asked(server, store, 60, concurrency=2).ask()
    later = [call.time - refused[0] for call in server.asked if call.time > refused[0] + 0.5]
    assert len(server.asked) == 61 and len(later) > 40
    assert min(later) >= 2.0, "nobody asks meanwhile"


def test_an_answer_that_drips_is_given_up_at_the_time_limit(store: AnswerStore) -> None:
    dripping = Reply(body=GOOD, drip=0.05, paid=True)
    with paid_server(lambda call: dripping if call.nth == 1 and "0+1" in call.question else right(call)) as server:
        asked = Asked(server, store, timeout=1.0)
        assert all(one.failure is None for one in asked.ask())
    # Waited for to its end, it would be an answer.
    assert asked.source.used()["lost"] == 1


def test_a_pause_that_is_too_long_ends_it(store: AnswerStore) -> None:
    with paid_server(lambda call: error(429, "day's limit", Retry_After="86400")) as server:
        with pytest.raises(
            UserError, match=r"answers 429 and asks to wait 86,400 s .*day's limit.*\n0 answers are kept"
        ):
            Asked(server, store).ask()
        assert len(server.asked) == 1


def test_retries_end_and_the_rest_goes_on(store: AnswerStore) -> None:
    def behave(call: Call) -> Reply:
        return error(500, "broken") if "What is 2+3?" in call.question else right(call)

    with paid_server(behave) as server:
        asked = Asked(server, store)
        found = asked.ask()
        assert [one.failure for one in found] == [None, None, "no_reply", None]
        assert sum("What is 2+3?" in call.question for call in server.asked) == 4
        assert asked.said == ["no answer after 3 retries: 500: broken"]
        # Not remembered: the next command asks again.
        server.behave = right
        assert Asked(server, store).ask()[2].failure is None
    assert store.states() == {ANSWERED: 4}


def test_an_endpoint_that_fails_for_good_is_left_alone(store: AnswerStore) -> None:
    with paid_server(lambda call: right(call) if "What is 0+1?" in call.question else error(500)) as server:
        with pytest.raises(UserError, match=r"5 requests in a row failed after 1 retries each.*\n1 answers are kept"):
            Asked(server, store, 40, retries=1, concurrency=1).ask()
        assert len(server.asked) == 1 + 5 * 2
    assert store.states() == {ANSWERED: 1, IDLE: 5}


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (error(401, "no"), "wants a key, and SOLUTIONS_API_KEY is not set (401: no): export the right key"),
        (error(403, "no"), "wants a key, and SOLUTIONS_API_KEY is not set (403: no)"),
        (error(402, "no funds"), "wants to be paid first (402: no funds)"),
        (error(404, "no such model"), "answers 404 to .*/chat/completions for the model 'writer' (no such model): "
                                      "correct --model, or --endpoint"),
        (error(400, "top_p: unknown"), "refuses the first request (400: top_p: unknown): correct --body"),
        (error(302, Location="http://other.example/?x=y"), "redirects (302) to http://other.example, which is not"),
        (Reply(429, b'{"error": {"code": "insufficient_quota", "message": "pay"}}'), "quota is used up (429: "
                                                                                    "insufficient_quota pay)"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_all_is_said_after_one_request(store: AnswerStore, reply: Reply, message: str) -> None:
    with paid_server(lambda call: reply) as server:
        with pytest.raises(UserError) as caught:
            Asked(server, store, 50).ask()
        assert len(server.asked) == 1
    text = str(caught.value)
    assert all(part in text for part in message.split(".*"))
    assert store.states() == {IDLE: 1}


def test_a_request_that_is_refused_later_costs_that_problem_alone(store: AnswerStore) -> None:
    def behave(call: Call) -> Reply:
        return error(400, "too long") if "What is 3+4?" in call.question else right(call)

    with paid_server(behave) as server:
        found = Asked(server, store).ask()
        assert len(server.asked) == 4
    assert [one.failure for one in found] == [None, None, None, "refused"]


def test_a_fatal_reply_lets_those_under_way_arrive(store: AnswerStore) -> None:
    late = threading.Event()

    def behave(call: Call) -> Reply:
        if "What is 0+1?" in call.question:
            return right(call)
        if "What is 1+2?" in call.question:
            late.wait(5)
            return error(401)
        late.set()
        time.sleep(0.3)
        return right(call)

    with paid_server(behave) as server, pytest.raises(UserError, match=r"\(401.*\n3 answers are kept"):
        Asked(server, store, 30, concurrency=3).ask()
    assert store.states() == {ANSWERED: 3, IDLE: 1}
    assert sum(server.paid.values()) == 3


def test_nobody_there_is_said_at_once(store: AnswerStore) -> None:
    with paid_server() as server:
        pass
    asked = Asked(server, store)
    for attempt in (asked.source.check, asked.ask):
        with pytest.raises(UserError, match=r"does not answer .no connection.*start it, or correct --endpoint"):
            attempt()


def test_check_costs_nothing_and_tells_of_an_unlisted_model(store: AnswerStore) -> None:
    with paid_server() as server:
        said: list[str] = []
        EndpointSource(settings_for(server.url, model="writre"), Connection(), 1, store, render, said.append).check()
        assert said == [f"the endpoint {server.url} does not list the model 'writre' but: writer"]
        assert not server.asked and not server.paid


def test_no_more_at_once_than_told(store: AnswerStore) -> None:
    with paid_server(lambda call: Reply(body=chat(solved(call.question)), delay=0.05, paid=True)) as server:
        Asked(server, store, 20, concurrency=3).ask()
    assert server.most_at_once == 3


def test_requests_per_minute_hold_at_the_server(store: AnswerStore) -> None:
    with paid_server() as server:
        asked = Asked(server, store, 9, requests_per_minute=3)
        asked.source._pace.window = 1.5
        asked.ask()
    times = [call.time for call in server.asked]
    assert len(times) == 9
    # Three at once, two windows later the last; the way to the server is not equally long for all.
    assert times[-1] - times[0] >= 2.0


def test_what_answers_really_took_counts_against_the_limit_of_tokens(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: _Round, seconds: float) -> None:
        raise AssertionError(f"waits for {seconds} seconds")

    with paid_server() as server:
        asked = Asked(server, store, tokens_per_minute=130, concurrency=1)
        # Time stands still. Each may take 64 and takes 15: by the guess alone, the third would wait.
        asked.source._pace.clock = lambda: 0.0
        monkeypatch.setattr(_Round, "_sleep", fail)
        asked.ask()
    assert len(server.asked) == 4


def test_a_request_larger_than_the_limit_of_tokens_is_said_before(store: AnswerStore) -> None:
    with paid_server() as server:
        with pytest.raises(UserError, match="--tokens-per-minute is 50, but one request may take 64"):
            Asked(server, store, tokens_per_minute=50).ask()
        assert not server.asked


def test_wrong_and_cut_answers_come_back_as_such(store: AnswerStore) -> None:
    def behave(call: Call) -> Reply:
        if "What is 1+2?" in call.question:
            return answered(solved(call.question), finish="length")
        if "What is 2+3?" in call.question:
            return answered(None)
        if "What is 3+4?" in call.question:
            return answered([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}])
        return wrong(call)

    with paid_server(behave) as server:
        found = Asked(server, store).ask()
    assert [one.truncated for one in found] == [False, True, False, False]
    assert found[2].text == "" and found[3].text == "ab"


def test_lost_requests_are_told_of_when_going_on(store: AnswerStore) -> None:
    with paid_server(lambda call: Reply(body=GOOD, cut=5, paid=True)) as server:
        with pytest.raises(
            UserError, match="a request failed after 3 retries each, the last with: the answer broke off"
        ):
            Asked(server, store).ask()
        assert store.states() == {LOST: 1}
        store.mark_sent("0" * 32)
        assert store.states() == {LOST: 1, SENT: 1}
        assert "2 requests of earlier commands were sent and brought no whole answer" in Asked(server, store).said[0]


def test_one_command_at_a_time(store: AnswerStore) -> None:
    with pytest.raises(UserError, match="in use by another command"):
        AnswerStore(store.path.parent)


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_bytes(b"no database at all, but long enough to be read as one" * 40)
    with pytest.raises(UserError, match=r"answers.sqlite is damaged .*restore it"):
        AnswerStore(tmp_path)
    (tmp_path / "answers.sqlite").unlink()
    with AnswerStore(tmp_path) as opened:
        opened.put("a", {"text": "\ud800"})
        assert opened.get("a") == json.loads('{"text": "\\ud800"}')
