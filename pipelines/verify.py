"""Makes finished runs again in a clean clone of their commit, and compares every bit and every cell of the tables."""

import argparse
from pathlib import Path

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import entry_point
from sdpg.files import write_text
from sdpg.paths import run_folder

QUICK_STEPS = 5


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("verify", __doc__, "grpo-0 --quick")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", type=paths.given_name,
        help="a name below runs/, or a run's folder; otherwise all runs",
    )  # fmt: skip
    parser.add_argument("--quick", nargs="?", type=int, const=QUICK_STEPS, metavar="STEPS",
                        help=f"only the first steps ({QUICK_STEPS}), from the base that lies here")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the clone, which is named while it is made")
    parser.add_argument("--json", type=paths.given_path, metavar="FILE", help="also write the report to this file")
    return parser


def main() -> None:
    """Runs ``sdpg verify``; exit code 0 only if nothing is different."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.locks import exclusive
    from sdpg.params import load_params
    from sdpg.reproduction.verification import WORK, find_recorded, report_text, verify

    if options.quick is not None and options.quick < 1:
        parser().error(f"--quick {options.quick}: give the number of steps, 1 or more")
    names = options.runs
    if not names:
        params = load_params()
        names = [run_folder(method, seed).name for method in params.run.methods for seed in params.run.seeds]
    runs = [find_recorded(name) for name in dict.fromkeys(names)]
    with exclusive(WORK):
        report = verify(runs, Path(), options.quick, options.keep)
    if options.json:
        write_text(options.json, report.to_json() + "\n")
    print(report_text(report))
    raise SystemExit(1 if report.different else 0)


if __name__ == "__main__":
    entry_point(main)
