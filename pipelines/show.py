"""Prints the main table and where everything lies, after ``make repro``."""

from sdpg.errors import entry_point
from sdpg.report import print_table


def main() -> None:
    """Reads reports/; writes nothing."""
    print_table()
    print("reports/report.html: everything in one page · reports/table.{md,csv,tex,json} · reports/curves.{svg,png}")
    print("runs/: policies, rollouts, metrics · evaluations/: every final answer · make mlflow: all runs, step by step")


if __name__ == "__main__":
    entry_point(main)
