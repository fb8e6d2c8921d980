"""Writes where two verifiers disagree, as a page and as JSON Lines."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sdpg.errors import UserError
from sdpg.evaluation.disagreements import Comparison, compare_verifiers
from sdpg.evaluation.rescoring import StoredRun
from sdpg.files import make_folder, write_json_lines, write_text
from sdpg.params import RewardParams
from sdpg.results.rendering import markdown_table
from sdpg.results.sections import audit_cells

LISTED = 50
"""Disagreements on the page; the file holds all."""


def write_comparison(runs: Sequence[StoredRun], first: RewardParams, second: RewardParams, target: Path) -> str:
    """Scores every stored answer with two verifiers and writes on which they disagree; returns the page.

    Raises:
        UserError: if both are the same verifier, or a record cannot be read.
    """
    if first.verifier == second.verifier:
        raise UserError(f"both verifiers are {first.verifier_name}: name two different ones")
    compared = compare_verifiers(runs, first, second)
    page = comparison_page([run.name for run in runs], compared)
    make_folder(target)
    write_json_lines(target / "disagreements.jsonl", [asdict(one) for one in compared.disagreements])
    write_text(target / "report.md", page)
    return page


def comparison_page(runs: Sequence[str], compared: Comparison) -> str:
    """Returns the page: how many answers differ, and the commonest of them with both verdicts and their reasons."""
    names = list(compared.verifiers)
    shown = compared.disagreements[:LISTED]
    rows = [audit_cells(asdict(one)) for one in shown]
    more = len(compared.disagreements) - len(shown)
    versions = ", ".join(f"{name} {version}" for name, version in compared.verifiers.items())
    return "\n\n".join([
        f"# Where {names[0]} and {names[1]} disagree",
        f"Of {compared.answers:,} answers of {', '.join(runs)}, one verifier alone takes {compared.differing:,} for "
        f"right: {len(compared.disagreements):,} different ones. Verifiers: {versions}.",
        *([markdown_table(("Answers", "Gold", "Answer", *names), rows)] if rows else []),
        *([f"disagreements.jsonl holds {more:,} more."] if more else []),
    ]) + "\n"  # fmt: skip
