"""Tests the schedules of β, λ and the learning rate against the paper's and the public code's."""

import pytest

from sdpg.objective.schedules import EntropySwitch, beta, crossed, learning_rate, rlsd_lambda, window


def test_windows_are_fractions_of_the_run() -> None:
    assert [window(0.125, 400), window(0.875, 400), window(0.025, 400), window(0.0, 400)] == [50, 350, 10, 0]


def test_windows_are_rounded_to_the_nearest_step() -> None:
    # Not cut off: 0.29 of 100 is 28.999999999999996 in floating point. The half goes to the even number.
    assert [window(0.29, 100), window(0.07, 400), window(0.125, 60), window(0.025, 60), window(0.6, 1)] == [
        29,
        28,
        8,
        2,
        1,
    ]
    # A small window is one step, and no factor that is switched off.
    assert [window(0.001, 10), window(0.04, 10), window(1.0, 7), window(0.0, 10)] == [1, 1, 7, 0]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 0.02),  # 1/50, and the decay window has not begun: (400-1)/350 > 1
        (25, 0.5),
        (49, 0.98),
        (50, 1.0),  # both factors reach 1 here, and only here
        (51, 349 / 350),
        (225, 0.5),
        (399, 1 / 350),
        (400, 0.0),
    ],
)
def test_beta_of_the_paper(step: int, expected: float) -> None:
    assert beta(step, 400, 1.0, 50, 350) == pytest.approx(expected, rel=1e-12)
    assert beta(step, 400, 1e-3, 50, 350) == pytest.approx(1e-3 * expected, rel=1e-12)


def test_beta_of_the_paper_peaks_at_one_step() -> None:
    values = [beta(step, 400, 1.0, 50, 350) for step in range(1, 401)]
    assert [step for step, value in enumerate(values, start=1) if value == max(values)] == [50]
    assert max(values) == 1.0


def test_overlapping_windows_multiply() -> None:
    # T = 10, windows of 8 and 6: k = 6 gives 6/8 · 4/6 = 1/2; a minimum of the two would be 2/3
    assert beta(6, 10, 1.0, 8, 6) == pytest.approx(0.5)
    assert beta(5, 10, 2.0, 8, 6) == pytest.approx(2 * 5 / 8 * 5 / 6)


def test_beta_with_a_plateau() -> None:
    assert [beta(step, 10, 1.0, 2, 3) for step in range(1, 11)] == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 1, 2 / 3, 1 / 3, 0]
    )


def test_a_window_of_zero_turns_its_factor_off() -> None:
    assert [beta(step, 4, 0.7, 0, 0) for step in (1, 2, 3, 4)] == [0.7] * 4
    assert [beta(step, 4, 1.0, 0, 2) for step in (1, 2, 3, 4)] == [1, 1, 0.5, 0]
    assert [beta(step, 4, 1.0, 2, 0) for step in (1, 2, 3, 4)] == [0.5, 1, 1, 1]


def test_lambda_of_the_public_code() -> None:
    # λ(k) = 0.5·max(0, 1 - k/50)
    values = {1: 0.49, 10: 0.4, 25: 0.25, 49: 0.01, 50: 0.0, 51: 0.0, 400: 0.0}
    assert {step: rlsd_lambda(step, 0.5, 50) for step in values} == pytest.approx(values, abs=1e-15)


def test_lambda_without_a_window_is_constant() -> None:
    assert [rlsd_lambda(step, 0.3, 0) for step in (1, 100, 400)] == [0.3] * 3


def test_learning_rate_warms_up_from_the_first_share() -> None:
    values = [learning_rate(step, 1e-6, 10) for step in (1, 5, 9, 10, 11, 400)]
    assert values == pytest.approx([1e-7, 5e-7, 9e-7, 1e-6, 1e-6, 1e-6], rel=1e-12)


def test_learning_rate_may_start_at_zero() -> None:
    values = [learning_rate(step, 1e-6, 10, starts_at_zero=True) for step in (1, 2, 6, 10, 11, 400)]
    assert values == pytest.approx([0.0, 1e-7, 5e-7, 9e-7, 1e-6, 1e-6], rel=1e-12)


@pytest.mark.parametrize("starts_at_zero", [False, True])
def test_learning_rate_without_a_warm_up_is_constant(starts_at_zero: bool) -> None:
    assert [learning_rate(step, 0.1, 0, starts_at_zero) for step in (1, 2, 9)] == [0.1] * 3


def test_half_a_cosine_leaves_and_arrives_flat() -> None:
    # (1 - cos πx)/2 at x = 0, 1/4, 1/2, 3/4, 1
    values = [crossed(x, "cosine") for x in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)]
    assert values == pytest.approx([0, (1 - 2**-0.5) / 2, 0.5, (1 + 2**-0.5) / 2, 1, 1])
    # T = 10, warm-up 4 and decay 4: k = 1 is a quarter up, k = 9 a quarter left, the plateau is untouched.
    found = [beta(step, 10, 2.0, 4, 4, "cosine") for step in (1, 2, 5, 9, 10)]
    assert found == pytest.approx([2 * (1 - 2**-0.5) / 2, 1.0, 2.0, 2 * (1 - 2**-0.5) / 2, 0.0])


def test_lambda_may_warm_up() -> None:
    # 0.5 · k/4 · (1 - k/8)
    assert [rlsd_lambda(step, 0.5, 8, 4) for step in (1, 2, 4, 8)] == pytest.approx(
        [0.5 / 4 * 7 / 8, 0.25 * 6 / 8, 0.25, 0]
    )
    assert rlsd_lambda(2, 0.5, 8, 0, "cosine") == pytest.approx(0.5 * (1 + 2**-0.5) / 2)


def test_a_learning_rate_that_falls_still_learns_at_the_last_step() -> None:
    values = [learning_rate(step, 1.0, 2, False, 8, 4) for step in (1, 2, 4, 5, 6, 7, 8)]
    assert values == pytest.approx([0.5, 1, 1, 1, 0.75, 0.5, 0.25])
    assert learning_rate(7, 1.0, 0, False, 8, 4, "cosine") == pytest.approx(0.5)
    assert [learning_rate(step, 1.0, 2, False, 8, 0) for step in (1, 8)] == [0.5, 1.0]


def test_the_switch_by_entropy_goes_off_low_and_on_again_at_its_start() -> None:
    # Warm-up of 3 steps: off, and their median is 1.0. Below 0.9 it goes off, from 1.0 on it is on again.
    switch = EntropySwitch(3, 0.9)
    seen = [switch.enter(value) for value in (5.0, 1.0, 0.2, 0.95, 0.9, 0.899, 0.95, 0.999, 1.0, 0.95, 0.1, 2.0)]
    assert seen == [False] * 3 + [True, True, False, False, False, True, True, False, True]
    # It is a function of what it has seen: a run that goes on needs nothing else.
    for done in range(len(seen)):
        again = EntropySwitch(3, 0.9)
        again.entropies = switch.entropies[:done]
        assert [again.enter(value) for value in switch.entropies[done:]] == seen[done:]
