"""Runs a real HTTP server on 127.0.0.1 with OpenAI's chat completions, which misbehaves on request and counts pay."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import json
import re
import threading
import time
from typing import Any

MODEL = "writer"


@dataclass(frozen=True)
class Call:
    """One request as it arrived; ``nth`` counts arrivals of its Idempotency-Key from 1."""

    time: float
    path: str
    headers: dict[str, str]
    body: Any
    nth: int

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass
class Reply:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    delay: float = 0.0
    drip: float = 0.0
    """Seconds after each byte."""
    paid: bool = False


def chat(text: Any, tokens: int = 10, finish: str = "stop", **more: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": tokens + 5}
    return json.dumps({"id": "x", "model": f"{MODEL}-1", "choices": [choice], "usage": usage} | more).encode()


def solved(question: str) -> str:
    """A right worked solution of ``a+b``."""
    found = re.search(r"(\d+)\+(\d+)", question)
    assert found is not None, question
    first, second = int(found[1]), int(found[2])
    return f"We add {first} and {second}, which gives \\boxed{{{first + second}}}."


def answered(text: Any, **more: Any) -> Reply:
    return Reply(body=chat(text, **more), paid=True)


def right(call: Call) -> Reply:
    return answered(solved(call.question))


def wrong(call: Call) -> Reply:
    return answered("It must be \\boxed{-1}.")


def error(status: int, message: str = "sorry", **headers: str) -> Reply:
    body = json.dumps({"error": {"message": message, "code": None}}).encode()
    return Reply(status, body, {name.replace("_", "-"): value for name, value in headers.items()})


class PaidServer:
    """Calls ``behave`` for each request.

    With ``once`` it knows the header Idempotency-Key: what was charged for a key is sent ``again`` and not charged.
    """

    def __init__(
        self,
        behave: Callable[[Call], Reply] = right,
        once: bool = False,
        key: str | None = None,
        again: Callable[[Call], Reply] = right,
    ) -> None:
        self.behave, self.once, self.wanted, self.again = behave, once, key, again
        self.calls: list[Call] = []
        self.paid: Counter[str] = Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._made: dict[str, Reply] = {}
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self.arrived = threading.Condition(self._lock)
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def reply(self, path: str, headers: dict[str, str], body: Any) -> Reply:
        with self._lock:
            nth = 1 + sum(c.path == path and c.headers.get("idempotency-key") == headers.get("idempotency-key")
                          for c in self.calls)  # fmt: skip
            call = Call(time.monotonic(), path, headers, body, nth)
            self.calls.append(call)
            self.arrived.notify_all()
        if self.wanted is not None and headers.get("authorization") != f"Bearer {self.wanted}":
            return error(401, f"Incorrect key: {headers.get('authorization')}")
        if path == "/v1/models":
            return Reply(body=json.dumps({"object": "list", "data": [{"id": MODEL}]}).encode())
        if path != "/v1/chat/completions":
            return error(404, "no such page")
        if body["model"] != MODEL:
            return error(404, f"The model `{body['model']}` does not exist.")
        with self._lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            turn = self._turns[call.key] if self.once else threading.Lock()
        try:
            with turn:
                if call.key in self._made:
                    return self._made[call.key]
                reply = self.behave(call)
                time.sleep(reply.delay)
                if reply.paid:
                    with self._lock:
                        self.paid[call.key] += 1
                    if self.once:
                        self._made[call.key] = self.again(call)  # whatever becomes of it on its way
                return reply
        finally:
            with self._lock:
                self._at_once -= 1

    @property
    def asked(self) -> list[Call]:
        """Requests for answers, in the order of their arrival."""
        return [call for call in self.calls if call.path == "/v1/chat/completions"]

    def wait_for(self, requests: int, seconds: float = 60) -> bool:
        """Until so many requests for answers have arrived."""
        with self._lock:
            return self.arrived.wait_for(lambda: len(self.asked) >= requests, seconds)

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def paid_server(behave: Callable[[Call], Reply] = right, **options: Any) -> Iterator[PaidServer]:
    server = PaidServer(behave, **options)
    server.start()
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is killed is no error here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: PaidServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def _answer(self, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.owner.reply(self.path, headers, body)
        try:
            self.send_response(reply.status)
            if "Transfer-Encoding" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            pieces = [bytes([byte]) for byte in reply.body] if reply.drip else [reply.body[: reply.cut]]
            for piece in pieces:
                self.wfile.write(piece)
                time.sleep(reply.drip)
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return
        if reply.cut is not None:
            self.close_connection = True
            self.connection.close()
