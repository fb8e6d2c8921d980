"""Keeps requests below a limit per minute, and computes the pauses before retries."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
import math
import random
import time

MINUTE = 61.0
"""Seconds, one more than a minute, as the way to the endpoint is not equally long for all requests."""
LONGEST_PAUSE = 60.0
"""Seconds at which the doubling of pauses ends."""


@dataclass
class Booking:
    """A request that was let go: when, in seconds of the clock, and for how many tokens it counts."""

    time: float
    tokens: int


class Pace:
    """Limits requests, and their tokens, within any minute.

    Args:
        requests: the most requests per window; ``None`` is no limit.
        tokens: the most tokens per window; ``None`` is no limit.
        window: the window's length in seconds.
        clock: a function that returns seconds and never goes back.
    """

    def __init__(
        self,
        requests: int | None,
        tokens: int | None,
        window: float = MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.requests, self.tokens, self.window, self.clock = requests, tokens, window, clock
        self._booked: deque[Booking] = deque()
        self._held_until = -math.inf

    def hold(self, seconds: float) -> None:
        """Lets no request go for so many seconds, as the endpoint has demanded."""
        self._held_until = max(self._held_until, self.clock() + seconds)

    def book(self, tokens: int) -> Booking | float:
        """Returns a booking if a request may go now, else the seconds to wait before the next try."""
        now = self.clock()
        if now < self._held_until:
            return self._held_until - now
        while self._booked and self._booked[0].time + self.window <= now:
            self._booked.popleft()
        free_at = now
        if self.requests is not None and len(self._booked) >= self.requests:
            free_at = self._booked[len(self._booked) - self.requests].time + self.window
        if self.tokens is not None:
            excess = sum(booking.tokens for booking in self._booked) + tokens - self.tokens
            for booking in self._booked:
                if excess <= 0:
                    break
                excess -= booking.tokens
                free_at = max(free_at, booking.time + self.window)
        if free_at > now:
            return free_at - now
        booking = Booking(now, tokens)
        self._booked.append(booking)
        return booking


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Returns the seconds of ``Retry-After``, given as a number or a date; ``None`` where a response has none."""
    text = headers.get("retry-after", "").strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    date = date.replace(tzinfo=date.tzinfo or UTC)
    return max(0.0, (date - (now or datetime.now(UTC))).total_seconds())


def pause(attempt: int, first: float, demanded: float | None, chance: Callable[[], float] = random.random) -> float:
    """Returns the seconds before retry ``attempt``, which counts from 0: doubled each time, half of it random.

    They are no less than ``demanded``. The random half keeps requests which failed together from coming back together.
    """
    grown = min(LONGEST_PAUSE, first * 2.0 ** min(attempt, 30))
    drawn = grown * (0.5 + 0.5 * chance())
    return drawn if demanded is None else max(drawn, demanded + 0.1 * drawn)
