"""Simulates how often the 95% intervals hold the truth; see docs/statistics.md."""

import argparse
from dataclasses import asdict

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import UserError, entry_point
from sdpg.files import write_json

OUTPUT = paths.REPORTS / "coverage.json"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("coverage", __doc__, "--repeats 200")
    parser.add_argument("--repeats", type=int, default=1_000, help="of each case; otherwise 1000")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation; otherwise 0")
    return parser


def main() -> None:
    """Runs ``sdpg coverage``; exit code 1 if a coverage is outside."""
    options = parser().parse_args()
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: at least 1 is needed; 1000 tell within ±0.7%")
    # Importing scipy takes a second, which --help need not wait for.
    from sdpg.results.statistics.simulation import HIGHEST, HIGHEST_OF_FEW, LOWEST, cases, coverage_table, simulate

    cells = [simulate(case, options.repeats, options.seed) for case in cases()]
    write_json(OUTPUT, {"seed": options.seed, "cases": [{**asdict(row), "verdict": row.verdict} for row in cells]})
    outside = [row for row in cells if row.verdict == "outside"]
    print(coverage_table(cells))
    print(f"\n{len(outside)} of {sum(row.judged for row in cells)} judged cases outside {LOWEST:.0%}–{HIGHEST:.0%} "
          f"(over bases: {HIGHEST_OF_FEW:.0%}); "
          f"{options.repeats} repeats each, ± is the simulation's own standard error. Also in {OUTPUT}.")  # fmt: skip
    raise SystemExit(1 if outside else 0)


if __name__ == "__main__":
    entry_point(main)
