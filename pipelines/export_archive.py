"""Packs a finished run into one archive, laid out as a model repository of the hub; see docs/reproduction.md."""

import argparse
from pathlib import Path

from sdpg import paths
from sdpg.errors import entry_point


def main() -> None:
    """Runs ``python -m pipelines.export_archive RUN [--out FILE]``."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.export_archive", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a name below runs/, such as grpo-0")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"the archive; otherwise {paths.EXPORTED}/RUN.zip")
    options = parser.parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.reproduction.archive import export_run

    path = export_run(options.run, Path(), options.out)
    print(f"{path} holds policy, card, configuration, metrics, records and tables ({path.stat().st_size:,} bytes).\n"
          f"Elsewhere: make import ARCHIVE={path.name}; unpacked, it is a repository of the hub.")  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
