"""Checks, part by part, what this machine's NVIDIA GPU does of all that the project asks, in ten minutes.

The exit code is 0 where every check held, 1 where one failed, and 2 without a GPU. See docs/scaling.md.
"""

import argparse
import importlib.util

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import UserError, entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("gpu-check", __doc__, "--parts 1,3 --minutes 5")
    parser.add_argument("--parts", default="", help="numbers, separated by commas; otherwise all, 1 to 9")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together; otherwise 10")
    parser.add_argument(
        "--out", type=paths.given_path, default=paths.REPORTS / "gpu_check.json",
        help=f"the JSON file; otherwise {paths.REPORTS}/gpu_check.json",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try the check")
    parser.add_argument("--size", choices=("full", "toy"), default="full", help="toy: what a CPU computes in a moment")
    return parser


def main() -> None:
    """Runs ``sdpg gpu-check``, in a checkout."""
    options = parser().parse_args()
    if importlib.util.find_spec("benchmarks") is None or importlib.util.find_spec("benchmarks.gpu_check") is None:
        raise UserError("the checks are no part of the installed package: run sdpg gpu-check in a checkout of the "
                        "repository, after make install")  # fmt: skip
    from benchmarks.gpu_check.__main__ import check_gpu

    check_gpu(options)


if __name__ == "__main__":
    entry_point(main)
