"""Reports what scoring again found: which verdicts changed, and what that does to the tables."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sdpg.errors import UserError
from sdpg.evaluation.audit import Audit, audit, listed
from sdpg.evaluation.rescoring import FINAL, TRAINING, StoredRun, Tally, rescore
from sdpg.files import replaced_folder, write_json, write_json_lines, write_text
from sdpg.results.rendering import markdown_table, number
from sdpg.results.tables import plus

SHOWN = 20
"""Changes and disagreements that are printed; the files hold all of them."""
SUMMARY = "rescore.json"
"""Name of the file that marks a folder as a result of rescoring, which may be replaced."""

TABLE_HEADER = ("Method", "Benchmark", "Evaluation", "old", "new", "difference", "answers changed", "answers")
STEP_HEADER = ("Run", "Step", "reward, old", "reward, new", "answers changed", "advantages of another sign",
               "gates flipped", "rollouts")  # fmt: skip


def accuracy_rows(tally: Tally) -> list[dict[str, Any]]:
    """Returns per method, benchmark and evaluation the accuracy then and now, runs averaged.

    The evaluations are the last one of training, the larger samples of the final policy, and its greedy answers.
    """
    last: dict[str, int] = {}
    for run, kind, step, *_ in tally.accuracies:
        if kind == TRAINING:
            last[run] = max(step, last.get(run, 0))
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for (run, kind, step, method, benchmark, greedy), counts in tally.accuracies.items():
        if kind == FINAL or step == last[run]:
            what = "Last" if kind == TRAINING else "final, greedy" if greedy else "final"
            groups.setdefault((method, benchmark, what), []).append(counts)
    rows = []
    for (method, benchmark, what), counts in groups.items():
        old, new = (float(np.mean([getattr(each, name) / each.answers for each in counts])) for name in ("old", "new"))
        rows.append({"method": method, "benchmark": benchmark, "evaluation": what, "runs": len(counts), "old": old,
                     "new": new, "difference": new - old, "changed": sum(each.changed for each in counts),
                     "answers": sum(each.answers for each in counts)})  # fmt: skip
    return rows


def step_rows(tally: Tally) -> list[dict[str, Any]]:
    """Returns per run and step the mean reward then and now, and how many advantages and gates differ."""
    rows = []
    for (run, step), rewards in sorted(tally.steps.items()):
        values = asdict(rewards) | {"old": rewards.old / rewards.rollouts, "new": rewards.new / rewards.rollouts}
        rows.append({"run": run, "step": step, **values})
    return rows


def _change_line(row: dict[str, Any]) -> str:
    where = row["benchmark"] or f"group {row['group']}"
    answer = row["extracted_answer"] if row["extracted_answer"] is not None else row["old_extracted_answer"]
    shown = "no answer" if answer is None else repr(answer[:60])
    return (f"{row['run']}, {row['kind']}, step {row['step']}, {where}, {row['problem_id']}, sample {row['sample']}: "
            f"{shown} for {row['gold'][:60]!r}, {row['old_status']} → {row['status']}")  # fmt: skip


def _report(names: Sequence[str], tally: Tally, changes: list[dict[str, Any]], versions: dict[str, str],
            audited: Audit | None) -> str:  # fmt: skip
    answers = tally.statuses.total()
    verifiers = ", ".join(f"{name} {version}" for name, version in versions.items())
    moves = [f"{count:,} {old} → {new}" for (old, new), count in tally.statuses.most_common() if old != new]
    parts = [
        "# Scored again",
        f"{', '.join(names)}: {answers:,} stored answers, verifier {verifiers}. {len(changes):,} changed"
        f"{': ' if moves else ''}{', '.join(moves)}.",
        "## Who changed",
        "\n".join([f"- {_change_line(row)}" for row in changes[:SHOWN]]
                  + ([f"- … and {len(changes) - SHOWN:,} more, all in changes.jsonl"] if len(changes) > SHOWN else []))
        or "Nobody.",
        "## What it does to the table",
    ]  # fmt: skip
    accuracies = accuracy_rows(tally)
    cells = [(row["method"], row["benchmark"], row["evaluation"], number(row["old"]), number(row["new"]),
              plus(row["difference"]), f"{row['changed']:,}", f"{row['answers']:,}") for row in accuracies]  # fmt: skip
    parts.append(markdown_table(TABLE_HEADER, cells) if cells else "There are no evaluations.")
    if steps := step_rows(tally):
        moved = [row for row in steps if row["changed"]]
        sums = {name: sum(row[name] for row in steps) for name in ("changed", "rollouts", "advantages")}
        known = [row["gates"] for row in steps if row["gates"] is not None]
        gates = f"{sum(known):,} gates would flip" if known else "no gate was looked at"
        if len(known) < len(steps):
            gates += " (a gate of a run's own is left out: its code is not run here)"
        parts += [
            "## What it does to training",
            f"{sums['changed']:,} of {sums['rollouts']:,} rollouts changed, in {len(moved):,} of {len(steps):,} steps; "
            f"{sums['advantages']:,} advantages would have another sign, {gates}. Signs are "
            "those of the verifier's reward alone.",
        ]
        if moved:
            parts.append(markdown_table(STEP_HEADER, [
                (row["run"], str(row["step"]), number(row["old"]), number(row["new"]), str(row["changed"]),
                 str(row["advantages"]), "–" if row["gates"] is None else str(row["gates"]), str(row["rollouts"]))
                for row in moved
            ]))  # fmt: skip
    if audited:
        parts += ["## Exact match against math-verify", f"```\n{listed(audited, SHOWN)}\n```"]
    return "\n\n".join(parts) + "\n"


def check_target(target: Path, runs: Sequence[StoredRun]) -> None:
    """Refuses a folder whose replacement would take something away.

    Raises:
        UserError: if it holds anything but an earlier result, or is in or around the folder of a record.
    """
    here = target.resolve()
    for folder in (folder.resolve() for run in runs for folder in run.folders):
        if here == folder or folder in here.parents or here in folder.parents:
            raise UserError(f"{target} lies in or around {folder}, which holds records of a run: choose another --out")
    if target.exists() and not (target / SUMMARY).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists and has no {SUMMARY}, so it is no earlier result: choose another --out")


def write_rescored(runs: Sequence[StoredRun], target: Path, with_audit: bool = False) -> str:
    """Scores runs again and writes verdicts, changes and tables into a folder, all of it or nothing.

    Args:
        runs: the runs, with the new verifier in their parameters.
        target: the folder; an earlier result in it is replaced.
        with_audit: whether exact match and math-verify both verify every pair, to list where they disagree.

    Returns:
        The report, as in ``report.md``.

    Raises:
        UserError: if a run is named twice, a record cannot be read, or the folder may not be replaced.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UserError(f"a run is named twice: {', '.join(names)}")
    check_target(target, runs)
    with replaced_folder(target) as folder:
        tally, changes, versions = rescore(runs, folder, keep_pairs=with_audit)
        audited = audit(runs[0].params, tally.pairs) if with_audit else None
        report = _report(names, tally, changes, versions, audited)
        write_json_lines(folder / "changes.jsonl", changes)
        write_text(folder / "report.md", report)
        if audited:
            both = [*audited.disagreements, *audited.timeouts]
            write_json_lines(folder / "disagreements.jsonl", [asdict(one) for one in both])
        write_json(
            folder / SUMMARY,
            {"runs": names, "verifiers": versions, "answers": tally.statuses.total(), "changed": len(changes),
             "accuracies": accuracy_rows(tally), "steps": step_rows(tally),
             "audit": audited and {
                 "pairs": audited.pairs, "answers": audited.answers, "disagreements": len(audited.disagreements),
                 "timeouts": len(audited.timeouts)}},
        )  # fmt: skip
    return report
