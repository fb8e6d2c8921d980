"""Unpacks the archive of a run that was exported elsewhere; the app and rescoring then read it as any other run."""

import argparse
from pathlib import Path

from sdpg import paths
from sdpg.errors import entry_point


def main() -> None:
    """Runs ``python -m pipelines.import_archive FILE [--into FOLDER]``."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.import_archive", description=__doc__)
    parser.add_argument("archive", type=Path, metavar="FILE", help="an archive that make export wrote")
    parser.add_argument(
        "--into", type=Path, default=paths.IMPORTED, metavar="FOLDER", help=f"otherwise {paths.IMPORTED}/"
    )
    options = parser.parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.reproduction.archive import import_run

    folder = import_run(options.archive, options.into)
    print(f"{folder} holds the run; every file is as it was exported. Next: make app, which lists it, or "
          f"python -m pipelines.rescore {folder}/runs/{folder.name}")  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
