"""Trains and compares all methods on several bases with several seeds: what holds elsewhere; see docs/study.md.

Killed at any instant, the same command goes on where it was. What has run is run again only where parameters, code or
data have changed since. The tables are made once all runs are there.
"""

import argparse
from collections.abc import Sequence
import importlib
from typing import TYPE_CHECKING

from pipelines.command_line import command_parser
from pipelines.configure import CHOICES, add_choices, write_choices
from sdpg import paths
from sdpg.errors import UserError, entry_point
from sdpg.locks import exclusive
from sdpg.records.cpu_kernels import fix_cpu_kernels

if TYPE_CHECKING:
    from sdpg.params import Params

REPORT = paths.REPORTS / "study"
PUBLISHED = "docs/results"
IMPORTED = (
    "pipelines.base", "pipelines.check", "pipelines.evaluate", "pipelines.prepare", "pipelines.train",
    "sdpg.evaluation.base", "sdpg.evaluation.final", "sdpg.training.run",
    "mlflow.store.tracking.sqlalchemy_store", "transformers.models.qwen3.modeling_qwen3",
)  # fmt: skip
"""The stages, and what they import only where they need it."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("study", __doc__, "--jobs 2", "[options]")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; otherwise 1")
    parser.add_argument("--status", action="store_true", help="say what is done and what is left, and run nothing")
    parser.add_argument("--atlas", action="store_true", help="run study.atlas instead: every method, in one table")
    parser.add_argument("--publish", action="store_true", help=f"put the finished study into {PUBLISHED} and README.md")
    add_choices(parser)
    return parser


def main() -> None:
    """Runs ``sdpg study``, with ``--status`` or ``--publish`` too."""
    options = parser().parse_args()
    if options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: at least 1 is needed")
    if any(getattr(options, name) for name in CHOICES):
        write_choices(options)
    # Importing this takes time, which --help need not wait for.
    from sdpg.params import load_params

    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    if options.publish:
        from sdpg.replication.publishing import publish

        print("Written:", ", ".join(map(str, publish(REPORT))))
        return
    if options.atlas:
        from sdpg.replication.atlas import atlas_params

        params = atlas_params(params)
    run_study(params, options.jobs, options.status, options.atlas)


def run_study(params: "Params", jobs: int, only_status: bool, atlas: bool = False) -> None:
    """Runs what is left of the study and makes its tables; with ``only_status``, says what is left."""
    from pipelines.study_stages import read_pipeline
    from pipelines.study_tasks import study_tasks
    from sdpg.replication.design import FOLDER, check_study

    check_study(params)
    tasks = study_tasks(params, read_pipeline())
    runs = [task for task in tasks if task.kind == "run"]
    if only_status:
        left = [task for task in runs if not task.done()]
        print(f"{len(runs) - len(left)} of {len(runs)} runs are done, in {FOLDER}/.")
        print("\n".join(f"  left: {task.name}" for task in left))
        print(f"Next: sdpg study{' --atlas' if atlas else ''}{'' if left else ' makes the tables'}")
        return
    with exclusive(FOLDER):
        import_stages()
        from pipelines.side_by_side import run_tasks

        print(f"A study of {len(runs)} runs in {FOLDER}/, {jobs} side by side. Each prints into its log there.")
        failed = run_tasks(tasks, jobs, lambda line: print(line, flush=True))
        if failed:
            _raise_failed(failed, len(tasks))
        if atlas:
            from sdpg.replication.atlas import PAGE, write_atlas

            folder = paths.REPORTS / "atlas"
            written = write_atlas(params, folder)
            print((folder / PAGE).read_text(encoding="utf-8"))
            print(f"Written: {', '.join(map(str, written))}")
            return
        from sdpg.replication.report import write_study

        written = write_study(params, REPORT)
    print((REPORT / "study.md").read_text(encoding="utf-8"))
    print(f"Written: {', '.join(map(str, written))}\nEach base is a project below {FOLDER}/, which the app opens: "
          f"sdpg app --folder {FOLDER}/{runs[0].name.split(':')[0]}/base-0. Next: sdpg study --publish puts these "
          "numbers into README.md")  # fmt: skip


def import_stages() -> None:
    """Imports what the stages need, so that no run waits for it: each is a fork of this process."""
    for name in IMPORTED:
        importlib.import_module(name)


def _raise_failed(failed: dict[str, str], total: int) -> None:
    reasons: Sequence[str] = [f"  {name}: {why}" for name, why in failed.items()]
    raise UserError(f"{len(failed)} of {total} tasks of the study did not end well; the others are kept. Mend the "
                    "cause and run the same command again:\n" + "\n".join(reasons))  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
