"""Compares what each study of a comparison was given and used."""

from pathlib import Path
from typing import Any

from sdpg.files import read_json

BUDGET_HEADER = ["Study", "Trials", "Steps a trial", "Rollouts a step", "Steps made", "Of them saved", "Tokens", "Lost"]


def budget_row(folder: Path) -> dict[str, Any]:
    """Returns the budget of a study, read from its study.json."""
    summary = read_json(folder / "study.json", "run `sdpg tune` with this study's name again")
    budget, saved = summary["budget"], summary["steps_saved"]
    return {
        "study": summary["study"], "trials": budget["trials"], "steps": budget["steps"],
        "rollouts": budget["prompts"] * budget["responses"], "made": saved["made"], "saved": saved["share"],
        "tokens": budget["tokens"], "lost": summary["counts"]["lost"], "parameters": len(summary["space"]),
    }  # fmt: skip


def budget_cells(row: dict[str, Any]) -> list[str]:
    """Returns the cells of a row as they are shown."""
    return [row["study"], str(row["trials"]), str(row["steps"]), str(row["rollouts"]), str(row["made"]),
            f"{row['saved']:.0%}", f"{row['tokens']:,}", str(row["lost"])]  # fmt: skip


def equal_words(rows: list[dict[str, Any]]) -> str:
    """Returns a sentence on whether all studies had the same budget, and what differed nevertheless."""
    given = {(row["trials"], row["steps"], row["rollouts"]) for row in rows}
    parameters = ", ".join(f"{row['study']} {row['parameters']}" for row in rows)
    if len(given) > 1:
        return ("Budgets differ: give all studies the same number of trials (sdpg tune-all does), or read the table as "
                f"what each got. Parameters searched: {parameters}.")  # fmt: skip
    trials, steps, rollouts = next(iter(given))
    return (f"Each study was given {trials} trials × {steps} steps × {rollouts} rollouts; pruning and lengths of "
            f"responses made of it what the table says. Parameters searched: {parameters}.")  # fmt: skip
