"""Starts the app, which compares runs and opens any rollout down to the token, on this machine alone. Ctrl+C ends it.

It shows the project's runs, imported ones, and those of the folders that are named; without any, a sample.
"""

import argparse
import os
from pathlib import Path
import sys

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.commands.project import shipped_files
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("app", __doc__, "--folder ../other-project")
    parser.add_argument(
        "--folder", type=paths.given_path, action="append", default=[],
        help="another project, or a folder of runs; may be repeated",
    )  # fmt: skip
    parser.add_argument("--mlflow", metavar="URL", help="an MLflow server, whose runs are listed")
    parser.add_argument("--port", type=int, default=8501, help="on 127.0.0.1; otherwise 8501")
    return parser


def command(options: argparse.Namespace) -> list[str]:
    """Returns the command line of Streamlit's server; a checkout has an app of its own."""
    own = Path("app/main.py")
    main = own.resolve() if own.is_file() else shipped_files() / own
    words = [sys.executable, "-m", "streamlit", "run", str(main), "--server.address=127.0.0.1"]
    words += [f"--server.port={options.port}", "--"]
    words += [word for folder in options.folder for word in ("--folder", str(folder))]
    return [*words, *(["--mlflow", options.mlflow] if options.mlflow else [])]


def main() -> None:
    """Replaces this process by the app's server."""
    words = command(parser().parse_args())
    os.execv(words[0], words)


if __name__ == "__main__":
    entry_point(main)
