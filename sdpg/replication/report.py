"""Writes a study's page, its numbers and its figure; page and figure are made from the numbers alone."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdpg.colours import INK, PALETTE, FileFormat
from sdpg.files import make_folder, replaced_file, write_json, write_text
from sdpg.params import Params
from sdpg.replication.measured import LAST, WAYS, read_study
from sdpg.replication.tables import COURSE, Tree, study_tree
from sdpg.results.figures import drawn, plain_text, tidy
from sdpg.results.rendering import CLAIMS_HEADER, limits, markdown_table, number, p_text
from sdpg.results.tables import plus

PAGE, NUMBERS, FIGURE = "study.md", "study.json", "differences"
FORMATS: tuple[FileFormat, ...] = ("png", "svg")


def write_study(params: Params, folder: Path, root: Path = Path()) -> list[Path]:
    """Reads a finished study below ``root`` and writes its page, numbers and figure into a folder; returns the files.

    Raises:
        UserError: if a run is missing or damaged.
    """
    tree = study_tree(params.study, read_study(params, root))
    make_folder(folder)
    write_json(folder / NUMBERS, tree)
    for file_format in FORMATS:
        with replaced_file(folder / f"{FIGURE}.{file_format}") as temporary:
            temporary.write_bytes(figure(tree, file_format))
    write_text(folder / PAGE, page(tree))
    return [folder / name for name in (PAGE, NUMBERS, *(f"{FIGURE}.{kind}" for kind in FORMATS))]


def page(tree: Tree) -> str:
    """Returns the study's page in Markdown; its first lines say what can be told apart."""
    parts = ["\n\n".join(tree["headline"]), "# Study: several bases, several seeds", _how(tree),
             f"![Differences per base and over all]({FIGURE}.png)"]  # fmt: skip
    for name, runs in tree["runs"].items():
        parts += [
            f"## {name}: {runs['steps']} steps, {runs['bases']} bases × {runs['seeds']} seeds",
            f"{runs['problems']} problems a benchmark, {runs['samples']} samples each for Last; greedy: one answer.",
            level_table(tree, name),
            "### Differences",
            _comparison_table(tree, runs),
            "### The end of training",
            "The last tenth of the steps, in brackets the first; one number for each base.",
            _course_table(runs),
            "### The paper's claims",
            markdown_table(CLAIMS_HEADER, [
                (claim["text"], claim["source"], claim["verdict"], claim["numbers"], claim["why"], claim["measurement"])
                for claim in runs["claims"]
            ]),
        ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _how(tree: Tree) -> str:
    return (f"Profile {tree['profile']}, preset {tree['preset']}, commit {', '.join(tree['commits'])}. Every interval "
            f"({tree['confidence']:.0%}) covers another base, other training seeds and other problems of the same "
            "kind; docs/study.md says how it is made. p is adjusted by Holm's method for all differences of Last, "
            "and for all of greedy answers, of one length of run.")  # fmt: skip


def level_table(tree: Tree, name: str) -> str:
    """Returns the accuracy of each method of some runs, a row each, with intervals."""
    levels = {(row["method"], row["benchmark"], row["way"]): row for row in tree["runs"][name]["levels"]}
    titles = {row["method"]: row["title"] for row in tree["runs"][name]["levels"]}
    rows = []
    for method, title in titles.items():
        cells = [levels[method, benchmark, way] for benchmark in tree["benchmarks"] for way in WAYS]
        shown = [f"{number(row['mean'])} ({limits(row['low'], row['high'])})" for row in cells]
        rows.append((title, *shown))
    header = [f"{title}: {way}" for title in tree["benchmarks"].values() for way in WAYS.values()]
    return markdown_table(("", *header), rows)


def _comparison_table(tree: Tree, runs: Tree) -> str:
    rows = [
        (row["benchmark_title"], WAYS[row["way"]], " − ".join(row["titles"]), plus(row["mean"]),
         f"{plus(row['low'])} to {plus(row['high'])}", p_text(row["p_value"]), p_text(row["p_holm"]),
         ", ".join(plus(base["mean"]) for base in row["by_base"]))
        for row in runs["comparisons"]
    ]  # fmt: skip
    return markdown_table(("Benchmark", "", "Difference", "mean", "interval", "p", "p, Holm", "each base"), rows)


def _course_table(runs: Tree) -> str:
    cells: dict[str, dict[str, str]] = {}
    for row in runs["course"]:
        start, end = (
            ", ".join("–" if value is None else f"{value:.3g}" for value in row[part]) for part in ("start", "end")
        )
        cells.setdefault(row["title"], {})[row["metric"]] = f"{end} ({start})"
    return markdown_table(("Method", *COURSE.values()), [
        (title, *[found[metric] for metric in COURSE]) for title, found in cells.items()
    ])  # fmt: skip


def figure(tree: Tree, file_format: FileFormat) -> bytes:
    """Returns the differences of Last: for each comparison the mean with its interval, and thinly that of each base."""
    most = max(len(_shown(runs, benchmark)) for runs in tree["runs"].values() for benchmark in tree["benchmarks"])
    size = (4.2 * len(tree["benchmarks"]) + 1.5, (0.42 * most + 1.2) * len(tree["runs"]) + 0.4)
    return drawn(size, file_format, "light", partial(_panels, tree))


def _panels(tree: Tree, figure: Figure) -> None:
    grid = figure.subplots(len(tree["runs"]), len(tree["benchmarks"]), squeeze=False, sharey="row")
    for panels, runs in zip(grid, tree["runs"].values(), strict=True):
        for panel, (benchmark, title) in zip(panels, tree["benchmarks"].items(), strict=True):
            panel.set_title(plain_text(f"{title}, {runs['steps']} steps"))
            _panel(panel, _shown(runs, benchmark))
            tidy(panel)
    meaning = "difference of Last; thick: over bases, seeds and problems; thin: each base, by its problems alone"
    figure.supxlabel(meaning, fontsize=9, color=INK["light"][1])


def _shown(runs: Tree, benchmark: str) -> list[Tree]:
    return [row for row in runs["comparisons"] if row["benchmark"] == benchmark and row["way"] == LAST]


def _panel(panel: Axes, rows: Sequence[dict[str, Any]]) -> None:
    ink, colours = INK["light"][1], PALETTE["light"]
    panel.axvline(0, color=ink, linewidth=0.8)
    for place, row in enumerate(rows):
        for number_of_base, base in enumerate(row["by_base"]):
            y = place + 0.22 + 0.13 * number_of_base
            panel.plot([base["low"], base["high"]], [y, y], color=colours[1], linewidth=0.8)
            panel.plot([base["mean"]], [y], "o", color=colours[1], markersize=2.5)
        panel.plot([row["low"], row["high"]], [place, place], color=colours[0], linewidth=2.2)
        panel.plot([row["mean"]], [place], "o", color=colours[0], markersize=5)
    panel.set_yticks(range(len(rows)), [plain_text(" − ".join(row["titles"])) for row in rows])
    panel.set_ylim(len(rows) - 0.3, -0.6)
