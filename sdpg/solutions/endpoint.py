"""Gets solutions from an endpoint: requests run several at a time, and each answer is kept before the next step."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict
import signal
import sys
from typing import Any

import httpx2
from tqdm import tqdm

from sdpg.errors import UserError
from sdpg.problems.sources import Problem
from sdpg.solutions.candidates import Candidate
from sdpg.solutions.client import Answer, Client, Failed, Refused, Stop, check_url, read_key
from sdpg.solutions.pacing import Booking, Pace, pause
from sdpg.solutions.settings import Connection, EndpointSettings
from sdpg.solutions.store import ANSWERED, IDLE, LOST, SENT, AnswerStore, request_digest

GIVE_UP = 5
"""After this many requests in a row that fail to the end of their retries, no further one is sent."""
CHARACTERS_PER_TOKEN = 3
"""Assumption by which a prompt's tokens are estimated before the endpoint counts them."""

Request = tuple[str, dict[str, Any]]
"""A request's digest and body."""


def write_line(text: str) -> None:
    """Writes a line to standard error, beside the progress bar that is shown there."""
    tqdm.write(text, file=sys.stderr)


class EndpointSource:
    """Solutions from an endpoint, as :class:`~sdpg.solutions.candidates.SolutionSource` defines it.

    Args:
        settings: the address, the model, the prompt and the decoding.
        connection: the pace, the time limits and the key's name.
        samples: rounds, each of which brings one answer per problem.
        store: the store that keeps the answers.
        render: a function from a problem to the user's message, which fills in the template of ``settings``.
        notify: a function that shows a line to the user.

    Raises:
        UserError: if address or key cannot be used.
    """

    name = "endpoint"

    def __init__(
        self,
        settings: EndpointSettings,
        connection: Connection,
        samples: int,
        store: AnswerStore,
        render: Callable[[Problem], str],
        notify: Callable[[str], object] = write_line,
    ) -> None:
        self.settings, self.connection, self.rounds, self.store = settings, connection, samples, store
        self.render, self.notify = render, notify
        self.url: httpx2.URL = check_url(settings.base_url)
        self._key = read_key(connection, self.url)
        self._pace = Pace(connection.requests_per_minute, connection.tokens_per_minute)
        self._proven = False
        self._failures = 0
        self._refused: dict[str, str] = {}
        self._counts = {"requests": 0, "from_store": 0, "prompt_tokens": 0, "completion_tokens": 0, "lost": 0}
        self._bought = {"requests": 0, "tokens": 0}
        before = store.states()
        if before[SENT] or before[LOST]:
            notify(
                f"{before[SENT] + before[LOST]} requests of earlier commands were sent and brought no whole answer; an "
                f"endpoint may have charged them. {before[ANSWERED]:,} answers are at hand and are not asked again"
            )

    def check(self) -> None:
        """Asks the endpoint for its models, free of charge, to learn whether it is there and takes the key.

        Raises:
            UserError: if it does not. Whether an unlisted model is served all the same, the first request shows.
        """

        async def models() -> list[str]:
            async with Client(self.url, self.connection, self._key) as client:
                return await client.models()

        listed = asyncio.run(models())
        if listed and self.settings.model not in listed:
            some = ", ".join(listed[:20]) + (", …" if len(listed) > 20 else "")
            self.notify(f"the endpoint {self.url} does not list the model {self.settings.model!r} but: {some}")

    def used(self) -> dict[str, int]:
        """Returns the requests behind this command's candidates and their tokens, whether bought now or before."""
        return dict(self._counts)

    @property
    def bought(self) -> dict[str, int]:
        """Returns the answers that this command has bought, and their tokens."""
        return dict(self._bought)

    def request(self, problem: Problem, attempt: int) -> Request:
        """Returns the request for a problem: the digest by which its answer is kept, and the body."""
        settings = self.settings
        messages = [] if settings.system is None else [{"role": "system", "content": settings.system}]
        messages.append({"role": "user", "content": self.render(problem)})
        body = {"model": settings.model, "messages": messages, **settings.decoding.model_dump(), **settings.body}
        body = {name: value for name, value in body.items() if value is not None}
        return request_digest("endpoint", str(self.url), body, attempt), body

    def find_candidates(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        """Returns one candidate per problem; stored answers are not bought again.

        Raises:
            Stop: if going on is of no use; all answers so far are kept.
        """
        requests = [self.request(problem, attempt) for problem in problems]
        # Two problems with one text are one request.
        distinct = dict(requests)
        missing = [(digest, body) for digest, body in distinct.items() if self.store.get(digest) is None]
        self._counts["from_store"] += len(distinct) - len(missing)
        if missing:
            self._check_rate(missing)
            label = f"answers, round {attempt + 1} of {self.rounds}"
            with tqdm(total=len(distinct), initial=len(distinct) - len(missing), desc=label, unit="answer") as bar:
                asyncio.run(_Round(self, missing, bar).run())
        answers = {digest: self._answer(digest) for digest in distinct}
        for answer in answers.values():
            if answer is not None:
                self._counts["requests"] += 1
                self._counts["prompt_tokens"] += answer.prompt_tokens
                self._counts["completion_tokens"] += answer.completion_tokens
        return [[self._candidate(digest, answers[digest])] for digest, _ in requests]

    def _answer(self, digest: str) -> Answer | None:
        stored = self.store.get(digest)
        return None if stored is None else Answer(**stored)

    def _candidate(self, digest: str, answer: Answer | None) -> Candidate:
        origin = f"{self.settings.model} at {self.url}"
        if answer is None:
            return Candidate("", origin, digest, failure=self._refused.get(digest, "no_reply"))
        return Candidate(answer.text, origin, digest, answer.truncated)

    def largest_cost(self, body: dict[str, Any]) -> int:
        """Returns the largest number of tokens that a request can cost, as far as it can be known beforehand."""
        characters = sum(len(message["content"]) for message in body["messages"])
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        return characters // CHARACTERS_PER_TOKEN + 8 + int(limit)

    def _check_rate(self, requests: Sequence[Request]) -> None:
        limit = self.connection.tokens_per_minute
        most = max(self.largest_cost(body) for _, body in requests)
        if limit is not None and most > limit:
            raise UserError(
                f"--tokens-per-minute is {limit:,}, but one request may take {most:,} (prompt and --max-tokens): it "
                "would never go; lower --max-tokens or raise the limit"
            )


class _Round:
    """Sends requests, several at a time, until all are answered or no further one is to be sent."""

    def __init__(self, source: EndpointSource, requests: Sequence[Request], bar: Any) -> None:
        self.source, self.bar = source, bar
        self.waiting = list(reversed(requests))
        self.stopping = asyncio.Event()
        self.error: UserError | None = None

    def stop(self, error: UserError) -> None:
        """Lets no further request leave; those under way are waited for, as they are paid."""
        self.error = self.error or error
        self.stopping.set()

    def _interrupted(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        self.source.notify("stopping: answers under way are waited for; once more, and they are lost")
        self.stop(Stop("interrupted"))

    async def run(self) -> None:
        source = self.source
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
        try:
            async with Client(source.url, source.connection, source._key) as client:
                if not source._proven:
                    # The first request goes alone, so that an error that all would meet is reported once.
                    await self._worker(client, 1)
                    source._proven = not self.stopping.is_set()
                workers = [self._worker(client) for _ in range(min(source.connection.concurrency, len(self.waiting)))]
                for failed in await asyncio.gather(*workers, return_exceptions=True):
                    if isinstance(failed, BaseException):
                        raise failed
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        if self.error is not None:
            kept = source.store.states()[ANSWERED]
            raise Stop(f"{self.error}\n{kept:,} answers are kept: the same command goes on from there") from None

    async def _worker(self, client: Client, most: int | None = None) -> None:
        done = 0
        while self.waiting and not self.stopping.is_set() and done != most:
            digest, body = self.waiting.pop()
            done += 1
            try:
                await self._send(client, digest, body)
            except UserError as error:
                self.stop(error)
            except BaseException:
                # Passed on: the other workers are only stopped, so that none goes on buying for a run that is over.
                self.stopping.set()
                raise

    async def _sleep(self, seconds: float) -> None:
        """Waits so long, or until no further request is to be sent."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _book(self, tokens: int) -> Booking | None:
        while not self.stopping.is_set():
            booking = self.source._pace.book(tokens)
            if isinstance(booking, Booking):
                return booking
            await self._sleep(booking)
        return None

    async def _send(self, client: Client, digest: str, body: dict[str, Any]) -> None:
        """Sends one request, with its retries."""
        source, connection = self.source, self.source.connection
        tokens = source.largest_cost(body)
        for attempt in range(connection.retries + 1):
            booking = await self._book(tokens)
            if booking is None:
                return
            source.store.mark_sent(digest)
            try:
                answer = await client.complete(body, digest)
            except Refused as refused:
                source.store.mark_ended(digest, IDLE)
                if not source._proven:
                    raise Stop(f"the endpoint refuses the first request ({refused}): correct --body, --max-tokens, "
                               "--temperature or the prompt") from None  # fmt: skip
                source._refused[digest] = "refused"
                source.notify(f"refused: {refused}")
                self.bar.update(1)
                return
            except Failed as failed:
                source.store.mark_ended(digest, LOST if failed.sent else IDLE)
                source._counts["lost"] += failed.sent
                if not source._proven and failed.reason.startswith("no connection"):
                    raise Stop(f"the endpoint {source.url} does not answer ({failed.reason}): start it, or correct "
                               "--endpoint") from None  # fmt: skip
                self.bar.set_postfix_str(failed.reason[:60])
                if attempt == connection.retries:
                    self._exhausted(failed)
                    return
                if failed.wait:
                    source._pace.hold(failed.wait)
                await self._sleep(pause(attempt, connection.first_pause, failed.wait))
            except Stop:
                source.store.mark_ended(digest, IDLE)
                raise
            else:
                source.store.put(digest, asdict(answer))
                booking.tokens = answer.tokens or tokens
                source._failures = 0
                source._bought["requests"] += 1
                source._bought["tokens"] += answer.tokens
                self.bar.update(1)
                self.bar.set_postfix_str(f"{source._bought['tokens']:,} tokens")
                return

    def _exhausted(self, failed: Failed) -> None:
        source = self.source
        source._failures += 1
        if source._failures >= GIVE_UP or not source._proven:
            times = f"{source._failures} requests in a row" if source._failures > 1 else "a request"
            self.stop(
                Stop(
                    f"{times} failed after {source.connection.retries} retries each, the last with: {failed.reason}. "
                    "Look after the endpoint, lower --concurrency, or set --requests-per-minute"
                )
            )
        else:
            source.notify(f"no answer after {source.connection.retries} retries: {failed.reason}")
            self.bar.update(1)
