"""Finds values in rows by the path of a column, and reads them as text.

A path is a column's name, or goes on into what the column holds: ``reward_model.ground_truth``, ``prompt[0].content``.
"""

from collections.abc import Iterable
from functools import lru_cache
import math
import re
from typing import Any

_SURROGATE = re.compile(r"[\ud800-\udfff]")
_PATH = re.compile(r"([^.\[\]]+)((?:\.[^.\[\]]+|\[\d+\])*)")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
LONGEST_NUMBER = 10_000
"""The bits of a whole number that is read as text; longer ones are no answers, and ``str`` refuses them."""


class Unusable(ValueError):
    """The reason why a value cannot be used; who reads the row adds its place."""


class MissingColumn(Unusable):
    """A column, or a part of what it holds, that a row has not."""

    def __init__(self, column: str, present: Iterable[Any]) -> None:
        super().__init__(
            f"there is no column {column!r}; there are: {', '.join(sorted(map(str, present))) or 'none'}. Name the "
            "right one under `columns` of this source (of sdpg evaluate: in --columns)"
        )


@lru_cache
def split_path(column: str) -> tuple[str, tuple[str | int, ...]]:
    """Splits a path into its column, and the keys and places that lead on from there."""
    if (match := _PATH.fullmatch(column)) is None:
        return column, ()
    return match[1], tuple(key or int(place) for key, place in _STEP.findall(match[2]))


def root(column: str, present: Iterable[str]) -> str:
    """Returns the column in which a path begins; a column that is named like the path itself comes first.

    Raises:
        MissingColumn: if there is no such column.
    """
    names = list(present)
    for name in (column, split_path(column)[0]):
        if name in names:
            return name
    raise MissingColumn(column, names)


def value_at(row: dict[str, Any], column: str) -> Any:
    """Returns the value at a path; ``None`` where the path leads through an empty value or beyond a list's end.

    Raises:
        MissingColumn: if there is no such column, or no such part of what it holds.
    """
    if column in row:
        return row[column]
    name, steps = split_path(column)
    if name not in row:
        raise MissingColumn(column, row)
    value, passed = row[name], name
    for step in steps:
        if value is None:
            return None
        if isinstance(step, int) and isinstance(value, list):
            value = value[step] if step < len(value) else None
        elif isinstance(step, str) and isinstance(value, dict):
            if step not in value:
                raise MissingColumn(column, (f"{passed}.{key}" for key in value))
            value = value[step]
        else:
            raise Unusable(f"column {column!r} cannot be followed: {passed!r} holds {described(value)}")
        passed += f"[{step}]" if isinstance(step, int) else f".{step}"
    return value


def text_of(value: Any, column: str) -> str:
    """Returns a value as text; an absent one, and a number that is none, are empty.

    Whole floats, as some repacks store answers, lose their point, and of a list of one value that value is taken.

    Raises:
        Unusable: if it is no text or number; the message names the column.
    """
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    match value:
        case None:
            return ""
        case str():
            if _SURROGATE.search(value):
                raise Unusable(
                    f"column {column!r} holds half a character (a lone surrogate such as \\ud800), which no file or "
                    "tokenizer takes: mend or remove the row"
                )
            return value.strip()
        case bool():
            raise Unusable(f"column {column!r} holds {str(value).lower()}, not text or a number: write it as text")
        case float() if not math.isfinite(value):
            return ""
        case float() if value.is_integer():
            return str(int(value))
        case float():
            return str(value)
        case int() if value.bit_length() < LONGEST_NUMBER:
            return str(value)
    raise Unusable(
        f"column {column!r} holds {described(value)}, not text or a number: name what is meant, as in "
        f"{_example(value, column)!r}, or convert the file"
    )


def user_message(value: Any) -> Any:
    """Returns the text of a chat's one user message, where a value is a list of messages; any other as it is."""
    if not isinstance(value, list) or not value:
        return value
    if not all(isinstance(message, dict) and {"role", "content"} <= message.keys() for message in value):
        return value
    asked = [message["content"] for message in value if message["role"] == "user"]
    return asked[0] if len(asked) == 1 else value


def described(value: Any) -> str:
    """Returns what kind of value it is, in words."""
    match value:
        case list():
            return f"a list of {len(value)}"
        case dict():
            return f"an object of {', '.join(map(str, value)) or 'nothing'}"
    return f"a {type(value).__name__}"


def _example(value: Any, column: str) -> str:
    if isinstance(value, list):
        return f"{column}[0]" + (".content" if value and isinstance(value[0], dict) else "")
    return f"{column}.{next(iter(value), 'part')}" if isinstance(value, dict) else column
