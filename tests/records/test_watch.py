"""Tests alarms: the step at which each rings, and that a resumed run has those of an uninterrupted one."""

import math
from pathlib import Path
import random
import tempfile
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from sdpg.errors import UserError
from sdpg.params import parse_params, read_yaml
from sdpg.params.watch import WatchParams
from sdpg.records.watch import (
    ALARMS,
    COLUMNS,
    LIMITS,
    WATCHED,
    Watch,
    alarm_columns,
    courses,
    in_a_row,
    moving_means,
    read_history,
    watch_summary,
)
from sdpg.training.checkpoints import CsvLog
from sdpg.training.metrics import metric_columns

ROOT = Path(__file__).parents[2]
OFF = {limit.field: None for limit in LIMITS}


def watch(window: int = 2, patience: int = 3, **limits: Any) -> WatchParams:
    """Only the given limits are on."""
    return WatchParams(**({"mentions": [], "window": window, "patience": patience} | OFF | limits))


def ringing(alarm: str, params: WatchParams, **history: list[float]) -> list[int]:
    """The steps at which an alarm rings."""
    column = alarm_columns(history, params)[f"alarm_{alarm}"]
    return [step for step, value in enumerate(column, start=1) if value]


def test_moving_means_by_hand() -> None:
    nan = math.nan
    assert moving_means([1.0, 2.0, 4.0, 8.0], 2) == pytest.approx([nan, 1.5, 3.0, 6.0], nan_ok=True)
    assert moving_means([1.0, nan, nan, 8.0], 2) == pytest.approx([nan, 1.0, nan, 8.0], nan_ok=True)
    assert moving_means([3.0], 1) == [3.0]
    assert moving_means([], 2) == []


def test_in_a_row_by_hand() -> None:
    marks = [True, True, False, True, True, True, True]
    assert in_a_row(marks, 3) == [False] * 5 + [True] * 2
    assert in_a_row(marks, 1) == marks


# A window of 2 and a patience of 3. With a fall between steps 5 and 6, the mean of step 6 holds one value of each kind.
@pytest.mark.parametrize(
    ("alarm", "limits", "metric", "values", "steps"),
    [
        # Means 1, …, 1, .55 (step 6), .1, .1, .1: below .5 from step 7, three times by step 9.
        ("entropy", {"min_entropy": 0.5}, "entropy", [1.0] * 5 + [0.1] * 5, [9, 10]),
        # Below .6 from step 6 on.
        ("entropy", {"min_entropy": 0.6}, "entropy", [1.0] * 5 + [0.1] * 5, [8, 9, 10]),
        # The start is (3 + 1)/2 = 2, a quarter of it .5.
        ("entropy", {"min_entropy_fraction": 0.25}, "entropy", [3.0, 1.0] + [1.0] * 3 + [0.4] * 4, [9]),
        ("entropy", {"min_entropy_fraction": 0.25}, "entropy", [3.0, 1.0] + [1.0] * 3 + [0.5] * 9, []),
        ("length", {"min_length_fraction": 0.5}, "length", [100.0] * 4 + [40.0] * 5, [8, 9]),
        ("length", {"max_length_fraction": 2.0}, "length", [100.0] * 4 + [250.0] * 5, [8, 9]),
        ("length", {"max_length_fraction": 2.0}, "length", [100.0] * 4 + [200.0] * 9, []),
        ("length", {"max_truncated": 0.5}, "truncated", [0.0] * 4 + [0.9] * 5, [8, 9]),
        # The best mean is .8 (steps 3 and 4); from step 6 on the mean is .1.
        ("reward", {"max_reward_drop": 0.5}, "reward", [0.0, 0.0, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1], [8]),
        ("reward", {"max_reward_drop": 0.3}, "reward", [0.0, 0.0, 0.8, 0.8, 0.1, 0.1, 0.1, 0.1], [7, 8]),
        # A start below the best of nothing is no fall.
        ("reward", {"max_reward_drop": 0.1}, "reward", [-1.0, -0.9, -0.8, -0.7, -0.6, -0.5], []),
        ("leak", {"max_leak_mentions": 0.1}, "leak_mentions", [0.0] * 3 + [0.4] * 4, [6, 7]),
        ("leak", {"max_leak_spans": 0.1}, "leak_spans", [0.0] * 3 + [0.4] * 4, [6, 7]),
        ("signal", {"min_gate_rate": 0.01}, "gate_rate", [0.3] * 3 + [0.0] * 4, [7]),
        ("signal", {"max_zero_variance": 0.95}, "zero_variance_groups", [0.3] * 3 + [1.0] * 4, [7]),
    ],
)
def test_an_alarm_rings_at_its_step_and_not_one_earlier(
    alarm: str, limits: dict[str, float], metric: str, values: list[float], steps: list[int]
) -> None:
    params = watch(**limits)
    assert ringing(alarm, params, **{metric: values}) == steps
    others = [name for name in ALARMS if name != alarm]
    assert all(value is None for name in others for value in alarm_columns({metric: values}, params)[f"alarm_{name}"])


def test_the_earliest_alarm_takes_a_window_and_the_patience() -> None:
    for window, patience in ((1, 1), (2, 3), (5, 5)):
        params = watch(window, patience, min_entropy=1.0)
        assert ringing("entropy", params, entropy=[0.0] * 20)[0] == window + patience - 1


def test_an_alarm_stops_when_the_limit_is_kept_and_counts_anew() -> None:
    values = [0.0] * 4 + [1.0] * 2 + [0.0] * 3
    assert ringing("entropy", watch(1, 3, min_entropy=0.5), entropy=values) == [3, 4, 9]


def test_two_limits_do_not_share_their_patience() -> None:
    # Too short for two steps, then too often truncated for two: neither for three.
    params = watch(1, 3, min_length_fraction=0.5, max_truncated=0.5)
    history = {"length": [10.0, 1.0, 1.0, 10.0, 10.0], "truncated": [0.0, 0.0, 0.0, 1.0, 1.0]}
    assert ringing("length", params, **history) == []


def test_an_alarm_rings_where_any_of_its_limits_does() -> None:
    # The first limit rings and the second does not, and the other way round.
    for limits in (
        {"min_entropy": 0.5, "min_entropy_fraction": 0.1},
        {"min_entropy": 0.1, "min_entropy_fraction": 0.5},
    ):
        assert ringing("entropy", watch(1, 1, **limits), entropy=[1.0, 0.4, 1.0]) == [2]


def test_noise_does_not_ring() -> None:
    source = random.Random(0)
    for _ in range(20):
        history = {
            "reward": [source.gauss(0.3, 0.1) for _ in range(300)],
            "entropy": [source.gauss(0.5, 0.1) for _ in range(300)],
            "length": [source.gauss(400, 60) for _ in range(300)],
            "truncated": [source.uniform(0, 0.3) for _ in range(300)],
            # Two rollouts of a hundred, every twentieth step.
            "leak_mentions": [0.02 * (source.random() < 0.05) for _ in range(300)],
            "gate_rate": [source.uniform(0.1, 0.5) for _ in range(300)],
            "zero_variance_groups": [source.uniform(0.2, 0.9) for _ in range(300)],
        }  # fmt: skip
        columns = alarm_columns(history, WatchParams(mentions=[]))
        assert {value for column in columns.values() for value in column} == {0.0}


def test_single_outliers_do_not_ring() -> None:
    values = [0.5] * 30
    values[10] = values[20] = 0.0
    assert ringing("entropy", WatchParams(mentions=[]), entropy=values) == []


def test_steps_without_a_value_do_not_count() -> None:
    nan = math.nan
    assert ringing("leak", watch(2, 1, max_leak_spans=0.1), leak_spans=[nan, nan, 0.4, nan, nan]) == [3, 4]
    # What is not known yet holds no run of the best mean.
    assert ringing("reward", watch(1, 1, max_reward_drop=0.5), reward=[nan, 1.0, nan, 0.4]) == [4]


def test_an_alarm_that_is_off_is_empty_and_a_missing_metric_does_not_ring() -> None:
    columns = alarm_columns({"entropy": [0.0] * 3}, watch(1, 1, min_entropy=1.0))
    assert columns["alarm_entropy"] == [1.0] * 3
    assert columns["alarm_reward"] == columns["alarm_leak"] == [None] * 3
    assert not courses({"entropy": [0.0] * 3}, watch(1, 1, max_leak_spans=0.0))


def test_an_independent_reading_of_the_definition_agrees() -> None:
    source = np.random.default_rng(3)
    params = watch(4, 3, min_entropy=0.4, max_reward_drop=0.3)
    for _ in range(50):
        entropy, reward = source.random(40), source.random(40)
        columns = alarm_columns({"entropy": entropy, "reward": reward}, params)
        for k in range(1, 41):
            recent = range(max(1, k - 2), k + 1)
            means = {j: entropy[j - 4 : j].mean() for j in range(4, k + 1)}
            rewards = {j: reward[j - 4 : j].mean() for j in range(4, k + 1)}
            low = k >= 6 and all(means[j] < 0.4 for j in recent)
            fell = k >= 6 and all(max(rewards[i] for i in range(4, j + 1)) - rewards[j] > 0.3 for j in recent)
            assert (columns["alarm_entropy"][k - 1], columns["alarm_reward"][k - 1]) == (low, fell)


def test_a_summary_by_hand() -> None:
    params = watch(1, 2, min_entropy=0.5, max_leak_mentions=0.1)
    summary = watch_summary(
        {
            "step": np.array([1.0, 2.0, 3.0, 4.0]),
            "entropy": np.array([1.0, 0.25, 0.125, 0.0]),
            "leak_mentions": np.array([0.0, 0.0, 0.1, 0.1]),
            "leak_spans": np.array([math.nan] * 4),
        },
        params,
    )
    assert summary.numbers() == {
        "alarms": {
            "entropy": {"first_step": 3, "steps": 2},
            "length": None,
            "reward": None,
            "leak": {"first_step": None, "steps": 0},
            "signal": None,
        },
        "leaks": {"leak_mentions": {"mean": pytest.approx(0.05), "max": 0.1}, "leak_spans": None},
    }
    assert set(summary.ringing) == {"entropy"}
    said = summary.text()
    assert "alarm entropy rang from step 3, at 2 steps: moving mean of entropy is 0.125, below 0.5" in said
    assert "watch.min_entropy" in said and "Lower train.lr" in said
    assert "off: length, reward, signal" in said and "leak_mentions mean 0.0500, largest 0.1000" in said
    assert watch_summary({"step": [1.0], "entropy": [1.0]}, params).text().startswith("no alarm rang")


def measured(rows: int, seed: int) -> list[dict[str, float | None]]:
    """Metrics of a run in which entropy and reward fall, with gaps."""
    source = random.Random(seed)
    return [
        {name: None if source.random() < 0.1 else source.random() / row for name in WATCHED}
        for row in range(1, rows + 1)
    ]


def watched(path: Path, rows: list[dict[str, float | None]], params: WatchParams) -> list[str]:
    """Goes on with a metrics.csv as the trainer does; returns what it said."""
    log = CsvLog(path, metric_columns())
    alarms, said = Watch(path, params), []
    for row in rows:
        step = len(alarms.history["step"]) + 1
        rings, news = alarms.see(step, row)
        log.append({"step": step, **row, **rings})
        said += [f"{step} {line}" for line in news]
    return said


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4))
def test_a_resumed_watch_equals_an_uninterrupted_one(cut: int, seed: int, window: int, patience: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows, folder = measured(12, seed), Path(name)
        params = watch(window, patience, min_entropy_fraction=0.6, max_reward_drop=0.2, max_leak_mentions=0.2)
        whole = watched(folder / "whole.csv", rows, params)
        parts = watched(folder / "parts.csv", rows[:cut], params) + watched(folder / "parts.csv", rows[cut:], params)
        assert (folder / "parts.csv").read_bytes() == (folder / "whole.csv").read_bytes()
        assert parts == whole, "each alarm is told once"
        # What is worked out from the finished file is what was logged.
        history = read_history(folder / "whole.csv")
        again = alarm_columns(history, params)
        for column in COLUMNS:
            logged = [None if math.isnan(value) else value for value in history[column]]
            assert logged == again[column]
        summary = watch_summary(history, params)
        assert len(whole) == len(summary.ringing)


def test_the_first_ring_is_told_with_value_threshold_and_remedy(tmp_path: Path) -> None:
    rows: list[dict[str, float | None]] = [dict.fromkeys(WATCHED) | {"entropy": value} for value in (0.2, 0.1, 0.1)]
    said = watched(tmp_path / "metrics.csv", rows, watch(1, 2, min_entropy=0.15))
    assert said == [
        "3 alarm entropy: moving mean of entropy is 0.1, below 0.15 (watch.min_entropy). Lower train.lr, or raise the "
        "method's alpha or entropy_bonus"
    ]


@pytest.mark.parametrize("text", ["", "step,entropy\n1,x\n", "step,entropy\n1\n", "step,entropy\n1,0.5\n2,0.4,1\n"])
def test_a_damaged_metrics_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(UserError, match=r"metrics.csv is damaged"):
        read_history(tmp_path / "metrics.csv")


def test_a_missing_metrics_file_is_named_and_an_empty_field_is_nan(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read_history(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("step,entropy\n1,\n2,0.5\n")
    history = read_history(tmp_path / "metrics.csv")
    assert history["step"] == [1, 2] and history["entropy"] == pytest.approx([math.nan, 0.5], nan_ok=True)
    (tmp_path / "metrics.csv").write_text("step,entropy\n")
    assert read_history(tmp_path / "metrics.csv") == {"step": [], "entropy": []}


def test_a_column_of_words_that_another_version_wrote_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,phase,joy,entropy\n1,warmup,0.5,\n2,,0.25,0.5\n")
    assert list(read_history(path)) == ["step", "joy", "entropy"]
    path.write_text("step,phase,entropy\n1,warmup,0.1\n2,2.0,0.5\n")
    with pytest.raises(UserError, match=r"metrics.csv is damaged .*warmup"):
        read_history(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mentions", ["(hint"], r"watch.mentions.0: '\(hint' is no RE2 pattern \(.*missing \)"),
        ("mentions", ["fine", r"(a)\1"], "watch.mentions.1: .* no look-around and no back-references"),
        ("mentions", ["x*"], "matches the empty text and so every completion"),
        ("mentions", [""], "matches the empty text"),
        ("mentions", [3], "watch.mentions.0: Input should be a valid string"),
        ("window", 0, "watch.window: Input should be greater than 0"),
        ("patience", 0, "watch.patience: Input should be greater than 0"),
        ("span_words", 0, "watch.span_words: Input should be greater than 0"),
        ("max_truncated", 1.5, "watch.max_truncated: Input should be less than or equal to 1"),
        ("max_length_fraction", 0.5, "watch.max_length_fraction: Input should be greater than or equal to 1"),
        ("min_entropie", 1, "watch.min_entropie: unknown key"),
    ],
)
def test_a_mistake_in_the_section_is_named(key: str, value: Any, message: str) -> None:
    tree = read_yaml(ROOT / "params.yaml")
    tree["watch"][key] = value
    with pytest.raises(UserError, match=message):
        parse_params(tree)


def test_every_limit_has_a_field_and_every_metric_a_column() -> None:
    fields = set(WatchParams.model_fields) - {"mentions", "span_words", "top_k", "window", "patience"}
    assert [limit.field for limit in LIMITS] == list(dict.fromkeys(limit.field for limit in LIMITS))
    assert {limit.field for limit in LIMITS} == fields
    assert {*WATCHED, *COLUMNS} <= set(metric_columns())
    assert {limit.alarm for limit in LIMITS} == set(ALARMS)
