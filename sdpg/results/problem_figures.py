"""Draws figures by problem: which problems which policy solves, and what more attempts would bring."""

import math

from matplotlib.figure import Figure
import numpy as np

from sdpg.colours import INK, FileFormat
from sdpg.records.schemas import BASE
from sdpg.results.figures import drawn, legend, line_style, plain_text, tidy
from sdpg.results.runs import Results
from sdpg.results.statistics.at_k import pass_at_every_k
from sdpg.results.statistics.estimates import Array, accuracy_matrix

COLOURS = "cividis"
"""Colour map: dark is never, bright is always; it reads alike with the common kinds of colour blindness."""
LONGEST_TITLE = 28


def final_accuracies(results: Results, benchmark: str) -> dict[str, Array]:
    """Returns title → accuracy per problem in the larger samples, (P,), seeds averaged: the base, then the methods."""
    accuracies = {"Base": results.base[BASE, benchmark, False].counts.accuracy}
    for method, runs in results.runs.items():
        accuracies[results.title(method)] = accuracy_matrix([run.final[benchmark, False].counts for run in runs]).mean(
            axis=0
        )
    return accuracies


def easiest_first(rows: dict[str, Array]) -> list[int]:
    """Returns the order of problems in the heatmap: by their mean over all rows; equal ones keep their order."""
    return np.argsort(-np.stack(list(rows.values())).mean(axis=0), kind="stable").tolist()


def _heatmaps(figure: Figure, results: Results) -> None:
    panels = figure.subplots(len(results.benchmarks), 1, squeeze=False).ravel()
    _, ink, _ = INK["light"]
    image = None
    for panel, (benchmark, title) in zip(panels, results.benchmarks.items(), strict=True):
        rows = final_accuracies(results, benchmark)
        values = np.stack(list(rows.values()))[:, easiest_first(rows)]
        image = panel.imshow(values, aspect="auto", interpolation="nearest", cmap=COLOURS, vmin=0, vmax=1)
        panel.set_title(plain_text(title), loc="left")
        names = [name if len(name) <= LONGEST_TITLE else name[: LONGEST_TITLE - 1] + "…" for name in rows]
        panel.set_yticks(range(len(names)), [plain_text(name) for name in names])
        panel.set_xticks([])
        panel.set_xlabel(f"{values.shape[1]} problems, the easiest at the left")
        panel.tick_params(colors=ink, length=0)
        panel.spines[:].set_visible(False)
    if image is not None:
        bar = figure.colorbar(
            image, ax=list(panels), label="share of right answers", fraction=0.02, pad=0.01, aspect=40
        )
        bar.ax.tick_params(colors=ink, length=0)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]


def heatmap(results: Results, file_format: FileFormat) -> bytes:
    """Returns the accuracy of every problem, methods × problems, a panel per benchmark.

    The accuracies are those of the larger samples of the final policies.
    """
    rows = len(results.runs) + 1
    return drawn(
        (12, len(results.benchmarks) * (0.9 + 0.3 * rows)), file_format, "light",
        lambda figure: _heatmaps(figure, results),
    )  # fmt: skip


def _pass_curves(figure: Figure, results: Results) -> None:
    columns = min(3, len(results.benchmarks))
    grid = figure.subplots(math.ceil(len(results.benchmarks) / columns), columns, squeeze=False).ravel()
    for panel, (benchmark, title) in zip(grid, results.benchmarks.items(), strict=False):
        base = results.base[BASE, benchmark, False].counts
        panel.plot(range(1, base.samples + 1), pass_at_every_k(base.samples, base.correct).mean(axis=0),
                   color=INK["light"][1], linestyle=(0, (1, 1)), linewidth=1.8, label="Base")  # fmt: skip
        for method, runs in results.runs.items():
            counts = [run.final[benchmark, False].counts for run in runs]
            fewest = min(each.samples for each in counts)
            curves = [pass_at_every_k(each.samples, each.correct).mean(axis=0)[:fewest] for each in counts]
            panel.plot(range(1, fewest + 1), np.mean(curves, axis=0), **line_style(results, method),
                       linewidth=1.8, label=results.title(method))  # fmt: skip
        panel.set_title(plain_text(title))
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:.0f}")
        panel.set_xlabel("attempts k")
        tidy(panel)
    for panel in grid[len(results.benchmarks) :]:
        panel.set_visible(False)
    grid[0].set_ylabel("pass@k")
    legend(figure, grid[0])


def pass_curves(results: Results, file_format: FileFormat) -> bytes:
    """Returns pass@k over k of base and final policies, a panel per benchmark."""
    rows = math.ceil(len(results.benchmarks) / 3)
    return drawn((12, 3.4 * rows + 0.7), file_format, "light", lambda figure: _pass_curves(figure, results))
