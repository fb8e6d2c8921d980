"""Tunes several methods with equal budgets, trains default and best setting on fresh seeds, and compares them.

Benchmarks are asked once, of those final policies alone.
"""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.command_line import command_parser
from pipelines.tune import NAME, check, closing
from pipelines.workers import bring_base_up_to_date, further_workers
from sdpg.errors import UserError, entry_point
from sdpg.files import read_json, write_json, write_text
from sdpg.paths import REPORTS
from sdpg.records.cpu_kernels import fix_cpu_kernels

if TYPE_CHECKING:
    from sdpg.params import Params
    from sdpg.tuning.retraining import Setting
    from sdpg.tuning.study import Study


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("tune-all", __doc__, "--methods 'grpo sdpg-ufkl' --trials 12 --workers 2")
    parser.add_argument("--methods", help="names separated by spaces; otherwise run.methods")
    parser.add_argument("--trials", type=int, help="of each method; otherwise tune.trials")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--study", default="", help="studies are called <method>-<name>, to have them anew")
    parser.add_argument("--ready", action="store_true", help="take the base as it is, without dvc repro base")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Runs ``sdpg tune-all``."""
    options = parser().parse_args()
    # Importing this takes time, which --help need not wait for.
    from sdpg.params import load_params

    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    methods = options.methods.replace(",", " ").split() if options.methods else list(params.run.methods)
    suffix = f"-{options.study}" if options.study else ""
    if set(suffix) - set(NAME):
        raise UserError(f"--study {options.study!r}: use small letters, digits, - and _, as it names folders")
    for name in ("trials", "workers"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: at least 1 is needed")
    if params.tune.second is not None:
        raise UserError(f"tune.second is {params.tune.second}: a front has no best setting to compare; set it to null")
    # All studies are checked before the first trial of any.
    for method in methods:
        check(params, method)
    if not (options.ready or options.worker):
        bring_base_up_to_date()
    from sdpg.tuning.study import open_study

    studies = [open_study(params, method, method + suffix, options.trials) for method in methods]
    if options.worker:
        tune_and_retrain(params, studies)
        return
    command = ["pipelines.tune_all", "--methods", " ".join(methods), "--study", options.study, "--worker"]
    command += ["--trials", str(options.trials)] if options.trials else []
    with closing(studies) as end, further_workers(command, options.workers - 1):
        tune_and_retrain(params, studies, end)
    print(report(params, methods, suffix))


def tune_and_retrain(
    params: "Params", studies: "list[Study]", on_end: "Callable[[Study], None]" = lambda study: None
) -> None:
    """Does a worker's part: trials until all studies have ended, then default and best settings on fresh seeds."""
    from sdpg.tuning.retraining import retrain_all
    from sdpg.tuning.worker import work

    work(studies, on_end)
    settings = [each for study in studies for each in to_compare(params, study.method, study.name)]
    retrain_all(params, settings, params.tune.retrain.seeds)


def to_compare(params: "Params", method: str, study: str) -> "list[Setting]":
    """Returns default and tuned setting of a method, from its study's results; the default alone where it was best."""
    from sdpg.params import read_yaml
    from sdpg.params.tune import VALIDATION
    from sdpg.tuning.results import own_values, report_folder
    from sdpg.tuning.retraining import Setting

    folder = report_folder(study)
    if not (folder / "best.yaml").is_file():
        raise UserError(f"the study {study} has no complete trial, so no best setting: see {folder}/trials.csv")
    sets = (*params.data.benchmarks, VALIDATION)
    default = read_json(folder / "study.json", "run `sdpg tune` with this study's name again")["default"]
    settings = {"default": own_values(default, method), "tuned": read_yaml(folder / "best.yaml")}
    if settings["tuned"] == settings["default"]:
        del settings["tuned"]
    return [Setting(study, method, name, values, sets) for name, values in settings.items()]


def report(params: "Params", methods: list[str], suffix: str) -> str:
    """Writes reports/tune/comparison.{json,md,html}; returns what is printed."""
    from sdpg.tuning import comparison
    from sdpg.tuning.budgets import BUDGET_HEADER, budget_cells, budget_row, equal_words
    from sdpg.tuning.pages import PageTable, page, write_index
    from sdpg.tuning.results import report_folder

    rows, unbeaten = [], []
    for method in methods:
        default, *tuned = to_compare(params, method, method + suffix)
        rows += comparison.compare_settings(tuned, default, params.tune.retrain.seeds, params.report)
        unbeaten += [] if tuned else [method]
    rows = comparison.adjusted(rows)
    budgets = [budget_row(report_folder(method + suffix)) for method in methods]
    words = equal_words(budgets)
    if unbeaten:
        words += (f" In the studies of {', '.join(unbeaten)} no trial was better than the values of params.yaml: "
                  "there is no tuned setting to compare.")  # fmt: skip
    folder = REPORTS / "tune"
    write_json(folder / "comparison.json", {"budgets": budgets, "rows": comparison.as_json(rows)})
    shown = [budget_cells(row) for row in budgets]
    from sdpg.results.rendering import markdown_table

    text = f"{words}\n\n{markdown_table(BUDGET_HEADER, shown)}\n\n{comparison.as_markdown(rows)}"
    write_text(folder / "comparison.md", f"# Default against tuned, on fresh seeds\n\n{text}")
    tables = [
        PageTable("Budgets", BUDGET_HEADER, shown),
        PageTable("Accuracies", comparison.HEADER, [comparison.cells(row) for row in rows], comparison.sizes(rows)),
    ]
    links = [{"address": "index.html", "name": "All studies", "words": ""}]
    write_text(folder / "comparison.html", page("Default against tuned, on fresh seeds", [words], tables, [], links))
    write_index()
    return f"{text}\n{folder}/comparison.html, .md, .json"


if __name__ == "__main__":
    entry_point(main)
