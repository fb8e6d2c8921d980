"""Filters a run's rollouts by their index, groups siblings, searches texts, and makes files of a selection."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
import json
import math
from pathlib import Path
import tempfile
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app import store
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.records.parquet import join_records
from sdpg.records.schemas import ROLLOUT_SCHEMA, read_rollouts

Key = tuple[int, int, int]
"""Step, group and sibling, which identify a rollout of a run."""
MARKS = {"correct": "●", "wrong": "○", "no_answer": "◌", "truncated": "◍", "timeout": "◔"}
"""The character that stands for each verdict, all of one width, so that siblings stand in columns."""
TEXTS = ("completion", "student_prompt", "teacher_prompt")


@dataclass(frozen=True)
class Filter:
    """The conditions for a rollout to be listed; the default accepts every rollout.

    Attributes:
        statuses, rewards: the accepted values; empty accepts all.
        gate: the accepted state of the gate, which is open where ``gate`` > 0.
        shortest, longest: the limits of the length in tokens, both included.
        kl: the quantiles between which the mean KL to the teacher lies, among the rollouts on which it was recorded;
            the others pass only if the quantiles are 0 and 1.
        flagged: whether only groups whose rewards are all equal pass.
        suspects: names of :data:`SUSPECTS`, all of which must hold.
        tags: tags of notes, one of which the rollout must have; empty accepts all.
    """

    statuses: tuple[str, ...] = ()
    rewards: tuple[float, ...] = ()
    gate: Literal["any", "open", "closed"] = "any"
    shortest: int | None = None
    longest: int | None = None
    kl: tuple[float, float] = (0.0, 1.0)
    flagged: bool = False
    suspects: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Returns each condition that is set, in words."""
        low, high = (round(100 * share) for share in self.kl)
        conditions = {
            f"status {' or '.join(self.statuses)}": self.statuses,
            f"reward {' or '.join(f'{value:g}' for value in self.rewards)}": self.rewards,
            f"gate {self.gate}": self.gate != "any",
            f"{self.shortest} tokens or more": self.shortest is not None,
            f"{self.longest} tokens or fewer": self.longest is not None,
            f"KL between the {low}% and {high}% quantiles": self.kl != (0.0, 1.0),
            "groups without variance": self.flagged,
            " and ".join(self.suspects): self.suspects,
            f"tag {' or '.join(self.tags)}": self.tags,
        }
        return [words for words, is_set in conditions.items() if is_set]


def _longest(index: pd.DataFrame) -> pd.Series:
    return index["length"] == index.groupby(["step", "group"])["length"].transform("max")


def _says_gold(index: pd.DataFrame) -> pd.Series:
    return index["extracted_answer"].str.strip() == index["gold"].str.strip()


LEAKS = "leaks the privileged prompt"
"""The suspect that needs a column ``leaks``, which is worked out of texts (:mod:`app.leaks`)."""
SUSPECTS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "wrong, and the longest of its group": lambda index: (index["status"] != "correct") & _longest(index),
    "judged wrong with the gold's answer": lambda index: (index["status"] != "correct") & _says_gold(index),
    "correct with a closed gate": lambda index: (index["status"] == "correct") & (index["gate"] <= 0),
    LEAKS: lambda index: index["leaks"],
    "truncated": lambda index: index["truncated"].fillna(False).astype(bool) | (index["status"] == "truncated"),
}
"""What a researcher looks for → whether it holds for each rollout of an index, with all siblings of each group."""


def without_variance(index: pd.DataFrame) -> pd.Series:
    """Says for each rollout whether all rewards of its group are equal: no advantage, nothing to learn from."""
    rewards = index.groupby([name for name in ("run", "step", "group") if name in index])["reward"]
    return rewards.transform("min") == rewards.transform("max")


def passing(index: pd.DataFrame, chosen: Filter, hits: Collection[Key] | None = None) -> pd.Series:
    """Says for each rollout whether it passes the filter.

    Args:
        index: the index of :func:`app.store.index`, with all siblings of each group.
        chosen: the filter.
        hits: the keys that a search found; None without a search.
    """
    passes = pd.Series(True, index=index.index)
    if chosen.statuses:
        passes &= index["status"].isin(chosen.statuses)
    if chosen.rewards:
        passes &= index["reward"].isin(chosen.rewards)
    if chosen.gate != "any":
        passes &= (index["gate"] > 0) == (chosen.gate == "open")
    if chosen.shortest is not None:
        passes &= index["length"] >= chosen.shortest
    if chosen.longest is not None:
        passes &= index["length"] <= chosen.longest
    if chosen.kl != (0.0, 1.0):
        recorded = index["kl_to_teacher"].dropna()
        if recorded.empty:
            passes &= False
        else:
            low, high = np.quantile(recorded, chosen.kl)
            passes &= index["kl_to_teacher"].between(low, high)
    if chosen.flagged:
        passes &= without_variance(index)
    for name in chosen.suspects:
        passes &= SUSPECTS[name](index)
    if chosen.tags:
        passes &= pd.Series(
            [not set(chosen.tags).isdisjoint(own) for own in index["tags"]], index=index.index, dtype=bool
        )
    if hits is not None:
        passes &= among(index, hits)
    return passes


def among(index: pd.DataFrame, keys: Collection[Key]) -> pd.Series:
    """Says for each rollout whether it is one of these."""
    if not keys:
        return pd.Series(False, index=index.index)
    own = pd.MultiIndex.from_frame(index[["step", "group", "sibling"]])
    return pd.Series(own.isin(list(keys)), index=index.index)


def groups(index: pd.DataFrame, passes: pd.Series) -> pd.DataFrame:
    """Returns a row per group with a rollout that passes, described by all of its siblings.

    Columns: step, group, problem_id, marks, size, passing, reward (mean), correct (share), flagged, gate (share open),
    length, shortest, longest (tokens), kl (mean of its recorded rollouts; NaN without one), recorded (their number).
    """
    columns = ["step", "group", "problem_id", "marks", "size", "passing", "reward", "correct", "flagged", "gate",
               "length", "shortest", "longest", "kl", "recorded"]  # fmt: skip
    if index.empty:
        return pd.DataFrame(columns=columns)
    rows = index.assign(
        marks=index["status"].map(MARKS).fillna("?"), passing=passes, right=index["status"] == "correct",
        open=index["gate"] > 0,
    ).sort_values(["step", "group", "sibling"])  # fmt: skip
    table = rows.groupby(["step", "group"], as_index=False).agg(
        problem_id=("problem_id", "first"), marks=("marks", "".join), size=("sibling", "size"),
        passing=("passing", "sum"), reward=("reward", "mean"), least=("reward", "min"), most=("reward", "max"),
        correct=("right", "mean"), gate=("open", "mean"), length=("length", "mean"), shortest=("length", "min"),
        longest=("length", "max"), kl=("kl_to_teacher", "mean"), recorded=("kl_to_teacher", "count"),
    )  # fmt: skip
    table["flagged"] = table["least"] == table["most"]
    return table.loc[table["passing"] > 0, columns].reset_index(drop=True)


@store.cached_by_file(8)
def _texts(path: Path) -> pa.Table:
    columns = ["step", "group", "sibling", "problem_id", *TEXTS, "extracted_answer"]
    return read_rollouts(path, columns)


def files(run: RunEntry, steps: Collection[int]) -> Iterator[Path]:
    """Yields the files with the rollouts of these steps."""
    for name in run.names("rollouts"):
        match = store.STEP.match(name)
        if match and int(match.group(1)) in steps:
            yield run.path(f"rollouts/{name}")


def texts(run: RunEntry, step: int, group: int) -> dict[int, dict[str, Any]]:
    """Returns sibling → completion and prompts of one group; no tokens are read."""
    rows: dict[int, dict[str, Any]] = {}
    for path in files(run, {step}):
        table = _texts(path)
        for row in table.filter(pc.equal(table["group"], group)).to_pylist():
            rows[row["sibling"]] = row
    return dict(sorted(rows.items()))


def search(
    run: RunEntry, steps: Collection[int], text: str, columns: Iterable[str], regular: bool = False
) -> set[Key]:  # fmt: skip
    """Returns the keys of rollouts of these steps with a text that contains ``text``, in any case.

    Args:
        regular: whether ``text`` is a regular expression (RE2's, whose time is linear in the text); else it is literal.

    Raises:
        UserError: if the regular expression is none.
    """
    match = pc.match_substring_regex if regular else pc.match_substring
    try:
        match(pa.array([""]), text, ignore_case=True)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{text!r} is no regular expression: {error}. Mend it, or search for text as it stands"
        ) from None
    found: set[Key] = set()
    for path in files(run, set(steps)):
        found |= _hits(path, store.stamp(path), text, tuple(columns), regular)
    return found


@lru_cache(maxsize=4_096)
def _hits(
    path: Path, stamp: tuple[int, int], text: str, columns: tuple[str, ...], regular: bool
) -> frozenset[Key]:  # fmt: skip
    del stamp  # it is part of the cache's key, so that a rewritten file is read again
    match = pc.match_substring_regex if regular else pc.match_substring
    table = _texts(path)
    hit = np.zeros(len(table), dtype=bool)
    for column in columns:
        matches = pc.fill_null(match(table[column], text, ignore_case=True), False)
        hit |= matches.to_numpy(zero_copy_only=False)
    chosen = table.filter(pa.array(hit))
    return frozenset(zip(*(chosen[key].to_pylist() for key in ("step", "group", "sibling")), strict=True))


def _chosen_tables(run: RunEntry, chosen: pd.DataFrame) -> Iterator[pa.Table]:
    """Yields the full records of the rollouts, with one step in memory at a time."""
    for step, selected in chosen.groupby("step"):
        keys = pd.MultiIndex.from_frame(selected[["group", "sibling"]])
        for path in files(run, {int(str(step))}):
            table = read_rollouts(path)
            here = pd.MultiIndex.from_arrays([table["group"].to_numpy(), table["sibling"].to_numpy()])
            part = table.filter(pa.array(here.isin(keys)))
            if len(part):
                yield part


def parquet_of(run: RunEntry, chosen: pd.DataFrame) -> bytes:
    """Returns the full records as one Parquet file of the current schema, with every column that a file of them has.

    Args:
        chosen: a table with the columns step, group, sibling.

    Raises:
        UserError: if the files' further columns cannot be joined.
    """
    source = run.label_of("rollouts")
    paths = files(run, set(chosen["step"].tolist()))
    whole = join_records([ROLLOUT_SCHEMA.empty_table(), *(read_rollouts(path, rows=False) for path in paths)], source)
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(file, whole.schema, compression="zstd", write_page_checksum=True) as writer:
            for table in _chosen_tables(run, chosen):
                writer.write_table(join_records([whole, table], source))
        file.seek(0)
        return file.read()


def jsonl_of(run: RunEntry, chosen: pd.DataFrame, tokens: bool = True) -> bytes:
    """Returns the records as JSON, one a line; NaN and infinity, which JSON lacks, are null.

    Args:
        chosen: a table with the columns step, group, sibling.
        tokens: whether the per-token lists are included.
    """
    with tempfile.TemporaryFile() as file:
        for table in _chosen_tables(run, chosen):
            part = table.select([field.name for field in table.schema if tokens or not pa.types.is_list(field.type)])
            for at in range(len(part)):
                row = _finite(part.slice(at, 1).to_pylist()[0])
                # A column of another version may hold types that JSON lacks, such as a date.
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=str).encode() + b"\n")
        file.seek(0)
        return file.read()


def _finite(value: Any) -> Any:
    """Returns the value with null in place of numbers that JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
