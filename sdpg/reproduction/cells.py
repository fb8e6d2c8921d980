"""Compares the tables of two results cell by cell: bit-identical, within the recorded interval, or different."""

from collections.abc import Iterator
from dataclasses import dataclass
import math
from typing import Any, Literal

from sdpg.results.runs import Results
from sdpg.results.tables import FinalRow, MainRow, final_json, final_rows, main_json, main_rows

Verdict = Literal["bit-identical", "within interval", "different"]
VERDICTS: tuple[Verdict, ...] = ("bit-identical", "within interval", "different")
Key = tuple[str, str, str, str]
"""(table, benchmark, method, measure)"""
Estimate = tuple[Any, float, float, Any]
"""An estimate, its limits, and all else that the cell says."""


@dataclass(frozen=True)
class Cell:
    """One number of a table, as it was recorded and as it was found again; None where there is no such cell."""

    table: str
    benchmark: str
    method: str
    measure: str
    recorded: float | None
    found: float | None
    verdict: Verdict


def compare_tables(recorded: Results, found: Results) -> list[Cell]:
    """Compares every number of the main table and of the final policy's larger samples.

    A cell is bit-identical if the estimate and its limits are equal to the last bit. It is within the interval if the
    new estimate lies between the recorded limits. ``best`` and ``selected`` have no limits: they may differ by half
    the width of the interval of ``last``.
    """
    before, after = dict(_estimates(recorded)), dict(_estimates(found))
    return [
        Cell(*key, _value(before.get(key)), _value(after.get(key)), _verdict(before.get(key), after.get(key)))
        for key in dict.fromkeys([*before, *after])
    ]


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate[0]


def _verdict(recorded: Estimate | None, found: Estimate | None) -> Verdict:
    if recorded is None or found is None:
        return "different"
    # The text of a float has all its digits, and that of NaN equals itself.
    if repr(recorded) == repr(found):
        return "bit-identical"
    _, low, high, _ = recorded
    return "within interval" if low <= found[0] <= high else "different"


def _estimates(results: Results) -> Iterator[tuple[Key, Estimate]]:
    main, final = main_rows(results), final_rows(results)
    for row, plain in zip(main, main_json(main), strict=True):
        yield from _main(row, plain)
    for row, plain in zip(final, final_json(final), strict=True):
        yield from _final(row, plain)


def _main(row: MainRow, plain: dict[str, Any]) -> Iterator[tuple[Key, Estimate]]:
    def key(measure: str) -> Key:
        return ("main", row.benchmark, row.title, measure)

    half = (row.ci_high - row.ci_low) / 2
    sizes = {name: plain[name] for name in ("last_step", "problems", "samples", "seeds", "seed_spread", "evidence")}
    yield key("last"), (row.last, row.ci_low, row.ci_high, sizes)
    # Those of the base, which is not trained, are NaN.
    for name in ("best", "selected"):
        value = plain[name]
        if value is not None and not math.isnan(value):
            yield key(name), (value, value - half, value + half, plain[f"{name}_steps"])
    if row.difference is not None and row.difference_low is not None and row.difference_high is not None:
        more = (row.difference_p, row.difference_p_holm, row.needed)
        yield key("difference to GRPO"), (row.difference, row.difference_low, row.difference_high, more)


def _final(row: FinalRow, plain: dict[str, Any]) -> Iterator[tuple[Key, Estimate]]:
    def key(measure: str) -> Key:
        return ("larger samples", row.benchmark, row.title, measure)

    yield key("mean"), (row.mean, row.mean_low, row.mean_high, plain["evidence"])
    if row.greedy is not None and row.greedy_low is not None and row.greedy_high is not None:
        yield key("greedy"), (row.greedy, row.greedy_low, row.greedy_high, None)
    for k, interval in row.pass_at.items():
        yield key(f"pass@{k}"), (interval.mean, interval.low, interval.high, None)
    for name, gain in (("gain", row.gain), ("greedy gain", row.greedy_gain)):
        if gain is not None:
            yield key(name), (gain.mean, gain.low, gain.high, gain.p_value)
