"""Runs stage ``train@<method>-<seed>``: Algorithm 1."""

import argparse

from sdpg.errors import entry_point
from sdpg.interruption import heard_termination
from sdpg.records.cpu_kernels import fix_cpu_kernels


def main() -> None:
    """Writes runs/<method>-<seed>; run again after an interruption, it goes on where it was.

    SIGTERM ends it after the present step with a checkpoint and exit code 75.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description=__doc__)
    parser.add_argument("method", help="a name under methods in params.yaml")
    parser.add_argument("seed", type=int)
    parser.add_argument(
        "--machine-rank", type=int, default=0, metavar="I", help="of a run on several machines: the number of this one"
    )
    parser.add_argument("--until", type=int, metavar="STEP", help="end after this step with a checkpoint and code 75")
    options = parser.parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.models.launching import launch
    from sdpg.params import load_params
    from sdpg.records.watch import read_history, watch_summary

    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    arguments = [options.method, str(options.seed)]
    arguments += [] if options.until is None else ["--until", str(options.until)]
    launch(params.train.distributed, "pipelines.train", arguments, options.machine_rank)
    # Importing the trainer takes seconds, which the launcher does not need.
    with heard_termination() as interrupted:
        from sdpg.training.run import train_run

        folder = train_run(params, options.method, options.seed, interrupted=interrupted, until=options.until)
    if folder is None:
        return
    print(f"train: {(folder / 'summary.json').read_text(encoding='utf-8')}")
    print(watch_summary(read_history(folder / "metrics.csv"), params.watch).text())
    print(f"{folder} holds metrics.csv, curves.csv, rollouts and the policy. Next: dvc repro")


if __name__ == "__main__":
    entry_point(main)
