"""Compares two runs: what differs between them beside the thing compared, and whether they are matched."""

import argparse
import json

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("compare", __doc__, "grpo-0 sdpg-ufkl-0")
    parser.add_argument(
        "runs", nargs=2, metavar="RUN", type=paths.given_name, help="a name below runs/, or a run's folder"
    )
    parser.add_argument(
        "--compare", action="append", default=[], metavar="PATH",
        help="what is compared beside the methods, such as train.lr; may be given several times",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main() -> None:
    """Runs ``sdpg compare``; exit code 0 if the runs are matched, 1 if not, 2 for a wrong input."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.results.matched import compare_runs, comparison_text, read_record

    comparison = compare_runs(*map(read_record, options.runs), declared=options.compare)
    if options.json:
        print(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False))
    else:
        print(comparison_text(comparison))
    raise SystemExit(0 if comparison.matched else 1)


if __name__ == "__main__":
    entry_point(main)
