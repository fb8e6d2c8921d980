"""Starts MLflow's own pages on the project's runs, on this machine alone; the database is created where it is missing.

Ctrl+C ends it.
"""

import argparse
import os
import sys

from pipelines.command_line import command_parser
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("mlflow", __doc__, "--port 5001")
    parser.add_argument("--port", type=int, default=5000, help="on 127.0.0.1; otherwise 5000")
    return parser


def command(uri: str, port: int) -> list[str]:
    """Returns the command line of MLflow's server."""
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    return [*words, "--backend-store-uri", uri]


def main() -> None:
    """Replaces this process by MLflow's server."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.params import load_params
    from sdpg.records.mlflow_store import absolute_uri, connect

    tracking = load_params().tracking
    connect(tracking)
    words = command(absolute_uri(tracking), options.port)
    os.execv(words[0], words)


if __name__ == "__main__":
    entry_point(main)
