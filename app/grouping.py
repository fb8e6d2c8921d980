"""Puts runs into lines: those that differ in their seed alone, or those that agree in method, seed or any parameter."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.series import Series, group
from app.sources import RunEntry

RUN, METHOD, SEED = "run", "method", "seed"
LONGEST = 40
"""The characters of a value beyond which a parameter is a text, by which nobody groups."""


def flat(run: RunEntry) -> dict[str, str]:
    """Returns path → value of the run's parameters; its own method's are called ``method.…``, others' are left out."""
    params = run.params
    own = (params.get("methods") or {}).get(run.method) or {}
    rest = {name: part for name, part in params.items() if name != "methods"}
    leaves = {**dict(_leaves(rest)), **dict(_leaves({METHOD: own}))}
    return {path: "null" if value is None else str(value) for path, value in leaves.items()}


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in tree.items():
        path = f"{above}{name}"
        if isinstance(part, Mapping):
            yield from _leaves(part, f"{path}.")
        else:
            yield path, part


def keys(runs: Sequence[RunEntry]) -> list[str]:
    """Returns what lines can be grouped by: run, method, seed, and the parameters in which the runs differ."""
    known = [flat(run) for run in runs]
    paths = sorted({path for each in known for path in each})
    differing = []
    for path in paths:
        values = {each.get(path) for each in known}
        if len(values) > 1 and all(value is None or len(value) <= LONGEST for value in values):
            differing.append(path)
    return [RUN, METHOD, SEED, *differing]


def group_by(runs: Sequence[RunEntry], by: Sequence[str]) -> list[Series]:
    """Returns a line for each combination of values of ``by``, in the order of the runs.

    Without ``by``, runs that differ in their seed alone share a line, as :func:`app.series.group` has it.
    """
    if not by:
        return group(runs, seeds_together=True)
    if RUN in by:
        return group(runs, seeds_together=False)
    members: dict[tuple[str, ...], list[RunEntry]] = {}
    for run in runs:
        members.setdefault(tuple(_value(run, key) for key in by), []).append(run)
    found = []
    for place, (values, inside) in enumerate(members.items()):
        name = ", ".join(values)
        found.append(Series(f"{name} · {len(inside)} runs" if len(inside) > 1 else name, tuple(inside), place, name))
    return found


def _value(run: RunEntry, key: str) -> str:
    if key == METHOD:
        return run.title.removesuffix(f", seed {run.seed}")
    if key == SEED:
        return f"seed {run.seed}"
    return f"{key.rpartition('.')[2]} {flat(run).get(key, '–')}"
