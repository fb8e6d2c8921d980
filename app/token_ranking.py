"""Ranks the tokens of a run by disagreement, entropy or share of the loss, and finds where they stand. No torch."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from app import filters, store
from app.filters import Key
from app.sources import RunEntry
from sdpg.params.stored import train_of
from sdpg.records.schemas import read_rollouts

SIGNALS = {"disagreement": "gap", "KL to teacher": "kl", "entropy": "entropy", "loss": "loss"}
"""What tokens are ranked by → the signal of :mod:`app.signals` with the same values."""
NEEDS = {
    "disagreement": ("teacher_logprob", "logprob"), "KL to teacher": ("kl_to_teacher",), "entropy": ("entropy",),
    "loss": ("loss",),
}  # fmt: skip
TEXTS = ["step", "group", "sibling", "problem_id", "completion", "tokens", "token_starts", "token_ends"]
PLACES = ["step", "group", "sibling", "problem", "at", "token", "mark", "value"]
EOS, BOXED = "EOS", "boxed"
_BOX = re.compile(r"\\boxed\s*\{")


@dataclass(frozen=True)
class Tokens:
    """The tokens of one file that have a value.

    Attributes:
        table: the file's rows that count.
        row: (N,) the row of each token in ``table``.
        at: (N,) its place in its response.
        text: (N,) its text.
        value: (N,) float64.
    """

    table: pa.Table
    row: NDArray[np.int64]
    at: NDArray[np.int64]
    text: pa.Array
    value: NDArray[np.float64]

    def places(self, chosen: NDArray[np.int64]) -> pd.DataFrame:
        """Returns the columns :data:`PLACES` of some of the tokens."""
        rows = self.row[chosen]
        found = self.table.select(["step", "group", "sibling", "problem_id"]).take(pa.array(rows)).to_pandas()
        found = found.rename(columns={"problem_id": "problem"})
        marks = {row: marks_of(self.table.slice(row, 1).to_pylist()[0]) for row in set(rows.tolist())}
        return found.assign(
            at=self.at[chosen], token=self.text.take(pa.array(chosen)).to_pylist(), value=self.value[chosen],
            mark=[marks[row].get(at, "") for row, at in zip(rows.tolist(), self.at[chosen].tolist(), strict=True)],
        )[PLACES]  # fmt: skip


def marks_of(row: dict[str, Any]) -> dict[int, str]:
    """Returns token → ``EOS`` for a special token at the end, ``boxed`` inside a ``\\boxed{…}`` of the completion."""
    spans = list(boxes(row["completion"]))
    marks = {}
    for at, (start, end) in enumerate(zip(row["token_starts"], row["token_ends"], strict=True)):
        if any(start < last and end > first for first, last in spans):
            marks[at] = BOXED
    last = len(row["tokens"]) - 1
    if last >= 0 and row["token_starts"][last] == row["token_ends"][last] and row["tokens"][last]:
        marks[last] = EOS
    return marks


def boxes(text: str) -> Iterator[tuple[int, int]]:
    """Yields start and end of what each ``\\boxed{…}`` holds, up to its own closing brace or the end of the text."""
    for match in _BOX.finditer(text):
        depth = 1
        for at in range(match.end(), len(text)):
            depth += (text[at] == "{") - (text[at] == "}")
            if not depth:
                break
        else:
            at = len(text)
        yield match.end(), at


def read(run: RunEntry, path: Path, by: str, keys: Collection[Key] | None) -> Tokens | None:
    """Returns the tokens of a file that have a value of :data:`SIGNALS`; None without any.

    Args:
        run: the run of the file.
        path: the file.
        by: a key of :data:`SIGNALS`.
        keys: the rollouts that count; None for all.
    """
    names = NEEDS[by]
    table = read_rollouts(path, [*TEXTS, *names])
    valid = np.ones(len(table), dtype=bool)
    for name in names:
        valid &= table[name].is_valid().to_numpy(zero_copy_only=False)
    if keys is not None:
        own = zip(*(table[name].to_pylist() for name in ("step", "group", "sibling")), strict=True)
        valid &= np.fromiter((key in keys for key in own), bool, len(table))
    table = table.filter(pa.array(valid)).combine_chunks()
    lengths = pc.list_value_length(table["tokens"]).to_numpy(zero_copy_only=False)  # pyright: ignore[reportAttributeAccessIssue]
    if not len(table) or not lengths.sum():
        return None
    first, *second = (
        table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64) for name in names
    )
    values = first - second[0] if second else first
    if by == "loss":
        values = values * np.repeat(_scale(run, table["step"].to_numpy()), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    at = np.arange(len(values)) - starts
    row = np.repeat(np.arange(len(table)), lengths)
    return Tokens(table, row, at, table["tokens"].combine_chunks().flatten(), np.nan_to_num(values))


def _scale(run: RunEntry, steps: NDArray[Any]) -> NDArray[np.float64]:
    """Returns N of each step's update, which makes a token's share of the loss comparable between steps."""
    tokens = store.metrics(run).set_index("step")["response_tokens"]
    tokens = tokens[~tokens.index.duplicated()].reindex(steps).to_numpy(dtype=float)
    return tokens / train_of(run.params, run.method).updates_per_batch


def largest(
    run: RunEntry, steps: Collection[int], by: str, keys: Collection[Key] | None, most: int, text: str | None = None
) -> pd.DataFrame:
    """Returns the places (:data:`PLACES`) of the tokens furthest from 0, the furthest first.

    Args:
        run: the run.
        steps: the steps that are read.
        by: a key of :data:`SIGNALS`.
        keys: the rollouts that count; None for all.
        most: the number of tokens.
        text: the only text that counts; None for all.
    """
    parts = []
    for path in filters.files(run, steps):
        if (tokens := read(run, path, by, keys)) is None:
            continue
        chosen = np.arange(len(tokens.value))
        if text is not None:
            chosen = np.flatnonzero(pc.equal(tokens.text, text).to_numpy(zero_copy_only=False))  # pyright: ignore[reportAttributeAccessIssue]
        order = np.argsort(-np.abs(tokens.value[chosen]), kind="stable")[:most]
        parts.append(tokens.places(chosen[order]))
    if not parts:
        return pd.DataFrame(columns=PLACES)
    found = pd.concat(parts, ignore_index=True)
    return found.sort_values("value", key=lambda values: -values.abs(), kind="stable").head(most).reset_index(drop=True)


def by_text(run: RunEntry, steps: Collection[int], by: str, keys: Collection[Key] | None) -> pd.DataFrame:
    """Returns a row per text of a token: ``token``, ``count``, ``mean``, ``size`` (mean distance from 0), ``share`` (of
    the sum of all distances); those with the largest share come first."""
    parts = []
    for path in filters.files(run, steps):
        if (tokens := read(run, path, by, keys)) is not None:
            frame = pd.DataFrame({"token": tokens.text.to_pylist(), "sum": tokens.value, "away": np.abs(tokens.value)})
            parts.append(frame.groupby("token", as_index=False).agg(
                count=("sum", "size"), sum=("sum", "sum"), away=("away", "sum")))  # fmt: skip
    if not parts:
        return pd.DataFrame(columns=["token", "count", "mean", "size", "share"])
    table = pd.concat(parts).groupby("token", as_index=False).sum()
    table = table.assign(mean=table["sum"] / table["count"], size=table["away"] / table["count"],
                         share=table["away"] / max(float(table["away"].sum()), 1e-300))  # fmt: skip
    table = table.sort_values(["share", "token"], ascending=[False, True], kind="stable").reset_index(drop=True)
    return table[["token", "count", "mean", "size", "share"]]
