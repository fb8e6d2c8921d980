"""Runs stage ``prepare``: problems become prepared rows with student and teacher prompts."""

from pathlib import Path

from pipelines.no_options import refuse_options
from sdpg.errors import entry_point

DATA = Path("data")


def main() -> None:
    """Reads params.yaml, writes data/tokenizer, data/prepared and data/prepare.json."""
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.locks import exclusive
    from sdpg.params import load_params
    from sdpg.problems.prepare import prepare, summary, write_prepared

    with exclusive(DATA):
        prepared = prepare(load_params())
        write_prepared(prepared, DATA)
    print(summary(prepared, DATA))


if __name__ == "__main__":
    refuse_options(__doc__)
    entry_point(main)
