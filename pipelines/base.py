"""Runs stage ``base``: the initial policy and its accuracies."""

import argparse

from sdpg import paths
from sdpg.errors import entry_point
from sdpg.interruption import ended_by_termination
from sdpg.models.launching import launch, on_one_machine
from sdpg.params import load_params
from sdpg.records.cpu_kernels import fix_cpu_kernels


def main() -> None:
    """Writes models/base, models/base-evaluations and models/base.json."""
    argparse.ArgumentParser(prog="python -m pipelines.base", description=__doc__).parse_args()
    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    launch(on_one_machine(params.train.distributed), "pipelines.base", [])
    # Torch is imported here, after its kernels were chosen; the launcher does not need it.
    from sdpg.evaluation.base import build_base

    with ended_by_termination("the base"):
        folder = build_base(params)
    if folder is None:
        return
    print(f"base: {paths.BASE_METRICS.read_text(encoding='utf-8')}")
    print(f"The policy is in {folder}, its accuracies in {paths.BASE_METRICS}. Next: dvc repro")


if __name__ == "__main__":
    entry_point(main)
