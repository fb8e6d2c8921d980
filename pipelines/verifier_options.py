"""Adds command line options that override the reward section of params.yaml."""

import argparse
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from sdpg.params import Imported


def _positive(kind: type) -> Any:
    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = kind.__name__
    return parse


def verifier_name(text: str) -> str:
    """Checks the name of a verifier, or the path of an own one."""
    # Importing these takes time, which --help need not wait for.
    from pydantic import ValidationError

    from sdpg.params import Imported
    from sdpg.params.tree import VerifierName

    if text not in (names := get_args(VerifierName)):
        try:
            Imported(kind="import", path=text)
        except ValidationError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is none of {', '.join(names)}, and no module:function of your own"
            ) from None
    return text


def verifier_of(name: str) -> "str | Imported":
    """Returns the value of ``reward.verifier`` for a name, or for the path of an own one."""
    from sdpg.params import Imported

    return Imported(kind="import", path=name) if ":" in name else name


def _answer_format(text: str) -> str:
    from sdpg.params import RewardParams

    if text not in (known := get_args(RewardParams.model_fields["answer_format"].annotation)):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
    return text


def add_verifier_options(parser: argparse.ArgumentParser) -> None:
    """Adds ``--verifier``, ``--answer-format``, ``--workers`` and ``--timeout``; all are optional."""
    parser.add_argument(
        "--verifier",
        type=verifier_name,
        metavar="NAME",
        help="see docs/verifiers.md; or an own one, as module:function",
    )
    parser.add_argument(
        "--answer-format", type=_answer_format, metavar="FORM",
        help="boxed: \\boxed{…}; answer_line: a line 'Answer: …'",
    )  # fmt: skip
    parser.add_argument("--workers", type=_positive(int), help="processes that run math-verify")
    parser.add_argument("--timeout", type=_positive(float), help="seconds after which verifying one answer is killed")


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given, by the name of their field."""
    given = {name: getattr(options, name) for name in ("verifier", "answer_format", "workers", "timeout")}
    if given["verifier"] is not None:
        given["verifier"] = verifier_of(given["verifier"])
    return {name: value for name, value in given.items() if value is not None}
