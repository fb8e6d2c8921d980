"""Makes what DVC and MLflow show of a report: its metrics, and long tables that ``dvc plots`` draws (docs/dvc.md).

A table has a row for each method, seed and step, so that one template overlays however many there are, and two commits.
"""

from collections import Counter
from collections.abc import Iterable
import csv
import io
import math
from pathlib import Path
from typing import Any

from sdpg import paths
from sdpg.files import read_json
from sdpg.records.schemas import BASE, VALIDATION, read_evaluations
from sdpg.results.runs import Results, Run
from sdpg.results.tables import BASE_GREEDY, MainRow

PLOTS, METRICS = "plots", "metrics"
"""The folders below `reports/`."""
TRAINING = {
    "reward": "reward",
    "entropy": "entropy",
    "kl_to_reference": "kl_to_reference_k3",
    "kl_to_teacher": "kl_to_teacher_sampled",
    "length": "length",
    "gate_rate": "gate_rate",
}
"""The plots of training, each with its column of metrics.csv."""
DECIMALS = 4


def metric_files(rows: Iterable[MainRow]) -> dict[str, dict[str, float]]:
    """Returns <benchmark>/<method>.json → last, best, selected, and the limits of last.

    DVC shows a file as a line and a key as a column, so that a file for each method fits a screen. The base was neither
    trained nor selected, and its greedy answers are no row here.
    """
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.method != BASE_GREEDY:
            chosen = {"best": row.best, "selected": row.selected} if row.seeds else {}
            values = {"last": row.last, **chosen, "low": row.ci_low, "high": row.ci_high}
            rounded = {name: round(value, DECIMALS) for name, value in values.items()}
            found[f"{row.benchmark}/{row.method}.json"] = rounded
    return found


def table_metrics(root: Path = Path()) -> dict[str, float]:
    """Returns <benchmark>/<method>/<metric> → value of the metrics that were written below ``root``."""
    folder = root / paths.REPORTS / METRICS
    return {
        f"{path.relative_to(folder).with_suffix('').as_posix()}/{name}": value
        for path in sorted(folder.glob("*/*.json"))
        for name, value in read_json(path, "run dvc repro tabulate").items()
    }


def plot_tables(results: Results, root: Path) -> dict[str, str]:
    """Returns file name → CSV: the curves of benchmarks, each of :data:`TRAINING`, and the verdicts.

    Args:
        results: the finished runs.
        root: the project's folder, for the verdicts on greedy answers.
    """
    runs = [run for group in results.runs.values() for run in group]
    tables = {"benchmarks.csv": _csv(("step", "method", "seed", "benchmark", "accuracy"), _benchmark_rows(results))}
    for plot, column in TRAINING.items():
        rows = [row for run in runs for row in _training_rows(run, column)]
        tables[f"{plot}.csv"] = _csv(("step", "method", "seed", plot), rows)
    return tables | {"verdicts.csv": _csv(("method", "base", "final", "problems"), _verdict_rows(results, root))}


def _benchmark_rows(results: Results) -> list[tuple[Any, ...]]:
    return [
        (int(step), run.method, run.seed, benchmark, _shown(accuracy))
        for benchmark in (*results.benchmarks, VALIDATION)
        for runs in results.runs.values()
        for run in runs
        for step, accuracy in zip(run.curves["step"], run.curves[benchmark], strict=True)
    ]


def _training_rows(run: Run, column: str) -> list[tuple[Any, ...]]:
    """Returns a row for each step that measured the column; DVC reads no empty table, so there is always one row."""
    steps = run.metrics["step"]
    values = run.metrics.get(column, [math.nan] * len(steps))
    rows = [(int(step), run.method, run.seed, _shown(value)) for step, value in zip(steps, values, strict=True)]
    return [row for row in rows if row[-1]] or rows[-1:]


def _verdict_rows(results: Results, root: Path) -> list[tuple[Any, ...]]:
    """Counts, per method, the problems by the verdict on the base's greedy answer and on the final policy's; problems
    of all benchmarks and seeds are put together."""
    base = _greedy_verdicts(root / paths.BASE_EVALUATIONS / "sampled.parquet", BASE)
    rows = []
    for method, runs in results.runs.items():
        counts: Counter[tuple[str, str]] = Counter()
        for run in runs:
            place = root / paths.evaluation_folder(method, run.seed) / "final.parquet"
            final = _greedy_verdicts(place, method)
            counts.update((base[key], final[key]) for key in final if key in base and key[0] in results.benchmarks)
        rows += [(method, *verdicts, count) for verdicts, count in sorted(counts.items())]
    return rows


def _greedy_verdicts(path: Path, method: str) -> dict[tuple[str, str], str]:
    """Returns (benchmark, problem) → the verdict on the greedy answer."""
    rows = read_evaluations(path, ["method", "benchmark", "problem_id", "status", "temperature"]).to_pylist()
    return {
        (row["benchmark"], row["problem_id"]): row["status"]
        for row in rows
        if row["method"] == method and row["temperature"] == 0
    }


def _shown(value: float) -> str:
    """Returns a number in full, and an empty cell where nothing was measured."""
    return "" if math.isnan(value) else repr(float(value))


def _csv(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *rows])
    return text.getvalue()
