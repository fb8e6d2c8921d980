"""The figure of the paper's kind: a panel per benchmark, then training reward, entropy and response length."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
import math
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np
from numpy.typing import NDArray

from sdpg.results import Results, Run
from sdpg.statistics import Array

Theme = Literal["light", "dark"]

PALETTE: dict[Theme, tuple[str, ...]] = {
    "light": ("#4d4d4d", "#e69f00", "#b2609a", "#0072b2", "#d55e00", "#009e73", "#3fa0d8", "#8a7a00"),
    "dark": ("#c8c8c8", "#f0b429", "#dd8fc4", "#5aa9e6", "#ff7f4d", "#2fc79a", "#9ad4f5", "#d6c544"),
}
"""After Okabe and Ito: told apart with the common kinds of colour blindness; dashes and markers say the same again."""
DASHES = ("-", "--", ":", "-", "-", "-.", "--", (0, (3, 1, 1, 1)))
MARKERS = ("o", "s", "v", "D", "^", "P", "X", "<")
INK: dict[Theme, tuple[str, str, str]] = {
    "light": ("#ffffff", "#22252a", "#dfe2e6"),
    "dark": ("#1b1e23", "#e4e6ea", "#3a3f47"),
}
"""Background, text, grid."""
TRAINING_PANELS = {
    "reward": "Training reward",
    "entropy": "Entropy (nats per token)",
    "length": "Response length (tokens)",
}


def _style(results: Results, method: str) -> int:
    # By the place under `methods`, not in the run: a method keeps its colour whichever others are run.
    return list(results.params.methods).index(method)


def smooth(values: NDArray[np.floating], width: int) -> Array:
    """Centred moving mean; near the ends over what there is."""
    half = width // 2
    return np.array([values[max(0, at - half) : at + half + 1].mean() for at in range(len(values))])


def smoothing_width(steps: int) -> int:
    """An odd number of steps, about a twentieth of the run."""
    return 2 * (steps // 40) + 1


def _draw(
    axes: Axes, results: Results, theme: Theme, series: Callable[[Run], tuple[Array, Array]], markers: bool
) -> None:
    for method, runs in results.runs.items():
        drawn = [series(run) for run in runs]
        length = min(len(x) for x, _ in drawn)
        x, stacked = drawn[0][0][:length], np.stack([y[:length] for _, y in drawn])
        style = _style(results, method)
        colour = PALETTE[theme][style % len(PALETTE[theme])]
        axes.plot(x, stacked.mean(axis=0), color=colour, linestyle=DASHES[style % len(DASHES)], linewidth=1.8,
                  marker=MARKERS[style % len(MARKERS)] if markers else None, markersize=4.5,
                  label=results.title(method))  # fmt: skip
        if len(runs) > 1:
            axes.fill_between(x, stacked.min(axis=0), stacked.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _panels(figure: Figure, results: Results, theme: Theme) -> None:
    columns = 3
    rows = math.ceil((len(results.benchmarks) + len(TRAINING_PANELS)) / columns)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    first = next(iter(results.runs.values()))[0]
    width = smoothing_width(len(first.metrics["step"]))
    samples = results.params.evaluation.samples
    axes = iter(grid)

    def benchmark_series(run: Run, name: str) -> tuple[Array, Array]:
        return run.curves["step"], run.curves[name]

    def metric_series(run: Run, name: str) -> tuple[Array, Array]:
        return run.metrics["step"], smooth(run.metrics[name], width)

    for benchmark, title in results.benchmarks.items():
        panel = next(axes)
        panel.set_title(f"{title}, mean@{samples}".replace("$", r"\$"))
        _draw(panel, results, theme, partial(benchmark_series, name=benchmark), markers=True)
    for metric, title in TRAINING_PANELS.items():
        panel = next(axes)
        panel.set_title(title)
        _draw(panel, results, theme, partial(metric_series, name=metric), markers=False)
    for panel in axes:
        panel.set_visible(False)
    _, ink, line = INK[theme]
    for panel in grid:
        panel.grid(color=line, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.tick_params(colors=ink, length=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color(line)
        panel.set_xlabel("training step")
    handles, labels = grid[0].get_legend_handles_labels()
    escaped = [label.replace("$", r"\$") for label in labels]
    figure.legend(
        handles, escaped, loc="outside upper center", ncols=min(len(labels), 5), frameon=False, handlelength=3
    )
    seeds = len(results.params.run.seeds)
    over = "one seed" if seeds == 1 else f"line: mean of {seeds} seeds, band: their range"
    figure.supxlabel(f"{over}; training panels: moving mean of {width} steps", fontsize=9, color=ink)


def curves(results: Results, file_format: Literal["svg", "png"], theme: Theme = "light") -> bytes:
    """The figure as the bytes of a file; the same results give the same bytes."""
    background, ink, _ = INK[theme]
    rows = math.ceil((len(results.benchmarks) + len(TRAINING_PANELS)) / 3)
    settings: dict[Any, Any] = {
        "svg.hashsalt": "sdpg", "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11,
        "text.color": ink, "axes.labelcolor": ink, "axes.titlecolor": ink,
        "figure.facecolor": background, "axes.facecolor": background, "savefig.facecolor": background,
    }  # fmt: skip
    with rc_context(settings):
        figure = Figure(figsize=(12, 3.3 * rows + 0.8), layout="constrained")
        FigureCanvasAgg(figure)
        _panels(figure, results, theme)
        out = BytesIO()
        # A date or a version in the file would make equal figures differ.
        metadata = {"Date": None, "Creator": None} if file_format == "svg" else {"Software": None}
        figure.savefig(out, format=file_format, dpi=150, metadata=metadata)
    return out.getvalue()
