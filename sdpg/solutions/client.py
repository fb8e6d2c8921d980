"""Makes one exchange with an endpoint that speaks OpenAI's chat completions.

The request is sent once, and the reply is read whole or becomes a named error.

The key comes from the environment and leaves only in the header of a request to the endpoint's own address:
redirects are not followed, and whatever the endpoint sends is searched for it before it is shown or kept.
"""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address
import json
import os
from typing import Any

import httpx2

from sdpg.errors import UserError
from sdpg.solutions.pacing import retry_after
from sdpg.solutions.settings import Connection

MAX_BODY_BYTES = 32 << 20
"""A larger reply is refused: no answer to one problem takes so much."""
CONNECT_SECONDS = 15.0
SHOWN_CHARACTERS = 300
HIDDEN = "[key]"
SHORTEST_SECRET = 8
"""Characters; a shorter key is not treated as a secret."""
LONGEST_WAIT = 900.0
"""Seconds; the command ends where an endpoint asks for a longer pause."""


class Stop(UserError):
    """Ends the command: the next request would fare no better."""


class Refused(Exception):
    """The endpoint does not accept this request, though it may accept others; it is not charged."""


@dataclass(eq=False)
class Failed(Exception):
    """The request failed and may succeed when it is sent again.

    Attributes:
        reason: what went wrong, for people.
        sent: whether it may have been charged.
        wait: the seconds that the endpoint asks to wait, or None.
    """

    reason: str
    sent: bool
    wait: float | None = None


@dataclass(frozen=True)
class Answer:
    """A paid answer with its token counts."""

    text: str
    truncated: bool
    prompt_tokens: int
    completion_tokens: int
    served_model: str

    @property
    def tokens(self) -> int:
        """Returns the number of tokens that count: prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


def shown(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Returns text from outside, cut and cleaned to fit one line of a terminal."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def check_url(text: str) -> httpx2.URL:
    """Returns the address of an endpoint.

    Raises:
        UserError: if it is no http(s) address, or holds what may be a secret.
    """
    try:
        url = httpx2.URL(text.rstrip("/"))
    except httpx2.InvalidURL as error:
        raise UserError(f"--endpoint is no address ({error}): write for example http://127.0.0.1:8000/v1") from None
    if url.userinfo or url.query or url.fragment:
        raise UserError(
            "--endpoint holds a user, a password, a query or a fragment: the address is kept with the result, so a key "
            "must not be part of it. Leave them out and put the key into an environment variable (--key-env)"
        )
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"--endpoint is {text!r}: an address begins with https:// or http://")
    return url


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_key(connection: Connection, url: httpx2.URL) -> str | None:
    """Returns the key from its environment variable, or ``None`` where it is not set and not required.

    A server of one's own may want no key.

    Raises:
        UserError: if it cannot be sent, or would be sent unencrypted. The message does not hold it.
    """
    name = connection.key_env
    key = os.environ.get(name, "").strip()
    if not key:
        if connection.key_required:
            raise UserError(
                f"the environment variable {name} (--key-env) is not set: export it, or leave --key-env out"
            )
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"the environment variable {name} holds spaces or characters that no key has: set it anew")
    if url.scheme == "http" and not _is_this_machine(url.host) and not connection.allow_http:
        raise UserError(
            f"the key of {name} would go unencrypted to {url.host}: use https, or give --allow-http if the network is "
            f"trusted, or unset {name} if the endpoint wants no key"
        )
    return key


class Client:
    """A connection to the endpoint; an asynchronous context manager.

    Args:
        url: the endpoint's address, as :func:`check_url` returns it.
        connection: the time limit and the name of the key's variable.
        key: the key that goes into the header, or None.
    """

    def __init__(self, url: httpx2.URL, connection: Connection, key: str | None) -> None:
        self.url, self.connection, self._key = url, connection, key
        self._http = httpx2.AsyncClient(
            # A proxy from the environment is used; certificates are checked, always.
            follow_redirects=False,
            timeout=httpx2.Timeout(connection.timeout, connect=min(CONNECT_SECONDS, connection.timeout)),
            limits=httpx2.Limits(max_connections=connection.concurrency),
            headers={"User-Agent": "sdpg-workbench", "Accept-Encoding": "identity"},
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    def _without_key(self, text: str) -> str:
        # Servers of one's own are often given a word such as EMPTY for a key, which must not be cut out of answers.
        secret = self._key is not None and len(self._key) >= SHORTEST_SECRET
        return text.replace(self._key or "", HIDDEN) if secret else text

    async def _exchange(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, bytes]:
        if self._key:
            headers = headers | {"Authorization": f"Bearer {self._key}"}
        seconds = self.connection.timeout
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.stream(method, f"{self.url}{path}", headers=headers, json=body) as reply,
            ):
                content = bytearray()
                async for part in reply.aiter_bytes():
                    content += part
                    if len(content) > MAX_BODY_BYTES:
                        raise Failed(f"a reply of more than {MAX_BODY_BYTES >> 20} MiB", sent=True)
                return reply.status_code, reply.headers, bytes(content)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Failed(
                f"no connection: {shown(self._without_key(str(error))) or type(error).__name__}", False
            ) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise Failed(f"no whole answer within {seconds:g} s (--timeout-answer)", sent=True) from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise Failed(f"the answer broke off ({type(error).__name__})", sent=True) from None

    async def models(self) -> list[str]:
        """Returns the models that the endpoint lists, or none where it does not say. The request costs nothing.

        Raises:
            Stop: if it cannot be reached, or does not accept the key.
        """
        try:
            status, headers, content = await self._exchange("GET", "/models", {}, None)
        except Failed as failed:
            raise Stop(
                f"the endpoint {self.url} does not answer ({failed.reason}): start it, or correct --endpoint"
            ) from None
        if status in (401, 403):
            raise self._key_refused(status, content)
        if 300 <= status < 400:
            raise self._redirected(status, headers)
        try:
            listed = json.loads(content)["data"] if status == 200 else []
            return [shown(self._without_key(str(one["id"])), 100) for one in listed]
        except (ValueError, RecursionError, TypeError, KeyError):
            return []

    async def complete(self, body: dict[str, Any], digest: str) -> Answer:
        """Returns one answer.

        Args:
            body: the body of the request.
            digest: the name of the request; sent along so that an endpoint which knows the header charges it once.

        Raises:
            Stop: if no further request can succeed.
            Refused: if this request is not accepted.
            Failed: if the same request may succeed later.
        """
        status, headers, content = await self._exchange("POST", "/chat/completions", {"Idempotency-Key": digest}, body)
        if status == 200:
            return self._read(content)
        said = self._said(content)
        wait = retry_after(headers)
        if wait is not None and wait > LONGEST_WAIT:
            raise Stop(f"the endpoint answers {status} and asks to wait {wait:,.0f} s ({said}): go on later")
        match status:
            case 401 | 403:
                raise self._key_refused(status, content)
            case 402:
                raise Stop(f"the endpoint wants to be paid first (402: {said}): top up the account, then go on")
            case 404 | 405:
                raise Stop(
                    f"the endpoint answers {status} to {self.url}/chat/completions for the model {body['model']!r} "
                    f"({said}): correct --model, or --endpoint, which usually ends in /v1"
                )
            case 429 if "insufficient_quota" in said:
                raise Stop(f"the account's quota is used up (429: {said}): raise it, then go on")
            case 408 | 409 | 425 | 429:
                raise Failed(f"{status}: {said}", sent=False, wait=wait)
        if 300 <= status < 400:
            raise self._redirected(status, headers)
        if status >= 500:
            # Some gateways report their own time-out so, while the model behind them goes on.
            raise Failed(f"{status}: {said}", sent=status in (502, 504), wait=wait)
        raise Refused(f"{status}: {said}")

    def _key_refused(self, status: int, content: bytes) -> Stop:
        name = self.connection.key_env
        had = f"does not accept the key of {name}" if self._key else f"wants a key, and {name} is not set"
        return Stop(
            f"the endpoint {self.url} {had} ({status}: {self._said(content)}): export the right key as {name}, or name "
            "another variable with --key-env"
        )

    def _redirected(self, status: int, headers: Any) -> Stop:
        try:
            target = httpx2.URL(headers.get("location", ""))
            place = shown(self._without_key(f"{target.scheme}://{target.host}"), 100)
        except httpx2.InvalidURL:
            place = "no valid address"
        return Stop(
            f"the endpoint {self.url} redirects ({status}) to {place}, which is not followed, as the key would go "
            "along: give the address itself as --endpoint if you trust it"
        )

    def _said(self, content: bytes) -> str:
        """Returns the endpoint's own message, for people."""
        text = content.decode("utf-8", "replace")
        try:
            error = json.loads(text)["error"]
            text = " ".join(str(error[name]) for name in ("code", "message") if error.get(name))
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            pass
        return shown(self._without_key(text)) or "nothing said"

    def _read(self, content: bytes) -> Answer:
        try:
            reply = json.loads(content)
        except (ValueError, RecursionError):
            raise Failed("the answer is no valid JSON", sent=True) from None
        if isinstance(reply, dict) and reply.get("error"):
            raise Failed(f"an error in place of an answer: {self._said(content)}", sent=False)
        try:
            choice = reply["choices"][0]
            text = _text(choice["message"]["content"])
            cut = choice.get("finish_reason") == "length"
        except (TypeError, KeyError, IndexError, AttributeError):
            raise Failed("the answer has not the form of a chat completion", sent=True) from None
        used = reply.get("usage")
        used = used if isinstance(used, dict) else {}
        return Answer(
            self._without_key(text),
            cut,
            _count(used.get("prompt_tokens")),
            _count(used.get("completion_tokens")),
            shown(self._without_key(str(reply.get("model", ""))), 100),
        )


def _text(content: Any) -> str:
    """Returns a message's text, which may come in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part.get("type") == "text")


def _count(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 1 << 40 else 0
