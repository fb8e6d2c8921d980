"""Runs stage ``base``: the initial policy and its accuracies."""

from sdpg import paths
from sdpg.errors import entry_point
from sdpg.models.launching import launch, on_one_machine
from sdpg.params import load_params


def main() -> None:
    """Writes models/base, models/base-evaluations and models/base.json."""
    params = load_params()
    launch(on_one_machine(params.train.distributed), "pipelines.base", [])
    # The launcher does not need what these import.
    from sdpg.evaluation.base import build_base

    folder = build_base(params)
    if folder is None:
        return
    print(f"base: {paths.BASE_METRICS.read_text(encoding='utf-8')}")
    print(f"The policy is in {folder}, its accuracies in {paths.BASE_METRICS}. Next: dvc repro")


if __name__ == "__main__":
    entry_point(main)
