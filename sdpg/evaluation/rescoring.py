"""Scores stored rollouts and evaluations again, without a model: what another verifier says of the same completions.

The module imports no torch. A run is never written to: everything goes to a folder of its own.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError
from tqdm import tqdm

from sdpg import paths
from sdpg.errors import UserError
from sdpg.objective.coefficients import gate_kind, gate_name, known_gate
from sdpg.objective.gates import GATES, Gate, RowCredit
from sdpg.params import PARAMS_FILE, Imported, RewardParams, load_params, read_yaml
from sdpg.params.section import without_unknown
from sdpg.params.stored import method_of
from sdpg.records.manifest import check_folder
from sdpg.records.schemas import BASE, read_evaluations, read_rollouts
from sdpg.rewards.own import make_verifier
from sdpg.rewards.verifiers import Scorer, Verdict
from sdpg.rewards.worker_pool import Pair

ROLLOUTS, TRAINING, FINAL = "rollouts", "training", "final"
"""Kinds of stored files: training's rollouts, its evaluations, and the larger samples of the final policy."""

ROLLOUT_COLUMNS = ["run", "method", "seed", "step", "problem_id", "group", "sibling", "completion", "status", "reward",
                   "extracted_answer", "gold", "truncated"]  # fmt: skip
EVALUATION_COLUMNS = ["run", "method", "seed", "step", "benchmark", "problem_id", "sample", "completion", "status",
                      "reward", "extracted_answer", "gold", "truncated", "temperature"]  # fmt: skip

VERDICT_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("step", pa.int64()),
        ("benchmark", pa.string()),
        ("problem_id", pa.string()),
        ("group", pa.int64()),
        ("sample", pa.int64()),
        ("temperature", pa.float64()),
        ("gold", pa.string()),
        ("old_status", pa.string()),
        ("old_reward", pa.float64()),
        ("old_extracted_answer", pa.string()),
        ("status", pa.string()),
        ("reward", pa.float64()),
        ("extracted_answer", pa.string()),
        ("reason", pa.string()),
        ("verifier", pa.string()),
        ("verifier_version", pa.string()),
    ]
)
"""One row per stored answer. Rollouts have a group and no benchmark and temperature; ``sample`` is their sibling."""


@dataclass(frozen=True)
class StoredRun:
    """A run's folder, its files to score, and how they were scored."""

    name: str
    files: dict[Path, str]
    """File → what it holds."""
    folders: tuple[Path, ...]
    """The folders of the run's outputs."""
    params: RewardParams
    gate: Gate | None
    """The gate that the run was made with; None for one of a user's own, whose code is not run here."""


@dataclass
class Accuracy:
    """Counts of one evaluation on one benchmark: answers, right ones then and now, and changed ones."""

    answers: int = 0
    old: int = 0
    new: int = 0
    changed: int = 0


@dataclass
class StepRewards:
    """Sums over the rollouts of one step: rewards then and now, and the number of signs that differ."""

    rollouts: int = 0
    old: float = 0.0
    new: float = 0.0
    changed: int = 0
    advantages: int = 0
    """Advantages whose sign (above, below or exactly 0) differs."""
    gates: int | None = 0
    """Gates that would flip; None where the gate is the run's own, whose code is not run."""


@dataclass
class Tally:
    """Counts over the files of all runs."""

    accuracies: dict[tuple[str, str, int, str, str, bool], Accuracy] = field(default_factory=dict)
    """(run, kind, step, method, benchmark, greedy or not) → counts."""
    steps: dict[tuple[str, int], StepRewards] = field(default_factory=dict)
    """(run, step) → sums over the step's rollouts."""
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(old status, new status) → answers."""
    pairs: Counter[Pair] = field(default_factory=Counter)
    """(gold, extracted answer) → answers; filled where an audit needs it."""


def find_run(name: str, overrides: dict[str, Any], root: Path) -> StoredRun:
    """Returns the stored answers of a run, and its reward section with some values replaced.

    Args:
        name: the name of a folder in runs/, the path of such a folder, or ``base``.
        overrides: fields of the reward section.
        root: the project's folder.

    Raises:
        UserError: if there is no such run, it holds no records, it was altered, or its configuration cannot be read.
    """
    if name == BASE:
        sampled = root / paths.BASE_EVALUATIONS / "sampled.parquet"
        if not sampled.exists():
            raise UserError(f"{sampled} does not exist: run the stage base (dvc repro base)")
        check_folder(sampled.parent)
        params = _reward_params(None, overrides, root)
        return StoredRun(BASE, {sampled: FINAL}, (sampled.parent,), params, GATES["positive"])
    folder = root / "runs" / name
    if not folder.is_dir():
        folder = Path(name).resolve()
    if not folder.is_dir():
        there = sorted(path.name for path in (root / "runs").glob("*") if path.is_dir())
        raise UserError(f"{name!r} is neither a run nor a folder; runs/ has: {', '.join(there) or 'none'}")
    final = folder.parent.parent / "evaluations" / folder.name / "final.parquet"
    files = dict.fromkeys(sorted(folder.glob("rollouts/*.parquet")), ROLLOUTS)
    files |= dict.fromkeys(sorted(folder.glob("evaluations/*.parquet")), TRAINING)
    files |= {final: FINAL} if final.exists() else {}
    if not files:
        raise UserError(f"{folder} holds no rollouts/*.parquet and no evaluations/*.parquet: name a run's folder")
    check_folder(folder, "config.yaml", "rollouts/*", "evaluations/*")
    if final.exists():
        check_folder(final.parent)
    config = read_yaml(folder / "config.yaml") if (folder / "config.yaml").exists() else {}
    tree = config.get("params", {})
    params = _reward_params(tree.get("reward"), overrides, root)
    method = method_of(tree, str(config.get("method")))
    if isinstance(gate_kind(method), Imported):
        return StoredRun(folder.name, files, (folder, final.parent), params, None)
    if (gate := known_gate(method)) is None:
        raise UserError(
            f"{folder / 'config.yaml'} has the gate {gate_name(method)!r}, which this version does not know "
            f"({', '.join(GATES)}): rescore with the version that made the run"
        )
    return StoredRun(folder.name, files, (folder, final.parent), params, gate)


def _reward_params(section: dict[str, Any] | None, overrides: dict[str, Any], root: Path) -> RewardParams:
    if section is None:
        params = load_params(root / PARAMS_FILE).reward if (root / PARAMS_FILE).exists() else RewardParams()
        section = params.model_dump()
    try:
        # Of another version of this code, the run may say more than there is to say now.
        return RewardParams(**without_unknown(RewardParams, section)).override(overrides)
    except ValidationError as error:
        raise UserError(f"the reward section that the run was made with is not valid any more: {error}") from None


def rescore(
    runs: Sequence[StoredRun], folder: Path, keep_pairs: bool = False
) -> tuple[Tally, list[dict[str, Any]], dict[str, str]]:
    """Scores every stored answer again and writes one Parquet file of verdicts per file of records.

    Args:
        runs: the runs, with the new verifier in their parameters.
        folder: the folder that gets ``verdicts/<run>/…``.
        keep_pairs: whether ``pairs`` of the tally is filled, for an audit.

    Returns:
        The tally, the rows whose status changed (of :data:`VERDICT_SCHEMA`, with ``kind``), and verifier → version.
    """
    tally, changes, versions = Tally(), [], {}
    total = sum(len(run.files) for run in runs)
    with tqdm(total=total, desc="rescore", unit="file", delay=5, leave=False) as bar:
        for run in runs:
            with make_verifier(run.params) as verifier:
                versions[verifier.name] = verifier.version
                for path, kind in run.files.items():
                    rows = _scored(path, kind, verifier)
                    target = folder / "verdicts" / run.name / f"{kind}-{path.name}"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(pa.Table.from_pylist(rows, schema=VERDICT_SCHEMA), target, compression="zstd")
                    _count(tally, run, kind, rows)
                    if keep_pairs:
                        tally.pairs.update(
                            (row["gold"], row["extracted_answer"]) for row in rows if row["extracted_answer"]
                        )
                    changes += [{"kind": kind, **row} for row in rows if row["status"] != row["old_status"]]
                    bar.update()
    return tally, changes, versions


def stored_rows(path: Path, kind: str) -> list[dict[str, Any]]:
    """Returns the rows of a file of rollouts or of an evaluation, without the values per token."""
    if kind == ROLLOUTS:
        return read_rollouts(path, ROLLOUT_COLUMNS).to_pylist()
    return read_evaluations(path, EVALUATION_COLUMNS).to_pylist()


def _scored(path: Path, kind: str, verifier: Scorer) -> list[dict[str, Any]]:
    stored = stored_rows(path, kind)
    verdicts = verifier.score(
        [row["completion"] for row in stored], [row["gold"] for row in stored],
        [bool(row["truncated"]) for row in stored],  # of old records null: not known, so judged by the text alone
    )  # fmt: skip
    return [_verdict_row(row, verdict, verifier) for row, verdict in zip(stored, verdicts, strict=True)]


def _verdict_row(row: dict[str, Any], verdict: Verdict, verifier: Scorer) -> dict[str, Any]:
    kept = {name: row.get(name) for name in VERDICT_SCHEMA.names}
    return kept | {
        "sample": row["sibling"] if "sibling" in row else row["sample"],
        "old_status": row["status"],
        "old_reward": row["reward"],
        "old_extracted_answer": row["extracted_answer"],
        "status": str(verdict.status),
        "reason": verdict.reason or None,
        "reward": verdict.reward,
        "extracted_answer": verdict.extracted_answer,
        "verifier": verifier.name,
        "verifier_version": verifier.version,
    }


def _count(tally: Tally, run: StoredRun, kind: str, rows: list[dict[str, Any]]) -> None:
    tally.statuses.update((row["old_status"], row["status"]) for row in rows)
    if kind == ROLLOUTS:
        shares = _accuracies(rows)
        for row, (old, new) in zip(rows, advantage_signs(rows), strict=True):
            step = tally.steps.setdefault((run.name, row["step"]), StepRewards())
            step.rollouts += 1
            step.old += row["old_reward"]
            step.new += row["reward"]
            step.changed += row["status"] != row["old_status"]
            step.advantages += old != new
            if run.gate is None:
                step.gates = None
            elif step.gates is not None:
                old_share, new_share = shares[row["group"]]
                before = RowCredit(old, row["old_reward"], row["old_status"] == "correct", old_share)
                after = RowCredit(new, row["reward"], row["status"] == "correct", new_share)
                step.gates += (run.gate.row(before) > 0) != (run.gate.row(after) > 0)
        return
    for row in rows:
        key = (run.name, kind, row["step"], row["method"], row["benchmark"], row["temperature"] == 0)
        accuracy = tally.accuracies.setdefault(key, Accuracy())
        accuracy.answers += 1
        accuracy.old += row["old_status"] == "correct"
        accuracy.new += row["status"] == "correct"
        accuracy.changed += row["status"] != row["old_status"]


def _accuracies(rows: Sequence[dict[str, Any]]) -> dict[Any, tuple[float, float]]:
    """Returns the share of right answers of each group, by stored and by new verdicts."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return {
        group: (
            sum(row["old_status"] == "correct" for row in members) / len(members),
            sum(row["status"] == "correct" for row in members) / len(members),
        )
        for group, members in groups.items()
    }


def advantage_signs(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Yields the sign of each rollout's advantage by stored and by new verdicts of its group, without a penalty.

    A right answer is above the mean of its group and a wrong one below, unless the group is uniform.
    """
    sizes, old, new = Counter(), Counter(), Counter()
    for row in rows:
        sizes[row["group"]] += 1
        old[row["group"]] += row["old_status"] == "correct"
        new[row["group"]] += row["status"] == "correct"

    def sign(right: bool, solved: int, size: int) -> int:
        if solved in (0, size):
            return 0
        return 1 if right else -1

    for row in rows:
        group = row["group"]
        yield (
            sign(row["old_status"] == "correct", old[group], sizes[group]),
            sign(row["status"] == "correct", new[group], sizes[group]),
        )
