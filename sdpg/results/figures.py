"""Draws figures of the paper's kind: a panel per benchmark, then training reward, entropy and response length."""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
import math
import re
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

from sdpg.colours import DASHES, INK, MARKERS, PALETTE, FileFormat, Theme, smooth, smoothing_width
from sdpg.results.runs import Results, Run
from sdpg.results.statistics.estimates import Array

TRAINING_PANELS = {
    "reward": "Training reward",
    "entropy": "Entropy (nats per token)",
    "length": "Response length (tokens)",
}
UNSAID: dict[FileFormat, tuple[str, ...]] = {
    "svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer"), "png": ("Software",),
}  # fmt: skip
"""The metadata that matplotlib would write into a file of each format, and that stays out of it."""
PAPER_FIGURES = {
    3: ("grpo", "rlsd", "sdpg-urkl", "sdpg-ufkl"),
    5: ("sdpg-urkl", "sdpg-ufkl", "alpha0", "beta0"),
    6: ("grpo", "rlsd", "opcd", "sdpg-urkl", "sdpg-ufkl"),
}
"""The paper's figure number → the methods in it: 3 (Qwen3-4B), 5 (ablations), 6 (Qwen3-1.7B)."""


def line_style(results: Results, method: str) -> dict[str, Any]:
    """Returns colour and dashes of a method, the same in every figure and for any set of methods that were run."""
    place = list(results.params.methods).index(method)
    return {"color": PALETTE["light"][place % len(PALETTE["light"])], "linestyle": DASHES[place % len(DASHES)]}


def marker(results: Results, method: str) -> str:
    """Returns the marker of a method's points."""
    return MARKERS[list(results.params.methods).index(method) % len(MARKERS)]


def _draw(
    axes: Axes, results: Results, methods: Sequence[str], series: Callable[[Run], tuple[Array, Array]],
    markers: bool,
) -> None:  # fmt: skip
    for method in methods:
        runs = results.runs[method]
        drawn = [series(run) for run in runs]
        length = min(len(x) for x, _ in drawn)
        x, stacked = drawn[0][0][:length], np.stack([y[:length] for _, y in drawn])
        style = line_style(results, method)
        axes.plot(x, stacked.mean(axis=0), **style, linewidth=1.8, markersize=4.5,
                  marker=marker(results, method) if markers else None, label=results.title(method))  # fmt: skip
        if len(runs) > 1:
            axes.fill_between(
                x, stacked.min(axis=0), stacked.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
            )


def tidy(panel: Axes, theme: Theme = "light") -> None:
    """Gives a panel the grid and frame that every panel has."""
    _, ink, line = INK[theme]
    panel.grid(color=line, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=ink, length=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(line)


def plain_text(text: str) -> str:
    """Returns text escaped so that matplotlib shows it as it stands."""
    return text.replace("$", r"\$")


def legend(figure: Figure, panel: Axes) -> None:
    """Draws the legend above all panels."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(
        handles, [plain_text(label) for label in labels], loc="outside upper center", ncols=min(len(labels), 5),
        frameon=False, handlelength=3,
    )  # fmt: skip


def _panels(figure: Figure, results: Results, methods: Sequence[str]) -> None:
    columns = 3
    rows = math.ceil((len(results.benchmarks) + len(TRAINING_PANELS)) / columns)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    first = results.runs[methods[0]][0]
    width = smoothing_width(len(first.metrics["step"]))
    samples = results.params.evaluation.samples
    axes = iter(grid)

    def benchmark_series(run: Run, name: str) -> tuple[Array, Array]:
        return run.curves["step"], run.curves[name]

    def metric_series(run: Run, name: str) -> tuple[Array, Array]:
        return run.metrics["step"], smooth(run.metrics[name], width)

    for benchmark, title in results.benchmarks.items():
        panel = next(axes)
        panel.set_title(plain_text(f"{title}, mean@{samples}"))
        _draw(panel, results, methods, partial(benchmark_series, name=benchmark), markers=True)
    for metric, title in TRAINING_PANELS.items():
        panel = next(axes)
        panel.set_title(title)
        _draw(panel, results, methods, partial(metric_series, name=metric), markers=False)
    for panel in axes:
        panel.set_visible(False)
    for panel in grid:
        tidy(panel)
        panel.set_xlabel("training step")
    legend(figure, grid[0])
    seeds = len(results.params.run.seeds)
    over = "one seed" if seeds == 1 else f"line: mean of {seeds} seeds, band: their range"
    figure.supxlabel(f"{over}; training panels: moving mean of {width} steps", fontsize=9, color=INK["light"][1])


def drawn(size: tuple[float, float], file_format: FileFormat, theme: Theme, draw: Callable[[Figure], None]) -> bytes:
    """Returns a figure of so many inches as the bytes of a file; the same drawing gives the same bytes."""
    background, ink, _ = INK[theme]
    settings: dict[Any, Any] = {
        "svg.hashsalt": "sdpg", "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11,
        "text.color": ink, "axes.labelcolor": ink, "axes.titlecolor": ink,
        "figure.facecolor": background, "axes.facecolor": background, "savefig.facecolor": background,
    }  # fmt: skip
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        out = BytesIO()
        # A date or a version in the file would make equal figures differ.
        figure.savefig(out, format=file_format, dpi=150, metadata=dict.fromkeys(UNSAID[file_format]))
    return out.getvalue()


def in_dark(svg: bytes) -> bytes:
    """Returns a figure drawn in the colours of light paper in those of dark paper, without drawing it again."""
    return _LIGHT.sub(lambda found: _DARK[found[0]], svg)


_DARK = {
    light.encode(): dark.encode()
    for colours in (PALETTE, INK) for light, dark in zip(colours["light"], colours["dark"], strict=True)
}  # fmt: skip
_LIGHT = re.compile(b"|".join(_DARK))


def curves(results: Results, file_format: FileFormat, methods: Sequence[str] | None = None) -> bytes:
    """Returns six panels over training steps, of all methods that were run or of some."""
    rows = math.ceil((len(results.benchmarks) + len(TRAINING_PANELS)) / 3)
    chosen = list(results.runs) if methods is None else methods
    return drawn((12, 3.3 * rows + 0.8), file_format, "light", lambda figure: _panels(figure, results, chosen))


def figure_methods(results: Results, number: int) -> list[str]:
    """Returns the methods of a figure of the paper that were run, in its order."""
    return [method for method in PAPER_FIGURES[number] if method in results.runs]
