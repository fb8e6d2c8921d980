"""Checks whether two runs differ only in what is compared: their records, leaf by leaf, split into that and the rest.

A run depends on its seed, its method's entry, its parameters, its inputs, its code, the library versions and the
hardware. For two different methods their entries are compared; the caller can name more. The module imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
import math
from pathlib import Path
from typing import Any, Literal

from sdpg.errors import UserError
from sdpg.params import MethodParams, read_yaml
from sdpg.params.stored import method_of
from sdpg.records.manifest import check_folder
from sdpg.records.watch import History, read_history
from sdpg.results.runs import Results
from sdpg.results.tables import BASELINE

Kind = Literal["parameters", "data", "seed", "code", "versions", "hardware"]
KINDS: dict[str, Kind] = {
    "seed": "seed", "inputs": "data", "code": "code", "git": "code", "versions": "versions", "hardware": "hardware"
}  # fmt: skip
"""First part of a path → kind of a difference; every other path is a parameter."""

WITHOUT_EFFECT = (
    "profile", "preset", "run", "tracking", "report", "tune", "watch", "evaluation.final_samples", 
    "train.checkpoint_every", "train.record_every", "train.record_rows", "train.gradients_every",
)  # fmt: skip
"""Parameters that change neither a run's policy nor its curves: names of overlays, what else was run, what is logged,
recorded or reported. A parameter that is not listed is taken to have an effect."""

THROUGH_INPUTS = ("data", "prompts", "base")
"""Sections that reach a run only through its inputs: with equal digests, a difference there has had no effect."""

ABSENT, UNREAD = "(absent)", "(not read)"


@dataclass(frozen=True)
class Difference:
    """A leaf in which two runs differ; ``path`` is as in params.yaml, or as in config.yaml for the rest."""

    kind: Kind
    path: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Budget:
    """The size of a run's training.

    Attributes:
        steps: the number of steps made, by its metrics.csv.
        rollouts: steps × prompts × responses; None where the record does not say.
        response_tokens: tokens generated in training, EOS included; None where they were not counted.
    """

    steps: int
    rollouts: int | None
    response_tokens: int | None


@dataclass(frozen=True)
class Record:
    """A run's config.yaml and metrics.csv, with its name."""

    name: str
    config: Mapping[str, Any]
    metrics: History

    @property
    def budget(self) -> Budget:
        """Returns the run's steps, rollouts and tokens."""
        train = self.config["params"].get("train", {})
        steps = len(self.metrics["step"])
        sizes = (train.get("prompts_per_step"), train.get("responses_per_prompt"))
        tokens = self.metrics.get("response_tokens")
        return Budget(
            steps,
            None if None in sizes else steps * math.prod(sizes),
            None if tokens is None else int(math.fsum(tokens)),
        )


@dataclass(frozen=True)
class Comparison:
    """A comparison of two runs.

    Attributes:
        a, b: the names of the runs.
        compared: the differences in the thing compared.
        rest: every other difference that may change a result.
        without_effect: recorded differences that cannot change a result.
        equal: paths that the caller named as compared and in which the runs do not differ.
        caveats: what the records cannot show.
        budgets: the budgets of both runs.
    """

    a: str
    b: str
    compared: list[Difference]
    rest: list[Difference]
    without_effect: list[Difference]
    equal: list[str]
    caveats: list[str]
    budgets: tuple[Budget, Budget]

    @property
    def matched(self) -> bool:
        """Returns whether the runs differ in nothing but what is compared."""
        return not self.rest

    def to_dict(self) -> dict[str, Any]:
        """Returns the comparison as plain containers, ready for JSON."""
        return {"matched": self.matched, **asdict(self)}


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping) or (path and not tree):
        return {path: tree}
    return {
        leaf: value
        for key, part in tree.items()
        for leaf, value in _leaves(part, f"{path}.{key}" if path else str(key)).items()
    }


def _below(path: str, roots: Sequence[str]) -> bool:
    """Returns whether a path is one of ``roots`` or below one."""
    return any(path == root or path.startswith(f"{root}.") for root in roots)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Returns the leaves in which two flat records differ, in their order."""
    return [
        Difference(KINDS.get(path.split(".")[0], "parameters"), path, a.get(path, ABSENT), b.get(path, ABSENT))
        for path in dict.fromkeys([*a, *b])
        if a.get(path, ABSENT) != b.get(path, ABSENT)
    ]


def _entry(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the run's own method, leaf by leaf; values that its terms do not read are marked so."""
    entry = _filled(config["params"].get("methods", {}).get(config["method"], {}))
    reads = method_of(config["params"], config["method"]).reads
    return {f"{prefix}.{field}": value if reads(field) else UNREAD for field, value in entry.items()}


def _filled(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a method's entry with the fields that it lacks: an older version did what their defaults say."""
    fields = MethodParams.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()} | {
        **entry
    }


def _others(config: Mapping[str, Any], same: bool) -> dict[str, Any]:
    """Returns the entries of methods that neither run had, leaf by leaf; of two methods, each run's record of both."""
    entries = config["params"].get("methods", {}).items()
    left = {name: _filled(entry) for name, entry in entries if not same or name != config["method"]}
    return _leaves({"methods": left})


def _flat(config: Mapping[str, Any], by_digest: bool) -> dict[str, Any]:
    """Returns everything but the methods that is compared: parameters as in params.yaml, the rest as in config.yaml."""
    tree = {key: value for key, value in config["params"].items() if key != "methods"}
    recorded = {key: config[key] for key in KINDS if key in config and (by_digest or key != "code")}
    return _leaves(recorded) | _leaves(tree)


def compare_runs(a: Record, b: Record, declared: Sequence[str] = ()) -> Comparison:
    """Splits every difference between two runs into the thing compared and everything else.

    Args:
        a: the first run.
        b: the second run.
        declared: further paths that are compared, such as ``train.lr``; whatever is below a path belongs to it.

    Raises:
        UserError: if a declared path is in neither record.
    """
    methods = (a.config["method"], b.config["method"])
    same = methods[0] == methods[1]
    # For two methods the entries are compared field by field, under one name.
    prefix = f"methods.{methods[0]}" if same else "method"
    entries = _entry(a.config, prefix), _entry(b.config, prefix)
    named = ({"method": methods[0]}, {"method": methods[1]})
    own = _differences(named[0] | entries[0], named[1] | entries[1])
    # Runs that were made before code was digested record only their commit.
    by_digest = "code" in a.config and "code" in b.config
    flat = _flat(a.config, by_digest), _flat(b.config, by_digest)
    known = [*flat[0], *flat[1], *entries[0], *entries[1]]
    if unknown := [path for path in declared if not any(_below(leaf, [path]) for leaf in known)]:
        raise UserError(f"--compare {unknown[0]}: neither {a.name} nor {b.name} has such a path in its config.yaml: "
                        "name one as in params.yaml, such as train.lr, or seed, inputs, versions, hardware or code"
        )  # fmt: skip
    shared = _differences(*flat)
    inputs_differ = any(difference.kind == "data" for difference in shared)
    idle = [*WITHOUT_EFFECT, *([] if inputs_differ else THROUGH_INPUTS), *(["git"] if by_digest else [])]

    compared, rest, without_effect = [], [], []
    for difference, of_method in [*((item, True) for item in own), *((item, False) for item in shared)]:
        if _below(difference.path, declared):
            compared.append(difference)
        elif difference.path.endswith(".title") or _below(difference.path, idle):
            without_effect.append(difference)
        else:
            (compared if of_method and not same else rest).append(difference)
    without_effect += _differences(_others(a.config, same), _others(b.config, same))
    caveats = []
    if not by_digest and (a.config["git"].get("dirty") or b.config["git"].get("dirty")):
        caveats.append("uncommitted changes were part of the code, and no digest of it was recorded: it may differ")
    return Comparison(
        a.name, b.name, compared, rest, without_effect,
        equal=[path for path in declared if not any(_below(difference.path, [path]) for difference in compared)],
        caveats=caveats, budgets=(a.budget, b.budget),
    )  # fmt: skip


def read_record(run: str, root: Path = Path()) -> Record:
    """Reads a finished run, named below ``runs/`` or by its folder.

    Raises:
        UserError: if there is no such run, or it is unfinished, damaged or altered.
    """
    folder = next((path for path in (root / "runs" / run, root / run) if path.is_dir()), None)
    if folder is None:
        known = sorted(path.parent.name for path in (root / "runs").glob("*/COMPLETE"))
        raise UserError(f"there is no run {run!r}, neither below runs/ nor as a folder; below runs/ there are: "
                        f"{', '.join(known) or 'none'}")  # fmt: skip
    if not (folder / "COMPLETE").is_file():
        raise UserError(f"{folder} has no file COMPLETE, so it is no finished run: name another, or train it again")
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} has no config.yaml: train the run again")
    check_folder(folder, "config.yaml", "metrics.csv")
    config = read_yaml(folder / "config.yaml")
    needed = ("method", "seed", "params")
    missing = [key for key in needed if not isinstance(config, dict) or key not in config]
    if not missing and config["method"] not in (config["params"].get("methods") or {}):
        missing = [f"params.methods.{config['method']}"]
    if missing:
        raise UserError(f"{folder / 'config.yaml'} does not say {', '.join(missing)}: train the run again")
    metrics = read_history(folder / "metrics.csv")
    if "step" not in metrics:
        raise UserError(f"{folder / 'metrics.csv'} has no column step: train the run again")
    # Older runs say less; what they do not say differs from what others say.
    return Record(run, {"inputs": {}, "git": {}, "versions": {}, "hardware": {}, **config}, metrics)


def matched_to_baseline(results: Results) -> list[Comparison]:
    """Compares each run of the report with the baseline's run of the same seed, in the report's order."""
    records = {
        (method, run.seed): Record(run.folder.name, run.config, run.metrics)
        for method, runs in results.runs.items()
        for run in runs
    }
    return [
        compare_runs(records[BASELINE, seed], record)
        for (method, seed), record in records.items()
        if method != BASELINE and (BASELINE, seed) in records
    ]


def _table(rows: Sequence[Sequence[Any]]) -> list[str]:
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts
    ]


def _listed(differences: Sequence[Difference], comparison: Comparison) -> list[str]:
    rows = [(d.kind, d.path, d.a, d.b) for d in differences]
    return _table([("", "", comparison.a, comparison.b), *rows])


def comparison_text(comparison: Comparison) -> str:
    """Returns the comparison for a terminal: what is compared, a warning where the rest differs, and the budgets."""
    lines = [f"{comparison.a} and {comparison.b}", ""]
    lines += ["Compared:", *_listed(comparison.compared, comparison)] if comparison.compared else ["Compared: nothing."]
    lines += [f"Named as compared, but equal in both: {', '.join(comparison.equal)}"] if comparison.equal else []
    lines.append("")
    if comparison.rest:
        lines.append("WARNING: not matched. Results may differ because of what is not compared:")
        lines += _listed(comparison.rest, comparison)
    else:
        lines.append("Matched: everything else that may change a result is equal.")
    lines += [f"Caveat: {caveat}." for caveat in comparison.caveats]
    first, second = comparison.budgets
    rows = [
        (name.replace("_", " "), *("unknown" if value is None else f"{value:,}" for value in pair))
        for name, *pair in (
            (name, getattr(first, name), getattr(second, name)) for name in ("steps", "rollouts", "response_tokens")
        )
    ]
    lines += ["", "Budget:", *_table([("", comparison.a, comparison.b), *rows])]
    if comparison.without_effect:
        paths = ", ".join(difference.path for difference in comparison.without_effect)
        lines += ["", f"On record, without effect on either run: {paths}"]
    return "\n".join(lines)
