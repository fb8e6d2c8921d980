"""Renders tables as Markdown, CSV and LaTeX: numbers in, strings out."""

from collections.abc import Iterable, Sequence
import csv
import io
import json
from typing import Any

from sdpg.results.claims import DecidedClaim
from sdpg.results.paper import PaperTable
from sdpg.results.runs import Results
from sdpg.results.statistics.estimates import Difference
from sdpg.results.tables import BASELINE, FinalRow, MainRow, plus

MAIN_HEADER = ("Benchmark", "Method", "Last", "interval by problem", "over seeds", "Best on the test set (step)",
               "Selected on validation (step)", "problems × samples × seeds")  # fmt: skip
PAIRED_HEADER = ("Benchmark", "Method − GRPO", "Last, difference", "interval", "p", "p, Holm",
                 "What would tell them apart")  # fmt: skip
CLAIMS_HEADER = ("Claim", "Source", "Verdict", "Numbers", "Why", "Measured as")


def number(value: float | None) -> str:
    """Returns a number with three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def limits(low: float | None, high: float | None) -> str:
    """Returns an interval, or a dash."""
    return "–" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def signed(difference: Difference | None) -> str:
    """Returns a difference with its interval."""
    if difference is None:
        return "–"
    return f"{plus(difference.mean)} ({plus(difference.low)} to {plus(difference.high)})"


def p_text(value: float) -> str:
    """Returns a p-value with three decimals."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _steps(steps: list[int]) -> str:
    """Returns the steps, or one number where all seeds agree."""
    return ", ".join(str(step) for step in (steps if len(set(steps)) > 1 else steps[:1]))


def main_cells(row: MainRow) -> tuple[str, ...]:
    """Returns a main row as shown, in the order of :data:`MAIN_HEADER`.

    The base has one evaluation and nothing to select.
    """
    shown = [row.benchmark_title, row.title, number(row.last), limits(row.ci_low, row.ci_high), row.seed_spread]
    if row.seeds:
        shown += [f"{row.best:.3f} ({_steps(row.best_steps)})", f"{row.selected:.3f} ({_steps(row.selected_steps)})"]
        return (*shown, f"{row.problems} × {row.samples} × {row.seeds}")
    return (*shown, "–", "–", f"{row.problems} × {row.samples}")


def paired_cells(row: MainRow) -> tuple[str, ...] | None:
    """Returns the paired difference to GRPO as shown, or None where there is none."""
    if row.difference is None or row.difference_low is None or row.difference_high is None or row.difference_p is None:
        return None
    interval = f"{plus(row.difference_low)} to {plus(row.difference_high)}"
    adjusted = "–" if row.difference_p_holm is None else p_text(row.difference_p_holm)
    return (row.benchmark_title, row.title, plus(row.difference), interval, p_text(row.difference_p), adjusted,
            row.needed or "too few problems or samples to say")  # fmt: skip


def final_header(rows: Sequence[FinalRow], temperature: float) -> tuple[str, ...]:
    """Returns the header of the table of larger samples; the k of pass@k are those that all rows have."""
    return ("Benchmark", "Policy", f"mean@{min(row.samples for row in rows)} at temperature {temperature:g}",
            *[f"pass@{k}" for k in shared_sizes(rows)], "greedy", "gain over base", "gain over base, greedy",
            "problems × samples × seeds")  # fmt: skip


def shared_sizes(rows: Sequence[FinalRow]) -> list[int]:
    """Returns every k above 1 that all rows have (pass@1 is the mean)."""
    return sorted(k for k in set.intersection(*(set(row.pass_at) for row in rows)) if k > 1)


def final_cells(row: FinalRow, sizes: Sequence[int]) -> tuple[str, ...]:
    """Returns a row of larger samples as shown."""
    greedy = "–" if row.greedy is None else f"{row.greedy:.3f} ({limits(row.greedy_low, row.greedy_high)})"
    seeds = f" × {row.seeds}" if row.seeds else ""
    return (row.benchmark_title, row.title, f"{row.mean:.3f} ({limits(row.mean_low, row.mean_high)})",
            *[number(row.pass_at[k].mean) for k in sizes], greedy, signed(row.gain), signed(row.greedy_gain),
            f"{row.problems} × {row.samples}{seeds}")  # fmt: skip


def paper_header(table: PaperTable) -> tuple[str, ...]:
    """Returns the header of a table of the paper."""
    return ("Method", *[f"{benchmark} {kind}" for benchmark in table.benchmarks for kind in ("Last", "Best")])


def paper_cells(table: PaperTable) -> list[tuple[str, ...]]:
    """Returns the rows of a table of the paper."""
    return [(method, *[number(value) for pair in pairs for value in pair]) for method, pairs in table.rows.items()]


def claim_cells(claim: DecidedClaim) -> tuple[str, ...]:
    """Returns a claim as shown."""
    return claim.text, claim.source, claim.verdict, claim.numbers, claim.why, claim.measurement


def final_note() -> str:
    """Returns a note on what the columns of the table of larger samples mean."""
    return ("Another evaluation, of the policy after the last step. mean@k and greedy with their intervals by problem; "
            "pass@k is the unbiased estimate; gains over the base are paired by problem. The base as teacher is shown "
            "the hint: a ceiling, not a competitor.")  # fmt: skip


def notes(results: Results) -> list[str]:
    """Returns notes on what the columns mean; they are shown under the main table."""
    report, evaluation = results.params.report, results.params.evaluation
    baseline = results.params.methods.get(BASELINE)
    lines = [
        f"Accuracy at temperature {evaluation.temperature:g} in the evaluations during training. Last: the last of "
        "them. Best: the maximum of the same series, selected on the test set, so it flatters. Selected: the step "
        "with the highest validation accuracy, the earliest of equals. The series begins with the base at step 0. "
        "Means over seeds; in brackets the step, for each seed where they differ.",
        f"Interval by problem: {report.confidence:.0%}, for Last, conditional on the trained policies: seeds and "
        "samples are averaged for each problem; score limits with the number of problems that their variance is worth "
        "(docs/statistics.md has their coverage). It says nothing about another training seed.",
        "Over seeds: t interval of Last from three seeds up.",
    ]
    if BASELINE in results.runs:
        title = baseline.title if baseline else "GRPO"
        lines.append(f"Difference to {title}: of Last, paired by problem; p from sign-flip permutations, and adjusted "
                     "by Holm's method for all comparisons of the table.")  # fmt: skip
    else:
        lines.append("GRPO was not run, so that there is no difference to it.")
    return lines


def escape_markdown(text: str) -> str:
    """Returns text escaped so that Markdown shows it as it stands, also within a table."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; its cells are escaped."""
    lines = ["| " + " | ".join(escape_markdown(cell) for cell in cells) + " |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def csv_table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns a CSV with one column per key.

    Evidence has columns of its own, other containers become JSON, and null is empty.
    """
    rows = [
        {key: value for key, value in row.items() if key != "evidence"}
        | {f"evidence_{key}": value for key, value in row.get("evidence", {}).items()}
        for row in rows
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: json.dumps(value) if isinstance(value, list | dict) else value
                         for key, value in row.items()})  # fmt: skip
    return out.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "α": r"$\alpha$", "β": r"$\beta$", "λ": r"$\lambda$", "×": r"$\times$", "−": "$-$", "–": "--",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Returns text escaped so that LaTeX sets it as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex_table(results: Results, rows: Sequence[MainRow]) -> str:
    """Returns the main table in the paper's form: a row per method, Last with its interval and Best per benchmark."""
    benchmarks = results.benchmarks
    by_method: dict[str, list[MainRow]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    spanning = [rf"\multicolumn{{3}}{{c}}{{{escape_latex(title)}}}" for title in benchmarks.values()]
    lines = [
        r"% needs \usepackage{booktabs}",
        *[f"% {escape_latex(note)}" for note in notes(results)],
        r"\begin{tabular}{l" + "lll" * len(benchmarks) + "}",
        r"\toprule",
        " & ".join(["", *spanning]) + r" \\",
        " & ".join(["Method", *["Last & interval & Best*"] * len(benchmarks)]) + r" \\",
        r"\midrule",
    ]
    for method_rows in by_method.values():
        cells = [escape_latex(method_rows[0].title)]
        for row in method_rows:
            best = number(row.best) if row.seeds else "–"
            cells += [number(row.last), escape_latex(limits(row.ci_low, row.ci_high)), escape_latex(best)]
        lines.append(" & ".join(cells) + r" \\")
    note = rf"\multicolumn{{{1 + 3 * len(benchmarks)}}}{{l}}{{\footnotesize * selected on the test set}} \\"
    return "\n".join([*lines, r"\bottomrule", note, r"\end{tabular}"]) + "\n"
