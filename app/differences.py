"""Compares two texts or token lists by an exact longest common subsequence, fast enough for 8,192 tokens."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
import re
from typing import Any

WORDS = re.compile(r"\s+|\w+|[^\w\s]")
UNITS = ("tokens", "words")
Rows = tuple[Mapping[str, Any], Mapping[str, Any]]
"""Two rollouts, as rows of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`."""
LONGEST = 8192
"""The most items between the common start and the common end; where more remain, all of them count as different."""


@dataclass(frozen=True)
class Difference:
    """The difference of two sequences.

    Attributes:
        left: for each item of the first, whether it has no counterpart in the second.
        right: for each item of the second, whether it has no counterpart in the first.
        exact: False where the part between start and end was too long to compare.
    """

    left: list[bool]
    right: list[bool]
    exact: bool = True

    @property
    def shared(self) -> int:
        """Returns the number of items that stand in both, in the same order."""
        return self.left.count(False)

    @property
    def first(self) -> int | None:
        """Returns the index of the first item that differs, or None if the sequences are equal."""
        places = [side.index(True) for side in (self.left, self.right) if True in side]
        return min(places, default=None)


def difference(left: Sequence[Hashable], right: Sequence[Hashable]) -> Difference:
    """Marks the items without a counterpart, as few as possible."""
    start = 0
    while start < min(len(left), len(right)) and left[start] == right[start]:
        start += 1
    end = 0
    while end < min(len(left), len(right)) - start and left[-1 - end] == right[-1 - end]:
        end += 1
    a, b = left[start : len(left) - end], right[start : len(right) - end]
    marks = [True] * len(a), [True] * len(b)
    exact = max(len(a), len(b)) <= LONGEST
    if exact:
        for place, other in common(a, b):
            marks[0][place] = marks[1][other] = False
    whole = [[False] * start + part + [False] * end for part in marks]
    return Difference(whole[0], whole[1], exact)


def common(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Returns the pairs of indices (in a, in b) of a longest common subsequence, the last first.

    Bit j of a row is 0 where the length grows at b's item j; all of a row is one step of integers (Hyyrö 2004).
    """
    places: dict[Hashable, int] = {}
    for j, item in enumerate(b):
        places[item] = places.get(item, 0) | 1 << j
    full = (1 << len(b)) - 1
    rows = [full]
    for item in a:
        row = rows[-1]
        match = row & places.get(item, 0)
        rows.append(((row + match) | (row - match)) & full)

    def length(i: int, j: int) -> int:
        return j - (rows[i] & ((1 << j) - 1)).bit_count()

    pairs = []
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif length(i - 1, j) >= length(i, j - 1):
            i -= 1
        else:
            j -= 1
    return pairs


def words(text: str) -> list[str]:
    """Splits a text into words, runs of whitespace and single signs; joined they are the text again."""
    return WORDS.findall(text)


def runs(items: Sequence[str], marks: Sequence[bool]) -> list[tuple[str, bool]]:
    """Joins neighbours that have the same mark."""
    joined: list[tuple[list[str], bool]] = []
    for item, mark in zip(items, marks, strict=True):
        if joined and joined[-1][1] == mark:
            joined[-1][0].append(item)
        else:
            joined.append(([item], mark))
    return [("".join(parts), mark) for parts, mark in joined]


def token_marks(rows: Rows, by: str) -> tuple[list[list[bool]], Difference]:
    """Says for each token of both whether the other lacks it or a word it belongs to; also returns the difference."""
    if by == "tokens":
        marks = difference(rows[0]["tokens"], rows[1]["tokens"])
        return [marks.left, marks.right], marks
    sides = [words(row["completion"]) for row in rows]
    marks = difference(*sides)
    marked = []
    for row, side, differs in zip(rows, sides, (marks.left, marks.right), strict=True):
        characters = bytearray()
        for word, differing in zip(side, differs, strict=True):
            characters += bytes([differing]) * len(word)
        spans = zip(row["token_starts"], row["token_ends"], strict=True)
        marked.append([any(characters[start:end]) for start, end in spans])
    return marked, marks
