"""Runs stage ``evaluate@<method>-<seed>``: larger samples of the final policy."""

import argparse

from sdpg.errors import entry_point
from sdpg.interruption import ended_by_termination
from sdpg.models.launching import launch, on_one_machine
from sdpg.params import load_params
from sdpg.records.cpu_kernels import fix_cpu_kernels


def main() -> None:
    """Writes evaluations/<method>-<seed>."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluate", description=__doc__)
    parser.add_argument("method", help="a name under methods in params.yaml")
    parser.add_argument("seed", type=int)
    options = parser.parse_args()
    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    launch(on_one_machine(params.train.distributed), "pipelines.evaluate", [options.method, str(options.seed)])
    # Torch is imported here, after its kernels were chosen; the launcher does not need it.
    from sdpg.evaluation.final import evaluate_run

    with ended_by_termination("the evaluation"):
        folder = evaluate_run(params, options.method, options.seed)
    if folder is None:
        return
    print(f"evaluate: {(folder / 'summary.json').read_text(encoding='utf-8')}")
    print(f"{folder} holds every answer and the accuracies. Next: dvc repro")


if __name__ == "__main__":
    entry_point(main)
