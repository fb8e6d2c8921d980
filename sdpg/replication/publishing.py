"""Puts a finished study into docs/results and README.md, so that every number there is one of the study's."""

from pathlib import Path
import re
import shutil

from sdpg.errors import UserError
from sdpg.files import read_json, replaced_file, write_text
from sdpg.replication.report import FIGURE, NUMBERS, PAGE, level_table
from sdpg.replication.tables import Tree

README = Path("README.md")
PUBLISHED = Path("docs/results")
BEGIN, END = "<!-- study: begin; make study-readme writes what follows -->", "<!-- study: end -->"
NAMES = {PAGE: "study.md", NUMBERS: "study.json", f"{FIGURE}.png": f"{FIGURE}.png"}
"""A file of reports/study → its name in docs/results."""


def publish(report: Path, root: Path = Path()) -> list[Path]:
    """Copies a study's page, numbers and figure to docs/results, and fills README.md; returns the files.

    Raises:
        UserError: if there is no finished study, or README.md has lost its markers.
    """
    tree = read_json(report / NUMBERS, "run `sdpg study` first")
    readme = root / README
    filled = fill(readme.read_text(encoding="utf-8"), tree)
    for name, published in NAMES.items():
        with replaced_file(root / PUBLISHED / published) as temporary:
            shutil.copy(report / name, temporary)
    write_text(readme, filled)
    return [*(root / PUBLISHED / name for name in NAMES.values()), readme]


def fill(readme: str, tree: Tree) -> str:
    """Returns README's text with what stands between the markers made from a study's numbers."""
    found = re.search(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", readme, re.DOTALL)
    if found is None:
        raise UserError(
            f"{README} has no lines {BEGIN} and {END}, between which the study's table belongs: put both in"
        )
    return readme[: found.start()] + f"{BEGIN}\n\n{section(tree)}\n\n{END}" + readme[found.end() :]


def section(tree: Tree) -> str:
    """Returns the part of README.md that tells of a study: what it says, its first table, its figure."""
    name, runs = next(iter(tree["runs"].items()))
    return "\n\n".join([
        *tree["headline"],
        f"`sdpg study` at commit {', '.join(tree['commits'])}: accuracy after {runs['steps']} steps, {runs['bases']} "
        f"bases × {runs['seeds']} seeds, {runs['problems']} problems a benchmark. In brackets the "
        f"{tree['confidence']:.0%} interval over bases, seeds and problems. Last: {runs['samples']} samples per "
        "problem, at the temperature of training; greedy: the final policy, one answer per problem.",
        level_table(tree, name),
        f"![Differences of Last, per base and over all]({PUBLISHED.as_posix()}/{FIGURE}.png)",
        f"[All tables]({PUBLISHED.as_posix()}/{PAGE}), with the verdict on each of the paper's claims; "
        "[docs/study.md](docs/study.md) says what is crossed and how the intervals are made.",
    ])  # fmt: skip
