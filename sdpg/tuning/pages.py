"""Writes HTML pages on studies: one per study, and one that lists them."""

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from optuna.trial import FrozenTrial

from sdpg import paths
from sdpg.files import read_json, replaced_folder, write_text
from sdpg.tuning.pictures import plots
from sdpg.tuning.results import state_name, study_summary
from sdpg.tuning.study import Study

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {
    "history": "Best so far",
    "curves": "Validation curves",
    "schedules": "The schedule of each trial",
    "slices": "Value by parameter",
    "parallel": "All parameters together",
    "importance": "What mattered",
}


@dataclass(frozen=True)
class PageTable:
    """A table of a page; ``best`` is the index of the row to highlight."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    best: int | None = None


@dataclass(frozen=True)
class Picture:
    """A figure, held as data addresses of its light and its dark version."""

    title: str
    light: str
    dark: str


def page(
    title: str, lines: list[str], tables: list[PageTable], pictures: list[Picture], links: list[dict[str, str]]
) -> str:
    """Returns a page as HTML; every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("tune.html.j2")
    return template.render(title=title, lines=lines, tables=tables, pictures=pictures, links=links)


def study_lines(summary: dict[str, Any]) -> list[str]:
    """Returns lines for readers on what a study was and what came of it."""
    counts, saved, budget = summary["counts"], summary["steps_saved"], summary["budget"]
    parts = [f"{counts[name]} {name}" for name in ("complete", "pruned", "failed", "running", "waiting", "lost")
             if counts[name]]  # fmt: skip
    kind = {"last": "accuracy at the last step", "area": "mean height of the accuracy curve"}
    lines = []
    if summary["best_trial"] is not None:
        lines.append(f"Best: trial {summary['best_trial']} with {summary['best_value']:.4f} on validation. It is the "
                     f"maximum of {counts['complete']} noisy tries and too high by nature: what it is worth, fresh "
                     "seeds tell (sdpg tune-all).")  # fmt: skip
    if summary["front"]:
        lines.append(f"Of two objectives none is best; on the front: {', '.join(map(str, summary['front']))}.")
    lines += [
        f"Method {summary['method']}; {', '.join(parts)}. Objective: {kind[summary['objective']['kind']]} on "
        f"validation, {summary['objective']['samples']} answers a problem; no trial was asked a benchmark.",
        f"Budget: {budget['trials']} trials × {budget['steps']} steps × {budget['prompts']} prompts × "
        f"{budget['responses']} responses; {budget['tokens']:,} tokens generated. Sampler {summary['sampler']}, pruner "
        f"{summary['pruner']} ({summary['pruner_note']}); {saved['made']} of {saved['planned']} steps made, "
        f"{saved['share']:.0%} saved. Seed {summary['seed']}; all trials train on seed {summary['training_seed']}. "
        f"Commit {str(summary['commit'] or 'unknown')[:12]}.",
    ]
    if summary["importance"] is None:
        lines.append(f"Importance of the parameters: not given, as {summary['importance_reason']}.")
    return lines


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _trials_table(study: Study, trials: list[FrozenTrial], best: int | None) -> PageTable:
    names = [path.removeprefix(f"methods.{study.method}.") for path in study.space]
    header = ["Trial", "State", "Value", *(["Second"] if study.params.tune.second else [])]
    header += ["Steps", "Tokens", "Seconds"]
    rows = []
    for trial in trials:
        values = list(trial.values or [None])
        second = [_cell(values[1] if len(values) > 1 else None)] if study.params.tune.second else []
        kept = [_cell(trial.user_attrs.get(key)) for key in ("steps", "tokens", "seconds")]
        rows.append([str(trial.number), state_name(trial), _cell(values[0]), *second, *kept,
                     *(_cell(trial.params.get(path)) for path in study.space)])  # fmt: skip
    place = next((at for at, t in enumerate(trials) if t.number == best), None)
    return PageTable("Trials", [*header, *names], rows, "Every trial, lost ones too; the best in bold.", place)


def write_study_page(study: Study, folder: Path) -> None:
    """Draws the figures into ``figures/`` and writes report.html, and the list of all studies."""
    summary = study_summary(study)
    pictures = []
    with replaced_folder(folder / "figures") as temporary:
        for name, draw in plots(study).items():
            light, dark = draw("svg", "light"), draw("svg", "dark")
            (temporary / f"{name}.svg").write_bytes(light)
            pictures.append(Picture(TITLES[name], *(_address(content) for content in (light, dark))))
    table = _trials_table(study, study.trials(), summary["best_trial"])
    links = [{"address": "../index.html", "name": "All studies", "words": ""}]
    write_text(folder / "report.html", page(f"Study {study.name}", study_lines(summary), [table], pictures, links))
    write_index()


def _address(content: bytes) -> str:
    return "data:image/svg+xml;base64," + b64encode(content).decode()


def write_index() -> None:
    """Writes ``reports/tune/index.html``, which lists every study of this project that has a page."""
    folder = paths.REPORTS / "tune"
    links = []
    for path in sorted(folder.glob("*/study.json")):
        summary = read_json(path, "run `sdpg tune` with this study's name again")
        counts = summary["counts"]
        words = f"{summary['method']}: {counts['complete']} complete, {counts['pruned']} pruned"
        if summary["best_value"] is not None:
            words += f"; best {summary['best_value']:.4f} on validation"
        if (path.parent / "report.html").exists():
            links.append({"address": f"{path.parent.name}/report.html", "name": path.parent.name, "words": words})
    if (folder / "comparison.html").exists():
        links.append({"address": "comparison.html", "name": "Default against tuned", "words": "on fresh seeds"})
    write_text(folder / "index.html", page("Studies", ["Searches of sdpg tune on the validation set."], [], [], links))
