"""Makes the atlas: every method on several bases with several seeds, in one table, sorted by nothing but name."""

from pathlib import Path

import numpy as np

from sdpg.errors import UserError
from sdpg.files import make_folder, write_json, write_text
from sdpg.params import Params
from sdpg.records.schemas import BASE
from sdpg.records.watch import read_history, watch_summary
from sdpg.replication.measured import LAST, SeveralBases, read_study
from sdpg.replication.tables import Tree, runs_tree
from sdpg.results.claims import window
from sdpg.results.rendering import CLAIMS_HEADER, limits, markdown_table, number
from sdpg.results.runs import Run
from sdpg.results.tables import BASELINE

NAME = "atlas"
PAGE, NUMBERS = "atlas.md", "atlas.json"
WORK = ("rollout_seconds", "reward_seconds", "update_seconds")
"""What a step's time is the sum of; records and evaluations are left out."""


def atlas_params(params: Params) -> Params:
    """Returns the parameters of a study whose runs are those of the atlas alone.

    Raises:
        UserError: if ``study.atlas`` is null.
    """
    if params.study.atlas is None:
        raise UserError("study.atlas is null: give bases, seeds and methods, as under study.runs")
    runs = params.study.atlas
    runs = runs.model_copy(update={"methods": runs.methods or list(params.methods)})
    study = params.study.model_copy(update={"runs": {NAME: runs}})
    return params.model_copy(update={"study": study})


def write_atlas(params: Params, folder: Path, root: Path = Path()) -> list[Path]:
    """Reads the finished runs of the atlas below ``root``, writes page and numbers, and returns the files.

    Raises:
        UserError: if a run is missing or damaged.
    """
    tree = atlas_tree(params, read_study(params, root)[NAME])
    make_folder(folder)
    write_json(folder / NUMBERS, tree)
    write_text(folder / PAGE, page(tree))
    return [folder / PAGE, folder / NUMBERS]


def atlas_tree(params: Params, found: SeveralBases) -> Tree:
    """Returns everything that the page says, as JSON holds it."""
    tree = runs_tree(params.study, found)
    methods = sorted(found.every[0].runs)
    return tree | {
        "profile": found.every[0].params.profile,
        "confidence": found.confidence,
        "benchmarks": found.every[0].benchmarks,
        "methods": {method: _method(found, method) for method in methods},
    }


def _method(found: SeveralBases, method: str) -> Tree:
    runs = [run for results in found.every for run in results.runs[method]]
    limits_of = found.every[0].params.watch
    rang: dict[str, list[int]] = {}
    for run in runs:
        for alarm, ring in watch_summary(read_history(run.folder / "metrics.csv"), limits_of).alarms.items():
            if ring is not None and ring.first_step is not None:
                rang.setdefault(alarm, []).append(ring.first_step)
    lengths = [float(np.nanmean(window(results, method, "length", 0.9, 1.0))) for results in found.every]
    return {
        "title": found.every[0].title(method),
        "runs": len(runs),
        "time_over_grpo": _time_ratio(found, method),
        "tokens": float(np.mean(lengths)),
        "alarms": {alarm: {"runs": len(steps), "first_step": min(steps)} for alarm, steps in rang.items()},
    }


def _time_ratio(found: SeveralBases, method: str) -> float | None:
    """Returns a step's time over GRPO's on the same base, the mean over bases; None without GRPO."""
    if BASELINE not in found.every[0].runs:
        return None
    ratios = [
        np.mean([_seconds(run) for run in results.runs[method]])
        / np.mean([_seconds(run) for run in results.runs[BASELINE]])
        for results in found.every
    ]
    return float(np.mean(ratios))


def _seconds(run: Run) -> float:
    """Returns the median time of a run's step."""
    timing = read_history(run.folder / "timing.csv", WORK)
    return float(np.median(np.nansum([timing[name] for name in WORK], axis=0)))


def page(tree: Tree) -> str:
    """Returns the atlas in Markdown."""
    levels = {(row["method"], row["benchmark"]): row for row in tree["levels"] if row["way"] == LAST}
    rows = []
    for method in (BASE, *tree["methods"]):
        cells = [levels[method, benchmark] for benchmark in tree["benchmarks"]]
        shown = [f"{number(row['mean'])} ({limits(row['low'], row['high'])})" for row in cells]
        told = tree["methods"].get(method)
        if told is None:
            rows.append(("Base", *shown, "–", "–", "–"))
            continue
        ratio = "–" if told["time_over_grpo"] is None else f"{told['time_over_grpo']:.2f}"
        rows.append((told["title"], *shown, ratio, f"{told['tokens']:.1f}", _alarms(told)))
    header = ("", *tree["benchmarks"].values(), "time of a step / GRPO's", "tokens at the end", "alarms")
    return "\n\n".join([
        f"# Atlas: {len(tree['methods'])} methods on {tree['bases']} bases × {tree['seeds']} seeds",
        f"Profile {tree['profile']}, {tree['steps']} steps, {tree['problems']} problems a benchmark, {tree['samples']} "
        f"samples each. Accuracy after the last step with its {tree['confidence']:.0%} interval over bases, seeds and "
        "problems. Methods stand in the order of their names. An alarm is given with the number of runs in which it "
        "rang and the first step at which it did; docs/metrics.md says what each is.",
        markdown_table(header, rows),
        "**What this cannot tell.** The world is tiny and synthetic, and all methods run with their published or "
        "default values, untuned here. A method that trails may need other values, longer responses, or a model that "
        "can use a hint in its own words. Two intervals that overlap are no test; differences to GRPO, paired and "
        f"adjusted, are in {NUMBERS} under `comparisons`.",
        "## Published claims",
        markdown_table(CLAIMS_HEADER, [
            (claim["text"], claim["source"], claim["verdict"], claim["numbers"], claim["why"], claim["measurement"])
            for claim in tree["claims"]
        ]),
    ]) + "\n"  # fmt: skip


def _alarms(told: Tree) -> str:
    parts = [
        f"{alarm}: {one['runs']} of {told['runs']}, step {one['first_step']}" for alarm, one in told["alarms"].items()
    ]
    return "; ".join(parts) or "none"
