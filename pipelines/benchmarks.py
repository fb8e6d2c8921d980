"""Evaluates any model folder on local benchmark files; see docs/benchmarks.md."""

import argparse
from pathlib import Path

from pipelines.column_options import column_map
from pipelines.command_line import command_parser, whole_number
from sdpg import paths
from sdpg.commands.project import settings_file
from sdpg.errors import entry_point
from sdpg.paths import BENCHMARKED
from sdpg.records.cpu_kernels import fix_cpu_kernels


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("evaluate", __doc__, "--model models/base --dir path/to/jsonl --samples 32")
    parser.add_argument(
        "--model", action="append", required=True, type=paths.given_path, help="a model folder; may be repeated"
    )
    parser.add_argument("--dir", required=True, type=paths.given_path, help="holds the benchmarks, one file each")
    parser.add_argument("--columns", type=column_map, help="where a row's parts stand: problem=question,answer=gold[0]")
    parser.add_argument("--samples", type=whole_number, help="answers per problem; otherwise evaluation.final_samples")
    parser.add_argument("--greedy", action="store_true", help="one greedy answer per problem, and no samples")
    parser.add_argument("--limit", type=whole_number, help="only the first so many problems of each benchmark")
    parser.add_argument(
        "--out", default=BENCHMARKED, type=paths.given_path, help=f"where results go; otherwise {BENCHMARKED}"
    )
    return parser


def main() -> None:
    """Runs ``sdpg evaluate``; outside a project, the settings are those that come with the package."""
    options = parser().parse_args()
    # Importing these takes time, which --help need not wait for.
    from sdpg.files import write_json, write_text
    from sdpg.params import load_params

    params = load_params(settings_file(Path()))
    fix_cpu_kernels(params.train.cpu_kernels)
    # Torch is imported here, after its kernels were chosen.
    from sdpg.evaluation.benchmarking import SampleBudget, benchmark_models
    from sdpg.results.benchmark_scores import as_json, compare, markdown, score, text

    samples = 0 if options.greedy else options.samples or params.evaluation.final_samples
    budget = SampleBudget(samples, options.limit)
    answered = benchmark_models(params, options.model, options.dir, budget, options.out, columns=options.columns)
    scores = [score(each, params.report) for each in answered]
    comparisons = compare(scores, params.report)
    write_json(options.out / "report.json", as_json(scores, comparisons))
    write_text(options.out / "report.md", markdown(scores, comparisons, params.report))
    print(f"\n{text(scores, comparisons, params.report)}\n")
    print(f"Every answer: {options.out}/<model>/<benchmark>-<fingerprint>/answers.parquet, with what it hangs on in "
          f"summary.json beside it. The tables: {options.out}/report.md, report.json.")  # fmt: skip
    if len(options.model) == 1:
        print(f"Next, two models compared by problem: sdpg evaluate --model {options.model[0]} --model … "
              f"--dir {options.dir}")  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
