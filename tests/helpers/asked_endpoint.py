"""The endpoint source with small pauses, asked about small sums."""

from collections.abc import Callable
from typing import Any

from sdpg.problems.sources import Problem
from sdpg.solutions.candidates import Candidate
from sdpg.solutions.endpoint import EndpointSource
from sdpg.solutions.settings import Connection, Decoding, EndpointSettings
from sdpg.solutions.store import AnswerStore
from tests.helpers.paid_server import MODEL, Call, PaidServer, Reply, right


def problems(count: int) -> list[Problem]:
    return [Problem(f"p{n}", f"What is {n}+{n + 1}?", str(2 * n + 1), "", "hand") for n in range(count)]


def settings_for(url: str, **changes: Any) -> EndpointSettings:
    decoding = Decoding(temperature=0.5, top_p=0.9, max_tokens=50)
    tree = {"base_url": url, "model": MODEL, "prompt": "{problem} Box it.", "system": None, "decoding": decoding}
    return EndpointSettings(**(tree | changes))


def render(problem: Problem) -> str:
    return f"{problem.problem} Box it."


class Asked:
    """The endpoint source, and what one call of it gives."""

    def __init__(self, server: PaidServer, store: AnswerStore, count: int = 4, **connection: Any) -> None:
        self.said: list[str] = []
        settings = {"first_pause": 0.02, "timeout": 5.0, "retries": 3, "concurrency": 4} | connection
        self.source = EndpointSource(
            settings_for(server.url), Connection(**settings), 2, store, render, self.said.append
        )
        self.problems = problems(count)

    def ask(self, attempt: int = 0) -> list[Candidate]:
        found = self.source.find_candidates(self.problems, attempt)
        assert all(len(one) == 1 for one in found)
        return [one for [one] in found]


def once(reply: Reply) -> Callable[[Call], Reply]:
    """The reply at a request's first arrival, the right one at its second."""
    return lambda call: reply if call.nth == 1 else right(call)
