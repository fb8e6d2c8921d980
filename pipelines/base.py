"""Runs stage ``base``: the initial policy and its accuracies."""

from sdpg import paths
from sdpg.errors import entry_point
from sdpg.evaluation.base import build_base
from sdpg.locks import exclusive
from sdpg.params import load_params


def main() -> None:
    """Writes models/base, models/base-evaluations and models/base.json."""
    with exclusive(paths.BASE_MODEL):
        folder = build_base(load_params())
    print(f"base: {paths.BASE_METRICS.read_text(encoding='utf-8')}")
    print(f"The policy is in {folder}, its accuracies in {paths.BASE_METRICS}. Next: dvc repro")


if __name__ == "__main__":
    entry_point(main)
