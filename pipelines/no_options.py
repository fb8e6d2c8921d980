"""Shows what a command without options does."""

import argparse
from pathlib import Path
import sys


def refuse_options(text: str | None) -> None:
    """Shows ``text`` for ``--help`` and ends; any other argument is refused, as the command has none.

    It is for the moment before a command imports what takes seconds.
    """
    name = f"python -m pipelines.{Path(sys.argv[0]).stem}"
    argparse.ArgumentParser(prog=name, description=text).parse_args()
