"""Makes the parts of the report beside the tables: evidence, contamination, watch, matched baselines."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from sdpg import paths
from sdpg.errors import UserError
from sdpg.files import read_json_lines
from sdpg.records.watch import ALARMS, watch_summary
from sdpg.results.matched import Comparison, matched_to_baseline
from sdpg.results.rendering import limits, number
from sdpg.results.runs import Results
from sdpg.results.statistics.estimates import Interval
from sdpg.results.statistics.evidence import Evidence
from sdpg.results.tables import FinalRow, MainRow

PREPARED = Path("data/prepare.json")
STATUSES = {
    "correct": "correct", "wrong": "wrong", "no_answer": "no answer", "truncated": "cut, no answer",
    "timeout": "time-out",
}  # fmt: skip
"""Statuses in the order of the columns; others that occur follow."""
CONTAMINATION_HEADER = (
    "Benchmark", "problems that stand in the training source", "left in the training set", "in validation",
    "problems that share an n-gram with training", "training problems that share one",
)  # fmt: skip
WATCH_HEADER = ("Run", *ALARMS, "mentions of a hint, largest share", "copied solutions, largest share")
AUDIT_HEADER = ("Verifiers", "Answers", "Gold", "Answer", "The first says", "The second says")
AUDITS = paths.REPORTS / "audit"
"""The folder of what ``sdpg audit`` writes, a folder for each pair of verifiers."""
AUDITED = 5
"""Disagreements of each pair that the report shows."""
LONGEST_CELL = 60
MATCHED_HEADER = ("Run", "against", "matched", "differs in what is compared", "differs elsewhere")


@dataclass(frozen=True)
class EvidenceTable:
    """The evidence behind the accuracies of one kind of evaluation."""

    header: tuple[str, ...]
    rows: list[tuple[Any, tuple[str, ...]]]
    """Pairs of the table's row and its cells without the benchmark."""


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _joint(interval: Interval | None) -> str:
    return "–" if interval is None else limits(interval.low, interval.high)


def _percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share:.1%}" if share else "0"


def statuses_of(rows: Iterable[Evidence]) -> list[str]:
    """Returns the statuses that occur, those of :data:`STATUSES` first."""
    found = {status for evidence in rows for status in evidence.statuses}
    return [status for status in STATUSES if status in found] + sorted(found - STATUSES.keys())


def evidence_table(rows: Sequence[MainRow] | Sequence[FinalRow]) -> EvidenceTable:
    """Returns standard errors, joint intervals, votes, lengths and statuses; of Last or of the larger samples."""
    statuses = statuses_of(row.evidence for row in rows)
    header = (
        "Policy", "accuracy", "s.e. over problems", "s.e. of sampling", "interval over problems and seeds", "maj@n",
        "mean tokens", "cut at the limit", *[STATUSES.get(status, status) for status in statuses],
    )  # fmt: skip
    table_rows = []
    for row in rows:
        evidence = row.evidence
        mean = row.last if isinstance(row, MainRow) else row.mean
        cells = (
            row.title, number(mean), _error(evidence.error_problems), _error(evidence.error_samples),
            _joint(evidence.joint), f"{evidence.majority:.3f} (n = {evidence.majority_of})", f"{evidence.length:.1f}",
            _percent(evidence.truncated), *[_percent(evidence.statuses.get(status, 0.0)) for status in statuses],
        )  # fmt: skip
        table_rows.append((row, cells))
    return EvidenceTable(header, table_rows)


def contamination(results: Results, root: Path) -> list[tuple[str, ...]]:
    """Returns what the benchmarks and the training problems have in common, as the prepare stage counted it.

    Raises:
        UserError: if data/prepare.json is missing or damaged.
    """
    path = root / PREPARED
    try:
        overlap = json.loads(path.read_text(encoding="utf-8"))["overlap"]
        return [
            (title, *(str(overlap[name][key]) for key in
                      ("exact_in_source", "exact", "exact_validation", "ngram_problems", "ngram_train")))
            for name, title in results.benchmarks.items()
        ]  # fmt: skip
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run the stage prepare (dvc repro prepare)") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or older than the benchmarks ({error}): run the stage prepare") from None


def watch_rows(results: Results) -> list[tuple[tuple[str, ...], list[str]]]:
    """Returns per run its alarms and leak shares, and in words which alarms were raised."""
    rows = []
    for runs in results.runs.values():
        for run in runs:
            summary = watch_summary(run.metrics, results.params.watch)
            alarms = [
                "off" if state is None else "–" if state.first_step is None else f"from step {state.first_step}"
                for state in (summary.alarms[alarm] for alarm in ALARMS)
            ]
            leaks = ["not measured" if share is None else _percent(share.max) for share in summary.leaks.values()]
            words = [f"{alarm}: {state.reason}. {state.remedy}." for alarm, state in summary.ringing.items()]
            rows.append(((run.folder.name, *alarms, *leaks), words))
    return rows


def _paths(comparison: Comparison, rest: bool) -> str:
    differences = comparison.rest if rest else comparison.compared
    return ", ".join(difference.path for difference in differences) or "–"


def matched_rows(results: Results) -> list[tuple[str, ...]]:
    """Returns per run whether it differs from the baseline of its seed only in what is compared."""
    return [
        (pair.b, pair.a, "yes" if pair.matched else "NO", _paths(pair, rest=False), _paths(pair, rest=True))
        for pair in matched_to_baseline(results)
    ]


def audit_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns how often a disagreement occurs, gold and answer, and what either verifier says of it."""
    said = [
        f"{opinion['status']} ({opinion['reason']})" if opinion["reason"] else str(opinion["status"])
        for opinion in (one["first"], one["second"])
    ]
    return f"{one['count']:,}", _cut(one["gold"]), _cut(one["first"]["answer"] or "–"), *said


def audit_rows(root: Path) -> list[tuple[str, ...]]:
    """Returns the commonest disagreements of every pair of verifiers that ``sdpg audit`` has compared.

    Raises:
        UserError: if a file of them is damaged.
    """
    rows: list[tuple[str, ...]] = []
    for path in sorted((root / AUDITS).glob("*/disagreements.jsonl")):
        found, verifiers = read_json_lines(path), path.parent.name.replace("-against-", " and ")
        try:
            cells = [audit_cells(one) for one in found[:AUDITED]]
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}): run sdpg audit again, or remove {path.parent}") from None
        rows += [(verifiers, *each) for each in cells or [("0", "–", "–", "–", "–")]]
    return rows


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
