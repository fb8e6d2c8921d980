"""Computes the tables of a study as plain values, from which its page, its figure and README's table are made."""

from dataclasses import asdict
from typing import Any

import numpy as np

from sdpg.params.base import StudyParams
from sdpg.records.schemas import BASE
from sdpg.replication.measured import LAST, WAYS, SeveralBases
from sdpg.results.claims import decide_claims, total_steps, window
from sdpg.results.statistics.comparisons import holm
from sdpg.results.statistics.estimates import Array, two_way_interval
from sdpg.results.tables import BASELINE, compare_last, plus

COURSE = {"reward": "reward", "entropy": "entropy", "length": "length", "kl_to_reference_k3": "KL to the reference"}
"""The metrics of training whose end is shown."""
Tree = dict[str, Any]


def study_tree(study: StudyParams, measured: dict[str, SeveralBases]) -> Tree:
    """Returns everything that a study says, as JSON holds it."""
    first = next(iter(measured.values())).every[0]
    runs = {name: runs_tree(study, found) for name, found in measured.items()}
    commits = {
        str(run.config.get("git", {}).get("commit") or "unknown")[:8]
        for found in measured.values() for results in found.every for each in results.runs.values() for run in each
    }  # fmt: skip
    return {
        "profile": first.params.profile,
        "preset": first.params.preset,
        "commits": sorted(commits),
        "confidence": first.params.report.confidence,
        "benchmarks": first.benchmarks,
        "headline": [headline(name, tree, first.params.report.confidence) for name, tree in runs.items()],
        "runs": runs,
    }


def runs_tree(study: StudyParams, found: SeveralBases) -> Tree:
    """Returns the tables of runs of one length."""
    first = found.every[0]
    methods = list(first.runs)
    counts = first.last(methods[0], next(iter(first.benchmarks)))
    return {
        "steps": total_steps(found),
        "bases": len(found.every),
        "seeds": len(counts),
        "problems": len(counts[0].problems),
        "samples": counts[0].samples,
        "levels": [_level(found, method, benchmark, way) for method in (BASE, *methods)
                   for benchmark in first.benchmarks for way in WAYS],
        "comparisons": [each for way in WAYS for each in _comparisons(study, found, way)],
        "course": [_course(found, method, metric) for method in methods for metric in COURSE],
        "claims": [asdict(claim) for claim in decide_claims(found)],
    }  # fmt: skip


def pairs(study: StudyParams, methods: list[str]) -> list[tuple[str, str]]:
    """Returns what is compared: every method with GRPO, and an ablation with its parent too."""
    with_baseline = [(method, BASELINE) for method in methods if BASELINE in methods and method != BASELINE]
    with_parent = [(method, study.parents[method]) for method in methods if study.parents.get(method) in methods]
    return [*with_baseline, *(pair for pair in with_parent if pair not in with_baseline)]


def _title(found: SeveralBases, method: str) -> str:
    return "Base" if method == BASE else found.every[0].title(method)


def _level(found: SeveralBases, method: str, benchmark: str, way: str) -> Tree:
    table = found.accuracies(method, benchmark, way)
    interval = two_way_interval(table, found.confidence)
    assert interval is not None, "a study has two bases or more"
    return {"method": method, "title": _title(found, method), "benchmark": benchmark, "way": way,
            **interval._asdict(), "by_base": table.mean(axis=1).tolist()}  # fmt: skip


def _comparisons(study: StudyParams, found: SeveralBases, way: str) -> list[Tree]:
    """Returns the differences of one way of answering, with p-values adjusted for how many there are."""
    rows = []
    for a, b in pairs(study, list(found.every[0].runs)):
        for benchmark in found.every[0].benchmarks:
            difference = found.difference(a, b, benchmark, way)._asdict()
            by_base: list[Any] = [{"mean": mean} for mean in difference.pop("by_base")]
            if way == LAST:
                for base, results in zip(by_base, found.every, strict=True):
                    alone = compare_last(results, a, b, benchmark)
                    base |= {"low": alone.low, "high": alone.high}
            rows.append({"method": a, "other": b, "titles": [_title(found, a), _title(found, b)],
                         "benchmark": benchmark, "benchmark_title": found.every[0].benchmarks[benchmark],
                         "way": way, **difference, "by_base": by_base})  # fmt: skip
    for row, p_value in zip(rows, holm([row["p_value"] for row in rows]).tolist(), strict=True):
        row["p_holm"] = p_value
    return rows


def _course(found: SeveralBases, method: str, metric: str) -> Tree:
    """Returns a training metric at the start and at the end of the runs, a tenth of them each, for each base."""
    parts = {"start": (0.0, 0.1), "end": (0.9, 1.0)}
    shown = {
        name: [_mean(window(results, method, metric, *part)) for results in found.every] for name, part in parts.items()
    }
    return {"method": method, "title": _title(found, method), "metric": metric, **shown}


def _mean(values: Array) -> float | None:
    """Returns the mean of the steps that measured something; None where none did, as without a reference term."""
    measured = values[np.isfinite(values)]
    return float(measured.mean()) if measured.size else None


def headline(name: str, tree: Tree, confidence: float) -> str:
    """Returns what can be told apart in runs of one length; where it is nothing, it says so first."""
    sizes = f"{tree['bases']} bases × {tree['seeds']} seeds of {tree['steps']} steps"
    rows = tree["comparisons"]
    if not rows:
        return f"Nothing is compared in the runs {name} ({sizes}): {BASELINE} is not among them."
    told = [row for row in rows if row["p_holm"] < 1 - confidence]
    how = f"{confidence:.0%} after Holm, {len(rows) // len(WAYS)} comparisons each of Last and greedy"
    if not told:
        smallest = min(row["p_holm"] for row in rows)
        return f"Nothing can be told apart over {sizes} ({how}; smallest adjusted p {smallest:.3f})."
    listed = "; ".join(
        f"{row['titles'][0]} − {row['titles'][1]} on {row['benchmark_title']}, {WAYS[row['way']]}: "
        f"{plus(row['mean'])} ({plus(row['low'])} to {plus(row['high'])})"
        for row in told
    )
    return f"Over {sizes} ({how}) can be told apart: {listed}. The other {len(rows) - len(told)} cannot."
