"""Adds command line options that override the reward section of params.yaml."""

import argparse
from typing import Any, get_args

from sdpg.params import RewardParams


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def _choices(field: str) -> tuple[str, ...]:
    return get_args(RewardParams.model_fields[field].annotation)


def add_verifier_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--verifier``, ``--answer-format``, ``--workers`` and ``--timeout``; all are optional."""
    parser.add_argument("--verifier", choices=_choices("verifier"), help="see docs/verifiers.md")
    parser.add_argument("--answer-format", choices=_choices("answer_format"), help="\\boxed{…}, or a line 'Answer: …'")
    parser.add_argument("--workers", type=_positive(int), help="processes that run math-verify")
    parser.add_argument("--timeout", type=_positive(float), help="seconds after which verifying one answer is killed")


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given, by the name of their field."""
    given = {name: getattr(options, name) for name in ("verifier", "answer_format", "workers", "timeout")}
    return {name: value for name, value in given.items() if value is not None}
