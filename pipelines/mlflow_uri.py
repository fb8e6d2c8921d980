"""Prints the address of the MLflow store, for ``make mlflow``; creates the database where it is missing."""

from pipelines.no_options import refuse_options
from sdpg.errors import entry_point


def main() -> None:
    """Prints one line on stdout."""
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.params import load_params
    from sdpg.records.mlflow_store import absolute_uri, connect

    tracking = load_params().tracking
    connect(tracking)
    print(absolute_uri(tracking))


if __name__ == "__main__":
    refuse_options(__doc__)
    entry_point(main)
