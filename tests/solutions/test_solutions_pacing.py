"""Tests rate limits and pauses, with a clock of their own."""

from datetime import UTC, datetime
import math
import random

import pytest

from sdpg.solutions.pacing import LONGEST_PAUSE, Booking, Pace, pause, retry_after


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, clock: Clock, sizes: list[int]) -> list[float]:
    """When requests of these sizes go, one after another, as early as they may."""
    times = []
    for size in sizes:
        while isinstance(found := pace.book(size), float):
            assert found > 0
            clock.now += found
        times.append(clock.now - 100)
    return times


def test_requests_per_window() -> None:
    clock = Clock()
    assert run(Pace(3, None, 60, clock), clock, [1] * 8) == [0, 0, 0, 60, 60, 60, 120, 120]


def test_tokens_per_window() -> None:
    clock = Clock()
    pace = Pace(None, 100, 60, clock)
    assert run(pace, clock, [40, 40]) == [0, 0]
    clock.now += 10
    # 80 are used until 60; at 70 nothing is.
    assert run(pace, clock, [20, 1, 60, 60]) == [10, 60, 60, 120]


def test_no_window_of_any_position_holds_more() -> None:
    draw = random.Random(3)
    clock = Clock()
    pace = Pace(5, 90, 60, clock)
    booked: list[Booking] = []
    for _ in range(300):
        found = pace.book(size := draw.randint(1, 40))
        if isinstance(found, Booking):
            assert found.tokens == size
            booked.append(found)
        else:
            assert found > 0
        clock.now += draw.random() * 6
    assert len(booked) > 40
    for first in booked:
        window = [b for b in booked if first.time <= b.time < first.time + 60]
        assert len(window) <= 5 and sum(b.tokens for b in window) <= 90


def test_what_an_answer_really_took_replaces_the_guess() -> None:
    clock = Clock()
    pace = Pace(None, 100, 60, clock)
    first = pace.book(90)
    assert isinstance(first, Booking) and pace.book(50) == 60
    first.tokens = 20
    assert isinstance(pace.book(50), Booking)


def test_a_hold_stops_all_and_only_grows() -> None:
    clock = Clock()
    pace = Pace(None, None, 60, clock)
    pace.hold(5)
    pace.hold(2)
    assert pace.book(1) == 5
    clock.now += 5
    assert isinstance(pace.book(1), Booking)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), (" 0.5 ", 0.5), ("Wed, 21 Oct 2026 07:28:30 GMT", 30.0), ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
     ("", None), ("soon", None), ("-3", None), ("nan", None), ("inf", None), ("٣", None), ("1e9", None),
     ("Wed, 99 Oct 2026 07:28:30 GMT", None), ("9" * 400, math.inf)],
)  # fmt: skip
def test_retry_after(text: str, seconds: float | None) -> None:
    now = datetime(2026, 10, 21, 7, 28, 0, tzinfo=UTC)
    assert retry_after({"retry-after": text}, now) == seconds
    assert retry_after({}, now) is None


def test_pauses_double_up_to_a_limit_and_are_random_by_half() -> None:
    assert [pause(n, 1.0, None, lambda: 1.0) for n in (0, 1, 2, 5, 6, 7, 10_000)] == [
        1,
        2,
        4,
        32,
        60,
        60,
        LONGEST_PAUSE,
    ]
    assert [pause(n, 1.0, None, lambda: 0.0) for n in (0, 1, 2)] == [0.5, 1, 2]
    assert pause(0, 1.0, 30.0, lambda: 1.0) > 30 and pause(5, 1.0, 0.0, lambda: 1.0) == 32
    assert len({pause(0, 1.0, None) for _ in range(10)}) == 10
