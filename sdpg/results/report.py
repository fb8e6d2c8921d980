"""Writes `reports/`: tables, claims, choices, figures, and one HTML page that holds them all."""

from base64 import b64encode
from dataclasses import asdict, dataclass
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdpg.files import read_json, replaced_file, replaced_folder, write_json, write_text
from sdpg.objective.choices import choices_markdown, resolve
from sdpg.params import Params
from sdpg.records.manifest import NAME, check_folder, note_folder
from sdpg.results import dvc_files, rendering, sections
from sdpg.results.claims import DecidedClaim, OneBase, decide_claims
from sdpg.results.figures import PAPER_FIGURES, curves, figure_methods, in_dark
from sdpg.results.paper import TABLES
from sdpg.results.problem_figures import heatmap, pass_curves
from sdpg.results.runs import Results, read_results
from sdpg.results.tables import FinalRow, MainRow, final_json, final_rows, greedy_headline, main_json, main_rows

TEMPLATES = Path(__file__).parent / "templates"
FIGURES = "figures"
"""Folder of the figures except the curves; which figures there are depends on the methods that were run."""


def _commits(results: Results) -> list[str]:
    commits = []
    for runs in results.runs.values():
        for run in runs:
            git = run.config.get("git") or {}
            commit = str(git.get("commit") or "unknown")[:12]
            commit += " with uncommitted changes" if git.get("dirty") else ""
            if commit not in commits:
                commits.append(commit)
    return commits


def what_was_run(results: Results) -> str:
    """Returns a sentence on commit, profile, preset, methods, steps, problems, samples and seeds."""
    params = results.params
    run = next(iter(results.runs.values()))[0]
    final = {title: run.final[name, False].counts for name, title in results.benchmarks.items()}
    samples = sorted({counts.samples for counts in final.values()})
    in_training = sorted({results.last(run.method, name)[0].samples for name in results.benchmarks})
    listed = ", ".join(f"{len(counts.problems)} ({title})" for title, counts in final.items())
    return (f"Commit {' and '.join(_commits(results))}; profile {params.profile}, preset {params.preset}; "
            f"model {params.base.name}; "
            f"methods: {' · '.join(results.title(method) for method in results.runs)}; {run.last_step} steps; "
            f"seed{'s' if len(params.run.seeds) > 1 else ''} {', '.join(map(str, params.run.seeds))}; problems: "
            f"{listed}; samples per problem: {', '.join(map(str, in_training))} in training, "
            f"{', '.join(map(str, samples))} of the final policy.")  # fmt: skip


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in _flat(part, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list) else str(value))]


def _provenance(results: Results) -> list[dict[str, Any]]:
    """Returns what each run's config.yaml records, without parameters, which choices.md and params.yaml show."""
    left_out = ("params", "method", "seed", "diff")
    return [
        {"name": run.folder.name,
         "entries": _flat({key: value for key, value in run.config.items() if key not in left_out})}
        for runs in results.runs.values() for run in runs
    ]  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """All contents of a report, computed before the first file is written."""

    results: Results
    headline: str
    main: list[MainRow]
    final: list[FinalRow]
    claims: list[DecidedClaim]
    contamination: list[tuple[str, ...]]
    watch: list[tuple[tuple[str, ...], list[str]]]
    matched: list[tuple[str, ...]]
    audits: list[tuple[str, ...]]


def _contents(params: Params, root: Path) -> Contents:
    results = read_results(params, root)
    final = final_rows(results)
    return Contents(
        results, greedy_headline(final, params.report.confidence), main_rows(results), final,
        decide_claims(OneBase(results)),
        sections.contamination(results, root), sections.watch_rows(results),
        sections.matched_rows(results), sections.audit_rows(root),
    )  # fmt: skip


def _evidence_markdown(rows: list[MainRow] | list[FinalRow]) -> str:
    table = sections.evidence_table(rows)
    return rendering.markdown_table(
        ("Benchmark", *table.header), [(row.benchmark_title, *cells) for row, cells in table.rows]
    )


def _markdown(contents: Contents) -> str:
    results, headline, main, final = contents.results, contents.headline, contents.main, contents.final
    sizes = rendering.shared_sizes(final)
    paired = [cells for row in main if (cells := rendering.paired_cells(row))]
    parts = [
        "# Results", rendering.escape_markdown(headline), rendering.escape_markdown(what_was_run(results)),
        "## Last, Best and Selected", rendering.markdown_table(rendering.MAIN_HEADER, map(rendering.main_cells, main)),
        "\n".join(f"- {rendering.escape_markdown(note)}" for note in rendering.notes(results)),
    ]  # fmt: skip
    if paired:
        parts += ["## Difference to GRPO", rendering.markdown_table(rendering.PAIRED_HEADER, paired)]
    parts += [
        "## Final policy, larger samples",
        rendering.final_note(),
        rendering.markdown_table(
            rendering.final_header(final, results.params.evaluation.temperature),
            [rendering.final_cells(row, sizes) for row in final],
        ),
        "## What stands behind these accuracies",
        "Last:",
        _evidence_markdown(main),
        "Final policy, larger samples:",
        _evidence_markdown(final),
        "## The paper's claims on these runs",
        "Intervals are conditional on the trained policies: they do not say what another training seed would give. "
        "They are not corrected for their number.",
        "Where the paper names a step of its 400, the same fraction of our run is meant.",
        rendering.markdown_table(rendering.CLAIMS_HEADER, map(rendering.claim_cells, contents.claims)),
        "## Leakage and collapse",
        rendering.markdown_table(sections.WATCH_HEADER, [cells for cells, _ in contents.watch]),
        "\n".join(
            f"- {rendering.escape_markdown(f'{cells[0]}: {word}')}" for cells, words in contents.watch for word in words
        ),
        "## Matched baselines",
        rendering.markdown_table(sections.MATCHED_HEADER, contents.matched),
        "## Contamination",
        rendering.markdown_table(sections.CONTAMINATION_HEADER, contents.contamination),
    ]
    if contents.audits:
        parts += ["## Where verifiers disagree", rendering.markdown_table(sections.AUDIT_HEADER, contents.audits)]
    parts.append("## What the paper reports")
    for table in TABLES:
        cells = rendering.markdown_table(rendering.paper_header(table), rendering.paper_cells(table))
        parts += [f"{table.label}.", cells]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(results: Results) -> dict[str, bytes]:
    """Returns file name → SVG: all curves, the paper's figures, and the figures by problem."""
    found = {"curves": curves(results, "svg")}
    for number in PAPER_FIGURES:
        if methods := figure_methods(results, number):
            same = methods == list(results.runs)
            found[f"figure-{number}"] = found["curves"] if same else curves(results, "svg", methods)
    return found | {"problems": heatmap(results, "svg"), "pass": pass_curves(results, "svg")}


def _picture(svg: bytes) -> tuple[str, str]:
    """Returns a figure as data addresses, light and dark."""
    light, dark = ("data:image/svg+xml;base64," + b64encode(each).decode() for each in (svg, in_dark(svg)))
    return light, dark


def _paper_figures(results: Results, pictures: dict[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Returns the paper's figures with those of their methods that were run."""
    return [
        {
            "number": number,
            "picture": pictures.get(f"figure-{number}"),
            "shown": ", ".join(results.title(method) for method in methods if method in results.runs),
            "missing": ", ".join(
                results.params.methods[method].title if method in results.params.methods else method
                for method in methods if method not in results.runs
            ),
        }
        for number, methods in PAPER_FIGURES.items()
    ]  # fmt: skip


def _html(contents: Contents, figures: dict[str, bytes]) -> str:
    results, final = contents.results, contents.final
    sizes = rendering.shared_sizes(final)
    pictures = {name: _picture(svg) for name, svg in figures.items()}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    template = environment.get_template("report.html.j2")
    return template.render(
        headline=contents.headline,
        run=what_was_run(results),
        main_header=rendering.MAIN_HEADER[1:],
        main=[(row, rendering.main_cells(row)[1:]) for row in contents.main],
        notes=rendering.notes(results),
        paired_header=rendering.PAIRED_HEADER,
        paired=[(row, cells[1:]) for row in contents.main if (cells := rendering.paired_cells(row))],
        final_note=rendering.final_note(),
        final_header=rendering.final_header(final, results.params.evaluation.temperature)[1:],
        final=[(row, rendering.final_cells(row, sizes)[1:]) for row in final],
        evidence=[
            ("Last", sections.evidence_table(contents.main)),
            ("Final policy, larger samples", sections.evidence_table(final)),
        ],
        pictures=pictures,
        paper_figures=_paper_figures(results, pictures),
        claims=contents.claims,
        watch_header=sections.WATCH_HEADER,
        watch=contents.watch,
        matched_header=sections.MATCHED_HEADER,
        matched=contents.matched,
        contamination_header=sections.CONTAMINATION_HEADER,
        contamination=contents.contamination,
        audit_header=sections.AUDIT_HEADER,
        audits=contents.audits,
        paper=[(table, rendering.paper_header(table), rendering.paper_cells(table)) for table in TABLES],
        choices=resolve(results.params),
        provenance=_provenance(results),
        params=results.params,
    )


def _write_bytes(path: Path, content: bytes) -> None:
    with replaced_file(path) as temporary:
        temporary.write_bytes(content)


def write_reports(params: Params, root: Path = Path()) -> list[Path]:
    """Writes `reports/` under the project folder ``root`` for ``run.methods`` × ``run.seeds``; returns the paths.

    All numbers are computed before the first file is written, so that a missing run leaves earlier reports untouched.

    Raises:
        UserError: if a run or an evaluation is missing, unfinished or damaged; it names the folder and the stage.
    """
    contents = _contents(params, root)
    figures = _figures(contents.results)
    images = {"curves.svg": figures["curves"], "curves.png": curves(contents.results, "png")}
    others = {f"{name}.svg": svg for name, svg in figures.items() if name != "curves"}
    texts = {
        "table.md": _markdown(contents),
        "table.csv": rendering.csv_table(main_json(contents.main)),
        "table.tex": rendering.latex_table(contents.results, contents.main),
        "choices.md": choices_markdown(params),
        "report.html": _html(contents, figures),
    }
    values = {
        "table.json": main_json(contents.main),
        "final.json": final_json(contents.final),
        "claims.json": [asdict(claim) for claim in contents.claims],
    }
    folders: dict[str, dict[str, bytes]] = {
        FIGURES: others,
        dvc_files.PLOTS: {name: text.encode() for name, text in dvc_files.plot_tables(contents.results, root).items()},
        dvc_files.METRICS: {
            name: json.dumps(values, indent=2).encode()
            for name, values in dvc_files.metric_files(contents.main).items()
        },
    }
    folder = root / "reports"
    # Killed between two files, reports have no manifest rather than one that is not theirs.
    (folder / NAME).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, content in images.items():
        _write_bytes(folder / name, content)
    for below, files in folders.items():
        with replaced_folder(folder / below) as temporary:
            for name, content in files.items():
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(content)
    for name, value in values.items():
        write_json(folder / name, value)
    names = [*texts, *images, *values, *(f"{below}/{name}" for below, files in folders.items() for name in files)]
    note_folder(folder, folder.name, names=names)
    return [folder / name for name in names]


def print_table(root: Path = Path(), console: Console | None = None) -> None:
    """Prints the first lines of the report and the main table, read from `reports/`."""
    console = console or Console()
    folder = root / "reports"
    check_folder(folder, "table.json", "table.md")
    rows = [MainRow(**row) for row in read_json(folder / "table.json", "run dvc repro tabulate")]
    sizes = sorted({rendering.main_cells(row)[-1] for row in rows if row.seeds})
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=f"{rendering.MAIN_HEADER[-1]}: {', '.join(sizes)}")
    for at, name in enumerate(rendering.MAIN_HEADER[1:-1]):
        table.add_column(name, justify="right" if at else "left", min_width=(11, 5, 11, 11, 10, 10)[at])
    for at, row in enumerate(rows):
        if at == 0 or rows[at - 1].benchmark != row.benchmark:
            table.add_section()
            table.add_row(Text(row.benchmark_title, style="bold"))
        # The lines are Text, so that a title's [brackets] are no markup.
        table.add_row(*[Text(cell) for cell in rendering.main_cells(row)[1:-1]])
    for paragraph in (folder / "table.md").read_text(encoding="utf-8").split("\n\n")[1:3]:
        console.print(Text(paragraph))
    console.print(table)
