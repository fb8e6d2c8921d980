"""Solutions from an endpoint: requests, several at a time, each answer kept before the next step."""

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
from sdpg.solutions.settings import Connection, EndpointWay
from sdpg.solutions.store import ANSWERED, IDLE, LOST, SENT, AnswerStore, request_digest

GIVE_UP = 5
"""Requests in a row that fail to the end of their retries, after which no further one is sent."""
CHARACTERS_PER_TOKEN = 3
"""To guess a prompt's tokens before the endpoint tells."""

Request = tuple[str, dict[str, Any]]
"""Digest and body."""


def tell(text: str) -> None:
    """Beside the progress bar, which standard error has too."""
    tqdm.write(text, file=sys.stderr)


class FromEndpoint:
    """A :class:`~sdpg.solutions.candidates.Way`.

    Args:
        way: what is asked.
        connection: how.
        samples: rounds.
        store: keeps answers.
        render: a problem → the user's message, from the template in ``way``.
        say: told what a user should know.

    Raises:
        UserError: if address or key cannot be used.
    """

    name = "endpoint"

    def __init__(
        self,
        way: EndpointWay,
        connection: Connection,
        samples: int,
        store: AnswerStore,
        render: Callable[[Problem], str],
        say: Callable[[str], object] = tell,
    ) -> None:
        self.way, self.connection, self.rounds, self.store = way, connection, samples, store
        self.render, self.say = render, say
        self.url: httpx2.URL = check_url(way.base_url)
        self._key = read_key(connection, self.url)
        self._pace = Pace(connection.requests_per_minute, connection.tokens_per_minute)
        self._proven = False
        self._failures = 0
        self._refused: dict[str, str] = {}
        self._counts = {"requests": 0, "from_store": 0, "prompt_tokens": 0, "completion_tokens": 0, "lost": 0}
        self._asked_now = {"requests": 0, "tokens": 0}
        before = store.states()
        if before[SENT] or before[LOST]:
            say(
                f"{before[SENT] + before[LOST]} requests of earlier commands were sent and brought no whole answer; an "
                f"endpoint may have charged them. {before[ANSWERED]:,} answers are at hand and are not asked again"
            )

    def check(self) -> None:
        """Asks the endpoint for its models: free of charge, and tells whether it is there and takes the key.

        Raises:
            UserError: if not. Whether a model that it does not list is served all the same, the first request tells.
        """

        async def models() -> list[str]:
            async with Client(self.url, self.connection, self._key) as client:
                return await client.models()

        listed = asyncio.run(models())
        if listed and self.way.model not in listed:
            some = ", ".join(listed[:20]) + (", …" if len(listed) > 20 else "")
            self.say(f"the endpoint {self.url} does not list the model {self.way.model!r} but: {some}")

    def used(self) -> dict[str, int]:
        """Requests behind the candidates of this command and their tokens, whether bought now or before."""
        return dict(self._counts)

    @property
    def asked_now(self) -> dict[str, int]:
        """Answers bought by this command, and their tokens."""
        return dict(self._asked_now)

    def request(self, problem: Problem, attempt: int) -> Request:
        """What is sent for a problem, and the digest by which its answer is kept."""
        way = self.way
        messages = [] if way.system is None else [{"role": "system", "content": way.system}]
        messages.append({"role": "user", "content": self.render(problem)})
        body = {"model": way.model, "messages": messages, **way.decoding.model_dump(), **way.body}
        body = {name: value for name, value in body.items() if value is not None}
        return request_digest("endpoint", str(self.url), body, attempt), body

    def ask(self, problems: Sequence[Problem], attempt: int) -> list[list[Candidate]]:
        """See :class:`~sdpg.solutions.candidates.Way`. Answers that are at hand are not asked for again.

        Raises:
            Stop: where going on is of no use; all answers so far are kept.
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
        found = self.store.get(digest)
        return None if found is None else Answer(**found)

    def _candidate(self, digest: str, answer: Answer | None) -> Candidate:
        origin = f"{self.way.model} at {self.url}"
        if answer is None:
            return Candidate("", origin, digest, failure=self._refused.get(digest, "no_reply"))
        return Candidate(answer.text, origin, digest, answer.truncated)

    def tokens_at_most(self, body: dict[str, Any]) -> int:
        """What a request can cost, as far as can be known beforehand."""
        characters = sum(len(message["content"]) for message in body["messages"])
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        return characters // CHARACTERS_PER_TOKEN + 8 + int(limit)

    def _check_rate(self, requests: Sequence[Request]) -> None:
        limit = self.connection.tokens_per_minute
        most = max(self.tokens_at_most(body) for _, body in requests)
        if limit is not None and most > limit:
            raise UserError(
                f"--tokens-per-minute is {limit:,}, but one request may take {most:,} (prompt and --max-tokens): it "
                "would never go; lower --max-tokens or raise the limit"
            )


class _Round:
    """Sends requests, several at a time, until all are answered or nothing more is to be asked."""

    def __init__(self, way: FromEndpoint, requests: Sequence[Request], bar: Any) -> None:
        self.way, self.bar = way, bar
        self.waiting = list(reversed(requests))
        self.stopping = asyncio.Event()
        self.error: UserError | None = None

    def stop(self, error: UserError) -> None:
        """No request leaves any more; those under way are waited for, as they are paid."""
        self.error = self.error or error
        self.stopping.set()

    def _interrupted(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        self.way.say("stopping: answers under way are waited for; once more, and they are lost")
        self.stop(Stop("interrupted"))

    async def run(self) -> None:
        way = self.way
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted)
        try:
            async with Client(way.url, way.connection, way._key) as client:
                if not way._proven:
                    # The first goes alone: what is wrong with all is said once, before there are many.
                    await self._worker(client, 1)
                    way._proven = not self.stopping.is_set()
                workers = [self._worker(client) for _ in range(min(way.connection.concurrency, len(self.waiting)))]
                for failed in await asyncio.gather(*workers, return_exceptions=True):
                    if isinstance(failed, BaseException):
                        raise failed
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        if self.error is not None:
            kept = way.store.states()[ANSWERED]
            raise Stop(f"{self.error}\n{kept:,} answers are kept: the same command goes on from there") from None

    async def _worker(self, client: Client, most: int | None = None) -> None:
        done = 0
        while self.waiting and not self.stopping.is_set() and done != most:
            digest, body = self.waiting.pop()
            done += 1
            try:
                await self._one(client, digest, body)
            except UserError as error:
                self.stop(error)
            except BaseException:
                # Passed on: the other askers are only told to end, so that none buys on for a run that is over.
                self.stopping.set()
                raise

    async def _sleep(self, seconds: float) -> None:
        """As long, or until nothing more is to be asked."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _booked(self, tokens: int) -> Booking | None:
        while not self.stopping.is_set():
            found = self.way._pace.book(tokens)
            if isinstance(found, Booking):
                return found
            await self._sleep(found)
        return None

    async def _one(self, client: Client, digest: str, body: dict[str, Any]) -> None:
        """One request with its retries."""
        way, connection = self.way, self.way.connection
        tokens = way.tokens_at_most(body)
        for attempt in range(connection.retries + 1):
            booking = await self._booked(tokens)
            if booking is None:
                return
            way.store.sent(digest)
            try:
                answer = await client.complete(body, digest)
            except Refused as refused:
                way.store.ended(digest, IDLE)
                if not way._proven:
                    raise Stop(f"the endpoint refuses the first request ({refused}): correct --body, --max-tokens, "
                               "--temperature or the prompt") from None  # fmt: skip
                way._refused[digest] = "refused"
                way.say(f"refused: {refused}")
                self.bar.update(1)
                return
            except Failed as failed:
                way.store.ended(digest, LOST if failed.sent else IDLE)
                way._counts["lost"] += failed.sent
                if not way._proven and failed.reason.startswith("no connection"):
                    raise Stop(f"the endpoint {way.url} does not answer ({failed.reason}): start it, or correct "
                               "--endpoint") from None  # fmt: skip
                self.bar.set_postfix_str(failed.reason[:60])
                if attempt == connection.retries:
                    self._exhausted(failed)
                    return
                if failed.wait:
                    way._pace.hold(failed.wait)
                await self._sleep(pause(attempt, connection.first_pause, failed.wait))
            except Stop:
                way.store.ended(digest, IDLE)
                raise
            else:
                way.store.put(digest, asdict(answer))
                booking.tokens = answer.tokens or tokens
                way._failures = 0
                way._asked_now["requests"] += 1
                way._asked_now["tokens"] += answer.tokens
                self.bar.update(1)
                self.bar.set_postfix_str(f"{way._asked_now['tokens']:,} tokens")
                return

    def _exhausted(self, failed: Failed) -> None:
        way = self.way
        way._failures += 1
        if way._failures >= GIVE_UP or not way._proven:
            times = f"{way._failures} requests in a row" if way._failures > 1 else "a request"
            self.stop(
                Stop(
                    f"{times} failed after {way.connection.retries} retries each, the last with: {failed.reason}. "
                    "Look after the endpoint, lower --concurrency, or set --requests-per-minute"
                )
            )
        else:
            way.say(f"no answer after {way.connection.retries} retries: {failed.reason}")
            self.bar.update(1)
