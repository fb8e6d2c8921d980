"""Ranks the answers of runs on which two verifiers disagree, by how often they occur; needs neither model nor GPU.

Writes reports/audit/<first>-against-<second>: report.md, and disagreements.jsonl with all of them. The runs stay as
they are; the next main report (dvc repro) shows the commonest in a section of its own.
"""

import argparse
from pathlib import Path

from pipelines.command_line import command_parser
from pipelines.verifier_options import verifier_name, verifier_of
from sdpg import paths
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("audit", __doc__, "grpo-0 base --verifiers math_verify string_match")
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", type=paths.given_name, help="a name like grpo-0, a run's folder, or base"
    )
    parser.add_argument(
        "--verifiers", nargs=2, type=verifier_name, default=["math_verify", "math_verify_only"], metavar="NAME",
        help="two of docs/verifiers.md, or own ones, as module:function (default: %(default)s)",
    )  # fmt: skip
    return parser


def main() -> None:
    """Runs ``sdpg audit``."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.evaluation.rescoring import find_run
    from sdpg.locks import exclusive
    from sdpg.results.audit_report import write_comparison
    from sdpg.results.sections import AUDITS

    pair = [[find_run(name, {"verifier": verifier_of(verifier)}, Path()) for name in options.runs]
            for verifier in options.verifiers]  # fmt: skip
    names = [runs[0].params.verifier_name.replace(":", "-") for runs in pair]
    target = AUDITS / "-against-".join(names)
    with exclusive(target):
        print(write_comparison(pair[0], pair[0][0].params, pair[1][0].params, target))
    print(f"{target} holds report.md and disagreements.jsonl.")


if __name__ == "__main__":
    entry_point(main)
