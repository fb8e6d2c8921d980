"""Compares settings on fresh seeds: accuracies with intervals, differences paired by problem."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdpg.errors import UserError
from sdpg.files import read_json
from sdpg.params import ReportParams
from sdpg.records.schemas import read_evaluations
from sdpg.results.rendering import limits, markdown_table, number, p_text, signed
from sdpg.results.statistics.comparisons import holm
from sdpg.results.statistics.estimates import (
    Difference,
    Interval,
    ProblemCounts,
    accuracy_matrix,
    count_correct,
    mean_interval,
    paired_difference,
    two_way_interval,
)
from sdpg.tuning.retraining import Setting


@dataclass(frozen=True)
class SettingRow:
    """One setting on one problem set, compared with its reference.

    Attributes:
        group, setting, method, benchmark: names of the study, the setting, its method and the problem set.
        mean: accuracy over problems, samples and seeds.
        over_problems: the mean's interval over other problems, for these trained policies.
        over_both: the mean's interval over other seeds and other problems; None for one seed.
        by_seed: the accuracy of each seed.
        gain: setting minus reference, paired by problem, seeds averaged; None for the reference itself.
        gain_by_seed: the gain of each seed alone; None for the reference itself.
        p_holm: the gain's p-value, adjusted for the number of comparisons of the table.
        problems, samples, seeds: the number of problems, of samples per problem, and of seeds.
        diverged: seeds whose training did not stay finite; they are missing here.
    """

    group: str
    setting: str
    method: str
    benchmark: str
    mean: float
    over_problems: Interval
    over_both: Interval | None
    by_seed: list[float]
    gain: Difference | None
    gain_by_seed: list[float] | None
    p_holm: float | None
    problems: int
    samples: int
    seeds: int
    diverged: list[int]


def read_counts(setting: Setting, seed: int) -> dict[tuple[str, bool], ProblemCounts] | None:
    """Returns (set, greedy or not) → counts of one retrained policy; None where its training diverged."""
    folder = setting.evaluation_folder(seed)
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder} does not exist: run the command that trains its settings again")
    if "error" in read_json(folder / "summary.json", "remove it, and run the command that trains its settings again"):
        return None
    columns = ["method", "benchmark", "temperature", "problem_id", "status"]
    table = read_evaluations(folder / "final.parquet", columns)
    return {(name, greedy): counts for (_, name, greedy), counts in count_correct(table, str(folder)).items()}


def compare_settings(
    settings: Sequence[Setting], reference: Setting, seeds: Sequence[int], report: ReportParams
) -> list[SettingRow]:
    """Returns a row per setting and problem set, the reference first; Holm's adjustment is left to :func:`adjusted`."""
    base = {seed: read_counts(reference, seed) for seed in seeds}
    rows = []
    for setting in [reference, *(each for each in settings if each != reference)]:
        counts = {seed: read_counts(setting, seed) for seed in seeds}
        # Both saw the same prompts seed by seed, so only seeds that both have are compared.
        both = [seed for seed in seeds if counts[seed] is not None and base[seed] is not None]
        if not both:
            raise UserError(f"{setting.group}: no seed of {setting.name} and {reference.name} stayed finite, so that "
                            "nothing can be compared; narrow tune.space.train.lr")  # fmt: skip
        for name in setting.sets:
            ours, theirs = (
                accuracy_matrix([side[seed][name, False] for seed in both])  # pyright: ignore[reportOptionalSubscript]
                for side in (counts, base)
            )
            first = counts[both[0]][name, False]  # pyright: ignore[reportOptionalSubscript]
            same = setting == reference
            rows.append(SettingRow(
                setting.group, setting.name, setting.method, name, float(ours.mean()),
                mean_interval(ours.mean(axis=0), report.confidence),
                two_way_interval(ours, report.confidence, report.resamples, report.seed),
                ours.mean(axis=1).tolist(),
                None if same else paired_difference(
                    ours.mean(axis=0), theirs.mean(axis=0), report.confidence, report.resamples, report.seed
                ),
                None if same else (ours - theirs).mean(axis=1).tolist(), None,
                len(first.problems), first.samples, len(both), [seed for seed in seeds if counts[seed] is None],
            ))  # fmt: skip
    return rows


def adjusted(rows: list[SettingRow]) -> list[SettingRow]:
    """Returns the rows with p-values adjusted for all comparisons among them."""
    compared = [row for row in rows if row.gain is not None]
    values = dict(zip(map(id, compared), holm([row.gain.p_value for row in compared if row.gain]), strict=True))
    return [SettingRow(**{**row.__dict__, "p_holm": float(values[id(row)])}) if id(row) in values else row
            for row in rows]  # fmt: skip


HEADER = ["Study", "Setting", "Set", "Accuracy", "95% by problem", "95% by problem and seed", "Each seed",
          "Difference (95%)", "p (Holm)"]  # fmt: skip


def cells(row: SettingRow) -> list[str]:
    """Returns the cells of a row as they are shown."""
    return [
        row.group, row.setting, row.benchmark, number(row.mean), limits(row.over_problems.low, row.over_problems.high),
        limits(row.over_both.low, row.over_both.high) if row.over_both else "one seed",
        " ".join(number(value) for value in row.by_seed), signed(row.gain),
        "–" if row.gain is None or row.p_holm is None else p_text(row.p_holm),
    ]  # fmt: skip


def sizes(rows: Sequence[SettingRow]) -> str:
    """Returns a sentence on how many problems, samples and seeds stand behind a table."""
    named = dict.fromkeys(f"{row.problems} problems ({row.benchmark})" for row in rows)
    seeds = sorted({row.seeds for row in rows})
    lost = {f"{row.group}, {row.setting}: seed {', '.join(map(str, row.diverged))}" for row in rows if row.diverged}
    text = (f"{', '.join(named)}; {', '.join(map(str, sorted({row.samples for row in rows})))} samples a problem; "
            f"{', '.join(map(str, seeds))} seed(s). Differences are to the setting above them, paired by problem, "
            "seeds averaged: their interval is conditional on the trained policies; what another seed does, "
            "each seed's own accuracy shows.")  # fmt: skip
    return text + (f" Did not stay finite: {'; '.join(sorted(lost))}." if lost else "")


def as_markdown(rows: Sequence[SettingRow]) -> str:
    """Returns the table with its sizes as Markdown."""
    return f"{markdown_table(HEADER, map(cells, rows))}\n\n{sizes(rows)}\n"


def as_json(rows: Sequence[SettingRow]) -> list[dict[str, Any]]:
    """Returns the rows as plain dictionaries."""
    plain = []
    for row in rows:
        values = asdict(row)
        for name in ("over_problems", "over_both", "gain"):
            value = getattr(row, name)
            values[name] = value._asdict() if value is not None else None
        plain.append(values)
    return plain
