"""Packs a finished run into one archive, laid out as a model repository of the hub; see docs/reproduction.md."""

import argparse
from pathlib import Path

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("export", __doc__, "grpo-0")
    parser.add_argument("run", metavar="RUN", help="a name below runs/, such as grpo-0")
    parser.add_argument(
        "--out", type=paths.given_path, metavar="FILE", help=f"the archive; otherwise {paths.EXPORTED}/RUN.zip"
    )
    return parser


def main() -> None:
    """Runs ``sdpg export``."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.reproduction.archive import export_run

    path = export_run(options.run, Path(), options.out)
    print(f"{path} holds policy, card, configuration, metrics, records and tables ({path.stat().st_size:,} bytes).\n"
          f"Elsewhere: sdpg import {path.name}; unpacked, it is a repository of the hub.")  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
