"""Scores a file of rows with id, completion and answer; prints {id, status, extracted_answer, reward, reason} a line.

Values that no option gives are those of the reward section of params.yaml, where there is one. Standard output holds
the JSON lines and nothing else; counts, rate and the name of the verifier go to standard error.
"""

import argparse
import sys

from pipelines.column_options import answer_columns
from pipelines.command_line import command_parser
from pipelines.verifier_options import add_verifier_options, overrides
from sdpg import paths
from sdpg.errors import entry_point

SHOWN = 50
"""The number of disagreements that are printed."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("score", __doc__, "answers.jsonl --verifier math_verify > verdicts.jsonl", "FILE [options]")
    parser.add_argument(
        "file", type=paths.given_name, metavar="FILE", help="a file of rows, or - for JSON Lines from standard input"
    )
    add_verifier_options(parser)
    parser.add_argument(
        "--columns", type=answer_columns, metavar="PART=COLUMN,…",
        help="columns of other names, or paths: completion=output[0].text,answer=gold",
    )  # fmt: skip
    parser.add_argument("--audit", action="store_true", help="list where exact match and math-verify disagree")
    return parser


def main() -> None:
    """Runs ``sdpg score``; the file ``-`` is standard input."""
    options = parser().parse_args()
    # Importing these takes time, which --help need not wait for.
    from sdpg.evaluation.audit import audit, listed
    from sdpg.evaluation.scoring import score_file
    from sdpg.params import PARAMS_FILE, RewardParams, load_params
    from sdpg.rewards.own import make_verifier

    params = load_params().reward if PARAMS_FILE.exists() else RewardParams()
    params = params.override(overrides(options))
    with make_verifier(params) as verifier:
        scored = score_file(options.file, verifier, sys.stdout, keep_pairs=options.audit, columns=options.columns)
        print(scored.summary(verifier), file=sys.stderr)
    if options.audit:
        print(listed(audit(params, scored.pairs), SHOWN), file=sys.stderr)


if __name__ == "__main__":
    entry_point(main)
