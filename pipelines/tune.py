"""Runs or resumes an Optuna study of one method on the validation set; see docs/tuning.md.

The study, its space and its budget are those of the section ``tune`` of params.yaml. The same command once more, here
or on another machine with the same storage, is one more worker.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
import shlex
from typing import TYPE_CHECKING, Any

from pipelines.command_line import command_parser
from pipelines.workers import bring_base_up_to_date, further_workers
from sdpg.errors import UserError, entry_point
from sdpg.records.cpu_kernels import fix_cpu_kernels

if TYPE_CHECKING:
    from sdpg.params import Params
    from sdpg.tuning.study import Study

NAME = "abcdefghijklmnopqrstuvwxyz0123456789-_"


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("tune", __doc__, "sdpg-ufkl --trials 20 --workers 2")
    parser.add_argument("method", help="a name under methods in params.yaml")
    parser.add_argument("--trials", type=int, help="budget; otherwise tune.trials")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--study", help="name; otherwise the method's")
    parser.add_argument("--best", action="store_true", help="print the best values as options of dvc exp run")
    parser.add_argument("--ready", action="store_true", help="take the base as it is, without dvc repro base")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Runs ``sdpg tune``."""
    options = parser().parse_args()
    for name in ("trials", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1 is needed")
    study = options.study or options.method
    if not study or set(study) - set(NAME):
        raise UserError(f"--study {study!r}: use small letters, digits, - and _, as it names folders")
    # Importing this takes time, which --help need not wait for.
    from sdpg.params import load_params

    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    if options.best:
        print_best(study)
        return
    check(params, options.method)
    if options.worker:
        from sdpg.tuning.study import open_study

        opened = open_study(params, options.method, study, options.trials)
        from sdpg.tuning.worker import work

        work([opened])
        return
    if not options.ready:
        bring_base_up_to_date()
    run_study(params, options.method, study, options.trials, options.workers)


def check(params: "Params", method: str) -> None:
    """Refuses what can be refused without base or torch."""
    from sdpg.tuning.space import check_corners, method_space
    from sdpg.tuning.storage import open_storage

    if (strategy := params.train.distributed.strategy) != "none":
        raise UserError(
            f"train.distributed.strategy is {strategy}, but a trial trains on one process: set it to none, "
            "processes to 1, and use several workers instead; a model that does not fit one GPU so may with train.lora"
        )
    check_corners(params, method_space(params, method))
    open_storage(params)


def run_study(params: "Params", method: str, name: str, trials: int | None, workers: int) -> None:
    """Works on a study, beside other workers of the same command; prints what came of it."""
    from sdpg.tuning.study import open_study

    # The study is opened once, before the others start, so that an error is reported in one message.
    study = open_study(params, method, name, trials)
    command = ["pipelines.tune", method, "--study", name, "--worker"]
    command += ["--trials", str(trials)] if trials else []
    with closing([study]) as end, further_workers(command, workers - 1):
        from sdpg.tuning.worker import work

        work([study], end)


@contextmanager
def closing(studies: "Sequence[Study]") -> Iterator[Callable[["Study"], None]]:
    """Yields the function to call with each study that has ended; if this worker fails, others may have ended them."""
    left = list(studies)

    def end(study: "Study") -> None:
        left.remove(study)
        finish(study)

    try:
        yield end
    except Exception:
        for study in left:
            # The error that is under way says more than a second one.
            with suppress(Exception):
                if study.done():
                    finish(study)
        raise


def finish(study: "Study") -> None:
    """Writes the page of a study that has ended, closes its MLflow run, and prints what came of it."""
    from sdpg.records.tracking import finish_parent
    from sdpg.tuning.pages import write_study_page
    from sdpg.tuning.results import report_folder, study_summary

    folder, summary = report_folder(study.name), study_summary(study)
    write_study_page(study, folder)
    best = {} if summary["best_trial"] is None else {"best_value": summary["best_value"]}
    finish_parent(study.params, study.parent, best, [folder / "study.json", folder / "trials.csv"])
    print(finished(summary, folder), flush=True)


def finished(summary: dict[str, Any], folder: Path) -> str:
    """Returns the text that is printed at the end."""
    counts, saved = summary["counts"], summary["steps_saved"]
    parts = [f"{counts[name]} {name}" for name in ("complete", "pruned", "failed", "lost") if counts[name]]
    lines = [f"Study {summary['study']}: {', '.join(parts)}; {saved['made']} of {saved['planned']} steps made, "
             f"{saved['share']:.0%} saved by pruning ({summary['pruner']})"]  # fmt: skip
    if summary["second_objective"]:
        lines.append(summary["pruner_note"])
    if summary["best_trial"] is not None:
        lines.append(f"Best: trial {summary['best_trial']}, {summary['best_value']:.4f} on validation (the maximum of "
                     f"{counts['complete']} tries, so too high by nature). Next: sdpg tune-all, or dvc exp run with "
                     f"$(sdpg tune {summary['method']} --study {summary['study']} --best)")  # fmt: skip
    lines.append(f"{folder}: report.html, study.json, trials.csv, curves.csv, best.yaml · runs: runs/tune/"
                 f"{summary['study']}")  # fmt: skip
    return "\n".join(lines)


def print_best(study: str) -> None:
    """Prints ``-S path=value`` for each path of best.yaml."""
    from sdpg.params import read_yaml
    from sdpg.params.tune import override
    from sdpg.tuning.results import report_folder

    values = read_yaml(report_folder(study) / "best.yaml")
    print(" ".join(shlex.join(["-S", override(path, _text(value))]) for path, value in values.items()))


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    entry_point(main)
