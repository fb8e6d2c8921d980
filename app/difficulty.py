"""Gate and signal of rollouts by difficulty: by accuracy of the group, source of the problem, length, and over time.

The module imports no torch. The functions read the index of :func:`app.store.index`, a row per rollout.
"""

from functools import lru_cache
import json
from pathlib import Path

import numpy as np
import pandas as pd

from app import filters, store
from app.sources import RunEntry

ACCURACY, FAMILY, LENGTH = "accuracy of the group", "family of the problem", "response length"
SHARES = ("0%", "1–25%", "26–50%", "51–75%", "76–99%", "100%")
"""The bins of a group's share of right answers."""
PREPARED = "data/prepared/train.jsonl"
MEASURES = {"gate": "gate open", "flat": "in groups without variance", "distilled": "distilled KL (nats per token)"}
"""What is worked out of each bin → its title. Distilled KL is m·D(p‖q), the mean over rollouts whose KL is recorded."""
SPANS = 12
"""The number of spans of steps into which a run is cut, at most."""


def by_accuracy(index: pd.DataFrame) -> pd.Series:
    """Returns the bin (:data:`SHARES`) of each rollout's group."""
    right = (index["status"] == "correct").groupby([index["step"], index["group"]]).transform("mean")
    places = np.select(
        [right == 0, right <= 0.25, right <= 0.5, right <= 0.75, right < 1], range(5), 5
    )  # fmt: skip
    return pd.Series(pd.Categorical.from_codes(places, list(SHARES), ordered=True), index=index.index)


def by_length(index: pd.DataFrame) -> pd.Series:
    """Returns the fifth of the run's response lengths to which each rollout belongs, named by its limits in tokens."""
    lengths = index["length"].to_numpy(dtype=float)
    limits = np.unique(np.floor(np.quantile(lengths, [0.2, 0.4, 0.6, 0.8])))
    limits = limits[limits < lengths.max()]
    places = np.searchsorted(limits, lengths, side="left")
    lows = [int(lengths.min()), *(int(limit) + 1 for limit in limits)]
    highs = [*(int(limit) for limit in limits), int(lengths.max())]
    names = [f"{low}–{high}" if low < high else f"{low}" for low, high in zip(lows, highs, strict=True)]
    return pd.Series(pd.Categorical.from_codes(places, names, ordered=True), index=index.index)


def by_family(index: pd.DataFrame, families: dict[str, str]) -> pd.Series:
    """Returns the source of each rollout's problem; ``unknown`` for problems that the prepared data lack."""
    names = index["problem_id"].map(families).fillna("unknown")
    return pd.Series(pd.Categorical(names, sorted(set(names)), ordered=True), index=index.index)


def families_of(run: RunEntry) -> dict[str, str]:
    """Returns problem → source, from the prepared data beside the run; empty where they are absent or of other data.

    Ids say only where a problem stands, so that the data count only if a recorded prompt is the same there.
    """
    index = store.index(run)[0]
    files = run.place.files
    if index.empty or not files.exists(PREPARED):
        return {}
    path = files.path(PREPARED)
    sources, prompts = _prepared(path, store.stamp(path))
    first = index.iloc[0]
    written = next(iter(filters.texts(run, int(first["step"]), int(first["group"])).values()))
    return sources if prompts.get(written["problem_id"]) == hash(written["student_prompt"]) else {}


@lru_cache(maxsize=4)
def _prepared(path: Path, stamp: tuple[int, int]) -> tuple[dict[str, str], dict[str, int]]:
    del stamp
    sources, prompts = {}, {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                sources[row["id"]] = str(row["source"]).removeprefix("synthetic/") or "unknown"
                prompts[row["id"]] = hash(row["student_prompt"])
            except (ValueError, KeyError, TypeError):
                continue  # it is no row of prepared data
    return sources, prompts


def table(index: pd.DataFrame, bins: pd.Series, over_time: bool = False) -> pd.DataFrame:
    """Returns a row per bin, and per span of steps with ``over_time``.

    Columns: step (the middle of the span), bin, gate (share open), flat (share in groups without variance), distilled
    (mean of m·KL over recorded rollouts; NaN without one), rollouts, recorded, share (of the span's rollouts).
    """
    rows = pd.DataFrame({
        "bin": bins, "step": spans(index["step"]) if over_time else 0,
        "gate": (index["gate"] > 0).astype(float), "flat": filters.without_variance(index).astype(float),
        "distilled": index["gate"] * index["kl_to_teacher"],
    })  # fmt: skip
    found = rows.groupby(["step", "bin"], observed=True, as_index=False).agg(
        gate=("gate", "mean"), flat=("flat", "mean"), distilled=("distilled", "mean"), rollouts=("gate", "size"),
        recorded=("distilled", "count"),
    )  # fmt: skip
    return found.assign(share=found["rollouts"] / found.groupby("step")["rollouts"].transform("sum"))


def spans(steps: pd.Series) -> pd.Series:
    """Returns the middle of the span of steps to which each belongs; all spans have as many recorded steps."""
    known = sorted(set(steps))
    middle: dict[int, float] = {}
    for part in np.array_split(known, min(SPANS, len(known))):
        middle |= dict.fromkeys(part.tolist(), float(part.mean()))
    return steps.map(middle)
