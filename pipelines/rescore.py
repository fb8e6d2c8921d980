"""Scores stored rollouts and evaluations again with another verifier; needs neither model nor GPU.

Prints who changed and what it does to the table. The runs stay as they are; verdicts, changes and tables are written
to reports/rescore/<verifier>.
"""

import argparse
from pathlib import Path

from pipelines.command_line import command_parser
from pipelines.verifier_options import add_verifier_options, overrides
from sdpg import paths
from sdpg.errors import entry_point

DEFAULT = "math_verify"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("rescore", __doc__, "grpo-0 sdpg-ufkl-0 --verifier string_match", "RUN [RUN ...] [options]")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=paths.given_name, help="a name like grpo-0, a run's folder, or base"
    )
    add_verifier_options(parser)
    parser.set_defaults(verifier=DEFAULT)
    parser.add_argument(
        "--out", type=paths.given_path, help="folder of the results; an earlier result there is replaced"
    )
    parser.add_argument("--audit", action="store_true", help="list where exact match and math-verify disagree")
    return parser


def main() -> None:
    """Runs ``sdpg rescore``."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.evaluation.rescoring import find_run
    from sdpg.locks import exclusive
    from sdpg.results.rescoring_report import write_rescored

    runs = [find_run(name, overrides(options), Path()) for name in options.runs]
    target = options.out or paths.REPORTS / "rescore" / options.verifier.replace(":", "-")
    with exclusive(target):
        print(write_rescored(runs, target, with_audit=options.audit))
    print(f"{target} holds verdicts/, changes.jsonl, report.md and rescore.json.")


if __name__ == "__main__":
    entry_point(main)
