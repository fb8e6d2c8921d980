"""Reads where a row's parts stand from the command line."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdpg.params import ColumnMap


def answer_columns(written: str) -> dict[str, str]:
    """Returns the columns of a file of answers, written as ``completion=output.text,answer=gold``."""
    # Importing this takes time, which --help need not wait for.
    from sdpg.evaluation.scoring import PARTS

    found = {}
    for part in filter(None, map(str.strip, written.split(","))):
        name, sign, column = map(str.strip, part.partition("="))
        if not sign or not column or name not in PARTS:
            raise argparse.ArgumentTypeError(
                f"{part!r} names no column: write part=column, where part is one of {', '.join(PARTS)}"
            )
        found[name] = column
    return found


def column_map(written: str) -> "ColumnMap":
    """Returns a map of columns that is written as ``problem=question,answer=reward_model.ground_truth``."""
    # Importing these takes time, which --help need not wait for.
    from pydantic import ValidationError

    from sdpg.params import ColumnMap

    parts: dict[str, str] = {}
    for part in filter(None, map(str.strip, written.split(","))):
        name, sign, column = part.partition("=")
        if not sign or not column or name.strip() not in ColumnMap.model_fields:
            raise argparse.ArgumentTypeError(
                f"{part!r} names no column: write part=column, where part is one of {', '.join(ColumnMap.model_fields)}"
            )
        parts[name.strip()] = column.strip()
    try:
        return ColumnMap.model_validate(parts)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
