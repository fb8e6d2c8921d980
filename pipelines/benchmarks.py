"""Evaluates any model folder on local benchmark files; see docs/benchmarks.md."""

import argparse
from pathlib import Path

from pipelines.column_options import column_map
from sdpg.errors import entry_point
from sdpg.files import write_json, write_text
from sdpg.params import load_params
from sdpg.paths import BENCHMARKED
from sdpg.records.cpu_kernels import fix_cpu_kernels


def _count(written: str) -> int:
    if not written.isdecimal() or int(written) < 1:
        raise argparse.ArgumentTypeError(f"{written!r} is not a number of them: give 1, 2, 3, …")
    return int(written)


def main() -> None:
    """Runs ``python -m pipelines.benchmarks --model models/base --dir folder [--model other] [--samples 32]``."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks", description=__doc__)
    parser.add_argument("--model", action="append", required=True, type=Path, help="a model folder; may be repeated")
    parser.add_argument("--dir", required=True, type=Path, help="holds the benchmarks, one file each")
    parser.add_argument("--columns", type=column_map, help="where a row's parts stand: problem=question,answer=gold[0]")
    parser.add_argument("--samples", type=_count, help="answers per problem; otherwise evaluation.final_samples")
    parser.add_argument("--greedy", action="store_true", help="one greedy answer per problem, and no samples")
    parser.add_argument("--limit", type=_count, help="only the first so many problems of each benchmark")
    parser.add_argument("--out", default=BENCHMARKED, type=Path, help=f"where results go; otherwise {BENCHMARKED}")
    options = parser.parse_args()
    params = load_params()
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
        print(f"Next, two models compared by problem: make benchmarks MODEL='{options.model[0]} …' DIR={options.dir}")


if __name__ == "__main__":
    entry_point(main)
