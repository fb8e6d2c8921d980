"""Makes recorded runs again in a clean clone of their commit, and says whether the same results come out."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

from sdpg import paths
from sdpg.errors import RESUME, UserError
from sdpg.params import Params, parse_params
from sdpg.records.manifest import check_folder
from sdpg.records.provenance import fingerprint, hash_files
from sdpg.reproduction.cells import VERDICTS, Cell, compare_tables
from sdpg.reproduction.divergence import differing_files, environment_differences, first_differences, first_row
from sdpg.reproduction.rebuild import read_run_config, rebuild, recorded_params
from sdpg.results.runs import read_results

WORK = paths.STATE / "verify"
"""The folder of the clones; one that a kill left behind is gone on with, as its stages are."""
TABLES = ("table.json", "final.json", "claims.json")
_SHOWN = 12


@dataclass(frozen=True)
class Recorded:
    """A finished run that is to be made again.

    Attributes:
        folder: its folder.
        root: the project that it lies in, with ``evaluations`` and ``models`` beside ``runs``.
        config: its config.yaml.
    """

    folder: Path
    root: Path
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Returns ``<method>-<seed>``, its name among the runs of a pipeline."""
        return f"{self.config['method']}-{self.config['seed']}"

    @property
    def origin(self) -> str:
        """Returns a digest of commit, changes and parameters: equal ones share a clone."""
        git, diff = self.config["git"], self.config.get("diff")
        return fingerprint("verify", git.get("commit"), diff, recorded_params(self.config))


@dataclass
class RunReport:
    """What came of one run.

    Attributes:
        name: the run.
        altered: what is not as the run's own stages wrote it.
        differing: files that are not equal in every bit.
        parted: the first step and metric in which the runs differ.
        environment: what differs between the machines.
    """

    name: str
    altered: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    parted: list[str] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What came of a verification.

    Attributes:
        runs: a report for each run.
        cells: the cells of the tables; empty where only the first steps were made.
        tables: files of reports/ → whether they are equal byte for byte.
        steps: the steps that were made; None for whole runs.
    """

    runs: list[RunReport]
    cells: list[Cell] = field(default_factory=list)
    tables: dict[str, bool] = field(default_factory=dict)
    steps: int | None = None

    @property
    def different(self) -> bool:
        """Says whether anything was altered, or is different: a cell, or any bit where no cells were compared."""
        # Without cells nothing says whether other bits matter.
        bits = not self.cells and any(run.differing or run.parted for run in self.runs)
        return bits or any(run.altered for run in self.runs) or any(cell.verdict == "different" for cell in self.cells)

    def to_json(self) -> str:
        """Returns the report as JSON."""
        return json.dumps({"different": self.different, **asdict(self)}, indent=2, ensure_ascii=False)


def find_recorded(name: str, root: Path = Path()) -> Recorded:
    """Returns a finished run, named below ``runs/`` or by its folder.

    Raises:
        UserError: if there is no such run, or its config.yaml does not say how it was made.
    """
    folder = next((path for path in (root / "runs" / name, Path(name)) if path.is_dir()), None)
    if folder is None or not (folder / "COMPLETE").is_file():
        known = sorted(path.parent.name for path in (root / "runs").glob("*/COMPLETE"))
        raise UserError(f"{name!r} is no finished run, neither below runs/ nor as a folder; below runs/ there are: "
                        f"{', '.join(known) or 'none'}")  # fmt: skip
    recorded = Recorded(folder, folder.resolve().parents[1], read_run_config(folder))
    if recorded.config.get("run", recorded.name) != recorded.name:
        raise UserError(f"{folder} is {recorded.config['run']}, a run of a study or of a measurement: those are made "
                        "again by their own command, and sdpg verify makes runs of the pipeline")  # fmt: skip
    return recorded


def verify(runs: Sequence[Recorded], project: Path, steps: int | None = None, keep: bool = False) -> Report:
    """Makes runs again and compares them with what was recorded.

    Args:
        runs: the runs.
        project: a checkout whose repository has the runs' commits.
        steps: the first steps alone are made, from the prepared problems and the base that lie here; otherwise every
            stage is run, the tables included.
        keep: whether the clones stay.

    Raises:
        UserError: if a clone cannot be made, or a stage fails in it; the message has the stage's last lines.
    """
    report = Report([], steps=steps)
    clones: dict[str, list[Recorded]] = {}
    for run in runs:
        clones.setdefault(run.origin, []).append(run)
    for origin, group in clones.items():
        clone = WORK / f"{'first' if steps else 'whole'}-{origin}"
        if not clone.exists():
            rebuild(group[0].config, project, clone)
        if steps is None:
            _make(clone, group)
            report.runs += [_compare_run(run, clone) for run in group]
            _compare_tables(report, group, clone)
        else:
            report.runs += [_first_steps(run, clone, steps) for run in group]
        if not keep:
            shutil.rmtree(clone)
            with suppress(OSError):  # a clone that was kept lies there
                WORK.rmdir()
    return report


def _make(clone: Path, runs: Sequence[Recorded]) -> None:
    for stage in ("check", "prepare", "base"):
        _run(clone, stage)
    for run in runs:
        for stage in ("train", "evaluate"):
            _run(clone, stage, str(run.config["method"]), str(run.config["seed"]))
    if _is_whole(runs):
        _run(clone, "tabulate")


def _is_whole(runs: Sequence[Recorded]) -> bool:
    """Says whether these are all the runs of their pipeline, so that its tables can be made again."""
    planned = runs[0].config["params"].get("run") or {}
    names = {f"{method}-{seed}" for method in planned.get("methods", ()) for seed in planned.get("seeds", ())}
    return names == {run.name for run in runs}


def _run(clone: Path, stage: str, *arguments: str, ends: int = 0) -> None:
    """Runs a stage in a clone, from the clone's own code, and shows what is being done."""
    print(f"{clone.name}: {stage} {' '.join(arguments)}".rstrip(), file=sys.stderr, flush=True)
    defaults = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {name: value for name, value in (defaults | dict(os.environ)).items()
                   if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}  # fmt: skip
    command = [sys.executable, "-m", f"pipelines.{stage}", *arguments]
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, check=False)
    if done.returncode not in (0, ends):
        said = "\n".join(done.stderr.decode(errors="replace").strip().splitlines()[-8:])
        raise UserError(f"{stage} failed in {clone} (exit code {done.returncode}):\n{said}\nThe clone stays as it is; "
                        "the same command goes on with it, and without it begins anew")  # fmt: skip


def _altered(folder: Path) -> list[str]:
    try:
        check_folder(folder)
    except UserError as error:
        return [str(error)]
    return []


def _compare_run(run: Recorded, clone: Path) -> RunReport:
    made, evaluation = clone / "runs" / run.name, run.root / "evaluations" / run.folder.name
    report = RunReport(run.name, _altered(run.folder))
    report.differing = differing_files(run.folder, made)
    report.parted = first_differences(run.folder, made)
    if evaluation.is_dir():
        report.altered += _altered(evaluation)
        again = clone / "evaluations" / run.name
        report.differing += [f"{evaluation.parent.name}/{name}" for name in differing_files(evaluation, again)]
    for name in report.differing:
        pair = run.folder / name, made / name
        if name.endswith(".parquet") and all(path.is_file() for path in pair):
            report.parted.append(f"{name}: {first_row(*pair)}")
            break
    if report.differing:
        report.environment = environment_differences(run.config, read_run_config(made))
    return report


def _compare_tables(report: Report, runs: Sequence[Recorded], clone: Path) -> None:
    """Compares the cells of the tables, and the files of reports/ where all runs were made again."""
    root = runs[0].root
    if any(run.altered for run in report.runs) or any(run.root != root for run in runs):
        return
    params = _params(runs)
    report.cells += compare_tables(read_results(params, root), read_results(params, clone))
    for name in TABLES:
        recorded, found = root / "reports" / name, clone / "reports" / name
        if recorded.is_file() and found.is_file():
            report.tables[name] = recorded.read_bytes() == found.read_bytes()


def _params(runs: Sequence[Recorded]) -> Params:
    tree = recorded_params(runs[0].config)
    methods = dict.fromkeys(str(run.config["method"]) for run in runs)
    seeds = dict.fromkeys(int(run.config["seed"]) for run in runs)
    if len(methods) * len(seeds) != len(runs):
        raise UserError("the runs are not the same seeds of each method: name all seeds of each, or verify one run")
    tree["run"] = {**tree.get("run", {}), "methods": list(methods), "seeds": list(seeds)}
    return parse_params(tree, "the run's config.yaml")


def _first_steps(run: Recorded, clone: Path, steps: int) -> RunReport:
    """Makes the first steps of a run from the problems and the base that lie beside it, if they are those it had."""
    report = RunReport(run.name, _altered(run.folder))
    for name, digest in (run.config.get("inputs") or {}).items():
        # A run from elsewhere has no problems and no base beside it; those here may be the same.
        place = next((each for each in (run.root / name, Path(name))
                      if each.is_dir() and hash_files([each], each) == digest), None)  # fmt: skip
        if place is None:
            raise UserError(f"{name} is not what {run.name} was made from, and its first steps depend on it: run dvc "
                            "repro base, or verify the whole run (without --quick)")  # fmt: skip
        _link(place, clone / name)
    _run(clone, "train", str(run.config["method"]), str(run.config["seed"]), "--until", str(steps), ends=RESUME)
    made = next((path.parent for path in (clone / paths.STATE).glob("*/config.yaml")
                 if read_run_config(path.parent)["run"] == run.name), clone / "runs" / run.name)  # fmt: skip
    report.parted = first_differences(run.folder, made, steps)
    if report.parted:
        report.environment = environment_differences(run.config, read_run_config(made))
    return report


def _link(source: Path, target: Path) -> None:
    if source.is_dir() and not target.is_symlink() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.resolve())


def report_text(report: Report) -> str:
    """Returns the report for a terminal."""
    lines: list[str] = []
    for run in report.runs:
        lines.append(f"{run.name}: {_words(run, report.steps)}")
        lines += [f"  altered: {line}" for line in run.altered]
        lines += [f"  {line}" for line in run.parted]
        if run.differing:
            more = f" and {len(run.differing) - _SHOWN} more" if len(run.differing) > _SHOWN else ""
            lines.append(f"  files that differ: {', '.join(run.differing[:_SHOWN])}{more}")
        lines += [f"  environment: {line}" for line in run.environment]
        if (run.parted or run.differing) and not run.environment:
            lines.append("  environment: versions, hardware, code and inputs are as recorded")
    if report.cells:
        counts = [f"{sum(cell.verdict == verdict for cell in report.cells)} {verdict}" for verdict in VERDICTS]
        lines.append(f"{len(report.cells)} cells of the tables: {', '.join(counts)}")
        for cell in report.cells:
            if cell.verdict != "bit-identical":
                lines.append(f"  {cell.verdict}: {cell.table}, {cell.benchmark}, {cell.method}, {cell.measure}: "
                             f"{cell.recorded} recorded, {cell.found} now")  # fmt: skip
    for name, equal in report.tables.items():
        lines.append(f"reports/{name}: {'equal byte for byte' if equal else 'other bytes'}")
    return "\n".join(lines)


def _words(run: RunReport, steps: int | None) -> str:
    if run.altered:
        return "altered since it was made"
    same = not (run.parted or run.differing)
    what = "policy, metrics, records and evaluations" if steps is None else f"the first {steps} steps"
    return f"{'bit-identical' if same else 'not bit-identical'}: {what}"
