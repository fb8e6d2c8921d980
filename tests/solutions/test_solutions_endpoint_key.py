"""The endpoint way where somebody means harm: the key stays secret, and replies are data."""

import logging
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.solutions.client import HIDDEN, shown
from sdpg.solutions.endpoint import EndpointSource
from sdpg.solutions.settings import Connection
from sdpg.solutions.store import AnswerStore
from tests.helpers.asked_endpoint import Asked, once, render, settings_for
from tests.helpers.paid_server import Call, Reply, answered, chat, error, paid_server, solved

KEY = "sk-do-not-show-0123456789"


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    store: AnswerStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOLUTIONS_API_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)

    def behave(call: Call) -> Reply:
        assert call.headers["authorization"] == f"Bearer {KEY}"
        return answered(f"{solved(call.question)} Your key is {KEY}.", model=f"m-{KEY}")

    with paid_server(behave, key=KEY) as server:
        asked = Asked(server, store)
        asked.source.check()
        assert all(one.text.endswith(f"Your key is {HIDDEN}.") for one in asked.ask())
        server.wanted = "another"
        with pytest.raises(UserError) as caught:
            Asked(server, store, 6).ask()
    assert f"does not accept the key of SOLUTIONS_API_KEY (401: Incorrect key: Bearer {HIDDEN})" in str(caught.value)
    printed = capsys.readouterr()
    for text in (str(caught.value), caplog.text, printed.out, printed.err, "".join(asked.said)):
        assert KEY not in text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert KEY.encode() not in store.path.read_bytes()


def test_a_redirect_does_not_carry_the_key(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLUTIONS_API_KEY", KEY)
    with paid_server() as other, paid_server() as server:
        server.behave = lambda call: error(307, Location=f"{other.url}/chat/completions")
        with pytest.raises(UserError, match=r"redirects .307. to http://127.0.0.1"):
            Asked(server, store).ask()
        assert not other.calls


@pytest.mark.parametrize(
    ("key", "url", "connection", "message"),
    [
        (KEY, "http://gpu-7.example/v1", {}, "would go unencrypted to gpu-7.example"),
        (f"{KEY} x", "https://a.example/v1", {}, "holds spaces or characters that no key has"),
        (f"{KEY}\nX-Other: 1", "https://a.example/v1", {}, "holds spaces or characters"),
        ("schlüssel-0123", "https://a.example/v1", {}, "holds spaces or characters"),
        (None, "https://a.example/v1", {"key_required": True}, "SOLUTIONS_API_KEY .--key-env. is not set"),
        (None, f"https://user:{KEY}@a.example/v1", {}, "holds a user, a password, a query"),
        (None, f"https://a.example/v1?api-key={KEY}", {}, "holds a user, a password, a query"),
        (None, "a.example/v1", {}, "an address begins with https://"),
        (None, "ftp://a.example", {}, "an address begins with https://"),
        (None, "http://[::1", {}, "is no address"),
    ],
)
def test_address_and_key_are_looked_at_before_anything_is_sent(
    store: AnswerStore, monkeypatch: pytest.MonkeyPatch, key: str | None, url: str, connection: Any, message: str
) -> None:
    monkeypatch.delenv("SOLUTIONS_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("SOLUTIONS_API_KEY", key)
    with pytest.raises(UserError, match=message) as caught:
        EndpointSource(settings_for(url), Connection(**connection), 1, store, render)
    assert KEY not in str(caught.value) and "schl" not in str(caught.value)


def test_allow_http_and_own_machine_are_let_through(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLUTIONS_API_KEY", KEY)
    for url in ("http://127.0.0.1:8000/v1", "http://localhost/v1", "http://[::1]:80/v1"):
        EndpointSource(settings_for(url), Connection(), 1, store, render)
    EndpointSource(settings_for("http://gpu-7.example/v1"), Connection(allow_http=True), 1, store, render)


def test_a_word_for_a_key_is_not_cut_out_of_answers(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOLUTIONS_API_KEY", "EMPTY")
    with paid_server(lambda call: answered("The EMPTY set")) as server:
        assert {one.text for one in Asked(server, store).ask()} == {"The EMPTY set"}


def test_an_endless_reply_is_not_read_to_its_end(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdpg.solutions.client.MAX_BODY_BYTES", 10_000)
    with paid_server(once(Reply(body=chat("x" * 20_000)))) as server:
        assert len(Asked(server, store).ask()) == 4
    assert len(server.asked) == 8


def test_hostile_text_is_data(store: AnswerStore) -> None:
    nasty = "\x1b]0;own\x07\x1b[2J\ud800 ${HOME} {problem} <|im_end|> '; DROP TABLE requests; --"
    with paid_server(lambda call: answered(nasty, model={"a": [nasty]}, usage={"prompt_tokens": "9", "completion_tokens": -5})) as server:  # noqa: E501  # fmt: skip
        asked = Asked(server, store)
        assert {one.text for one in asked.ask()} == {nasty}
        assert {one.text for one in Asked(server, store).ask()} == {nasty}, "and the same from the store"
        assert asked.source.used()["prompt_tokens"] == asked.source.used()["completion_tokens"] == 0
    with paid_server(lambda call: error(400, nasty)) as server, pytest.raises(UserError) as caught:
        Asked(server, store).ask()
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)
    assert shown("a\x1b[31mb\n\tc" + "d" * 400).startswith("a [31mb c") and len(shown("d" * 400)) == 301
