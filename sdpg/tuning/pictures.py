"""Draws the plots of a study.

These are the best value so far, validation curves, the schedule of each trial, values by parameter, parallel
coordinates and importance.
"""

from collections.abc import Callable
import itertools
import math
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from sdpg.colours import INK, PALETTE, FileFormat, Theme
from sdpg.objective.coefficients import coefficients, distils, learning_rate, weights_tokens
from sdpg.params.tune import Choices, Distribution
from sdpg.results.figures import drawn, plain_text, tidy
from sdpg.tuning.results import best_trial, importances
from sdpg.tuning.space import trial_params
from sdpg.tuning.study import Study

Draw = Callable[[FileFormat, Theme], bytes]
COLOURS = "cividis"
COLUMNS = 4


def shown_trials(study: Study) -> list[FrozenTrial]:
    """Returns the trials that have a value: complete and pruned ones."""
    return [t for t in study.counted() if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.values]


def plots(study: Study) -> dict[str, Draw]:
    """Returns file name → function that draws it; empty while no trial has ended."""
    trials = shown_trials(study)
    if not trials:
        return {}
    rows = math.ceil(len(study.space) / COLUMNS)
    panels = math.ceil(len(trials) / 6)
    drawings: dict[str, Draw] = {
        "history": _drawn((9, 3.4), lambda f, t: _history(f, trials, t)),
        "curves": _drawn((9, 4.2), lambda f, t: _curves(f, study, trials, t)),
        "schedules": _drawn((12, 1.1 + 1.5 * panels), lambda f, t: _schedules(f, study, trials, t)),
        "slices": _drawn((12, 0.6 + 2.6 * rows), lambda f, t: _slices(f, study, trials, t)),
        "parallel": _drawn((12, 4.4), lambda f, t: _parallel(f, study, trials, t)),
    }
    if (importance := importances(study)["importance"]) is not None:
        height = 1.0 + 0.34 * len(importance)
        drawings["importance"] = _drawn((9, height), lambda f, t: _importance(f, importance, t))
    return drawings


def _drawn(size: tuple[float, float], draw: Callable[[Figure, Theme], None]) -> Draw:
    return lambda form, theme: drawn(size, form, theme, lambda figure: draw(figure, theme))


def _colour(trials: list[FrozenTrial], trial: FrozenTrial, theme: Theme) -> Any:
    """Returns a trial's colour by its objective: the better, the farther from the background."""
    values = sorted(t.values[0] for t in trials)
    spread = values[-1] - values[0]
    share = (trial.values[0] - values[0]) / spread if spread else 1.0
    # The ends of the map that vanish against the background are left out.
    return colormaps[COLOURS](0.85 - 0.85 * share if theme == "light" else 0.25 + 0.75 * share)


def _style(study: Study, trials: list[FrozenTrial], trial: FrozenTrial, theme: Theme) -> dict[str, Any]:
    best = best_trial(study)
    if best is not None and trial.number == best.number:
        return {"color": PALETTE[theme][4], "linewidth": 2.6, "zorder": 5}
    return {"color": _colour(trials, trial, theme), "linewidth": 1.2, "zorder": 3}


def best_so_far(trials: list[FrozenTrial]) -> list[float]:
    """Returns for each trial the highest value of the complete trials up to it; NaN before the first of them."""
    values = (t.values[0] if t.state == TrialState.COMPLETE else -math.inf for t in trials)
    return [math.nan if value == -math.inf else value for value in itertools.accumulate(values, max)]


def _history(figure: Figure, trials: list[FrozenTrial], theme: Theme) -> None:
    panel = figure.subplots()
    panel.step([t.number for t in trials], best_so_far(trials), where="post", color=PALETTE[theme][4], linewidth=2)
    for trial in trials:
        pruned = trial.state == TrialState.PRUNED
        panel.plot(
            trial.number, trial.values[0], marker="x" if pruned else "o", color=PALETTE[theme][0 if pruned else 3]
        )
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_title("Value of each trial, × where one was pruned; the line is the best complete one so far")
    panel.set_xlabel("trial")
    tidy(panel, theme)


def _curves(figure: Figure, study: Study, trials: list[FrozenTrial], theme: Theme) -> None:
    panel = figure.subplots()
    for trial in trials:
        curve = trial.user_attrs["curve"]
        panel.plot([p[0] for p in curve], [p[1] for p in curve], **_style(study, trials, trial, theme))
        pruned = trial.state == TrialState.PRUNED
        panel.annotate(str(trial.number), (curve[-1][0], curve[-1][1]), xytext=(3, 0), textcoords="offset points",
                       fontsize=8, color=INK[theme][1])  # fmt: skip
        if pruned:
            panel.plot(curve[-1][0], curve[-1][1], marker="x", color=INK[theme][1], zorder=6, markersize=6)
    panel.set_title("Validation accuracy of each trial; × marks where one was pruned, the thick line is the best")
    panel.set_xlabel("training step")
    tidy(panel, theme)


def schedule(study: Study, trial: FrozenTrial) -> tuple[str, list[float]]:
    """Returns what the method's schedule is about and its value per step: β(k), else λ(k), else the learning rate."""
    params = trial_params(study.params, trial.params)
    method, train, total = params.methods[study.method], params.train, params.train.steps
    at = [coefficients(method, step, total) for step in range(1, total + 1)]
    if distils(method):
        return "β(k)", [each.beta for each in at]
    if weights_tokens(method):
        return "λ(k)", [each.rlsd_lambda for each in at]
    return "learning rate", [learning_rate(train, step) for step in range(1, total + 1)]


def _schedules(figure: Figure, study: Study, trials: list[FrozenTrial], theme: Theme) -> None:
    grid = figure.subplots(math.ceil(len(trials) / 6), 6, squeeze=False, sharex=True).ravel()
    name = ""
    for panel, trial in zip(grid, trials, strict=False):
        name, values = schedule(study, trial)
        steps = range(1, len(values) + 1)
        panel.plot(steps, values, color=INK[theme][2], linewidth=1.5)
        made = trial.user_attrs["steps"]
        panel.plot(steps[:made], values[:made], **_style(study, trials, trial, theme))
        pruned = ", pruned" if trial.state == TrialState.PRUNED else ""
        panel.set_title(f"{trial.number}: {trial.values[0]:.3f}{pruned}", fontsize=9)
        panel.set_ylim(bottom=0)
        panel.tick_params(labelsize=7)
        tidy(panel, theme)
    for panel in grid[len(trials) :]:
        panel.set_visible(False)
    figure.supxlabel(f"{name} over the training step; above each, the trial's number and its value", fontsize=9,
                     color=INK[theme][1])  # fmt: skip


def _place(distribution: Distribution, value: Any) -> float:
    """Returns a value's place on an axis: choices in their order, logarithms where the range is logarithmic."""
    if isinstance(distribution, Choices):
        return float(distribution.choices.index(value))
    return math.log10(value) if distribution.log else float(value)


def _axis(panel: Axes, distribution: Distribution, along: str) -> None:
    if isinstance(distribution, Choices):
        places, names = list(range(len(distribution.choices))), [str(value) for value in distribution.choices]
        (panel.set_xticks if along == "x" else panel.set_yticks)(places, names)
        (panel.set_xlim if along == "x" else panel.set_ylim)(-0.5, len(places) - 0.5)


def _slices(figure: Figure, study: Study, trials: list[FrozenTrial], theme: Theme) -> None:
    grid = figure.subplots(math.ceil(len(study.space) / COLUMNS), COLUMNS, squeeze=False, sharey=True).ravel()
    for panel, (path, distribution) in zip(grid, study.space.items(), strict=False):
        for trial in trials:
            x = _place(distribution, trial.params[path])
            pruned = trial.state == TrialState.PRUNED
            panel.plot(x, trial.values[0], marker="x" if pruned else "o", color=PALETTE[theme][0 if pruned else 3])
        log = not isinstance(distribution, Choices) and distribution.log
        panel.set_xlabel(plain_text(path.removeprefix(f"methods.{study.method}.")) + (" (log10)" if log else ""))
        _axis(panel, distribution, "x")
        tidy(panel, theme)
    for panel in grid[len(study.space) :]:
        panel.set_visible(False)
    figure.supylabel("objective; × pruned, at its last look", fontsize=9, color=INK[theme][1])


def _parallel(figure: Figure, study: Study, trials: list[FrozenTrial], theme: Theme) -> None:
    panel = figure.subplots()
    ends = []
    for path, distribution in study.space.items():
        places = [_place(distribution, value) for value in distribution.ends()]
        ends.append((path, distribution, min(places), max(places)))
    values = [t.values[0] for t in trials]
    for trial in trials:
        heights = [(_place(d, trial.params[path]) - low) / (high - low) for path, d, low, high in ends]
        spread = max(values) - min(values)
        heights.append((trial.values[0] - min(values)) / spread if spread else 0.5)
        panel.plot(range(len(heights)), heights, **_style(study, trials, trial, theme),
                   linestyle=":" if trial.state == TrialState.PRUNED else "-")  # fmt: skip
    names = [plain_text(path.removeprefix("methods.").removeprefix("train.").split(".")[-1]) for path, *_ in ends]
    labels = [f"{d.ends()[0]}\nto {d.ends()[-1]}" for _, d, _, _ in ends]
    panel.set_xticks(range(len(ends) + 1), [
        *(f"{name}\n{label}" for name, label in zip(names, labels, strict=True)),
        f"objective\n{min(values):.3f}\nto {max(values):.3f}",
    ], fontsize=8)  # fmt: skip
    panel.set_yticks([])
    panel.set_title("Each line one trial: darker or brighter is better, the thick one is the best, dotted were pruned")
    tidy(panel, theme)


def _importance(figure: Figure, importance: dict[str, float], theme: Theme) -> None:
    panel = figure.subplots()
    names = sorted(importance, key=lambda path: importance[path])
    panel.barh(range(len(names)), [importance[name] for name in names], color=PALETTE[theme][3])
    panel.set_yticks(range(len(names)), [plain_text(name) for name in names])
    panel.set_xlabel("importance (PED-ANOVA); from few trials, a hint and no more")
    tidy(panel, theme)
