"""Prints the address of the MLflow store, for ``make mlflow``; creates the database where it is missing."""

from sdpg.errors import entry_point
from sdpg.params import load_params
from sdpg.records.mlflow_store import absolute_uri, connect


def main() -> None:
    """Prints one line on stdout."""
    tracking = load_params().tracking
    connect(tracking)
    print(absolute_uri(tracking))


if __name__ == "__main__":
    entry_point(main)
