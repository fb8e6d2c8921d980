"""Prints the main table, where the time went, and where everything lies, after ``sdpg repro``."""

from pipelines.no_options import refuse_options
from sdpg.errors import entry_point


def main() -> None:
    """Reads reports/ and MLflow; writes nothing."""
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.params import load_params
    from sdpg.records.tracking import stage_seconds
    from sdpg.results.report import print_table

    print_table()
    seconds = stage_seconds(load_params())
    if seconds:
        print("Seconds per stage, without start-up: " + ", ".join(f"{name} {s:.0f}" for name, s in seconds.items()))
    print("reports/report.html: everything in one page · reports/table.{md,csv,tex,json} · reports/curves.{svg,png}")
    print("runs/: policies, rollouts, metrics · evaluations/: every final answer · sdpg mlflow: all runs, step by step")


if __name__ == "__main__":
    refuse_options(__doc__)
    entry_point(main)
