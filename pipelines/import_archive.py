"""Unpacks the archive of a run that was exported elsewhere; the app and rescoring then read it as any other run."""

import argparse

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("import", __doc__, "grpo-0.zip")
    parser.add_argument("archive", type=paths.given_path, metavar="FILE", help="an archive that sdpg export wrote")
    parser.add_argument(
        "--into", type=paths.given_path, default=paths.IMPORTED, metavar="FOLDER", help=f"otherwise {paths.IMPORTED}/"
    )
    return parser


def main() -> None:
    """Runs ``sdpg import``."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.reproduction.archive import import_run

    folder = import_run(options.archive, options.into)
    print(f"{folder} holds the run; every file is as it was exported. Next: sdpg app, which lists it, or "
          f"sdpg rescore {folder}/runs/{folder.name}")  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
