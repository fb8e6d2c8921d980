"""Finds where each problem stands in a run's rollouts; it reads three columns and no text."""

from pathlib import Path

from app import store
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.records.schemas import read_rollouts

Places = dict[str, list[tuple[int, int]]]
"""Problem → (step, group) in the order of training."""


@store.cached_by_file(2048)
def _places_of_file(path: Path) -> list[tuple[str, int, int]]:
    table = read_rollouts(path, ["problem_id", "step", "group"])
    return list(dict.fromkeys(zip(*(table[name].to_pylist() for name in table.column_names), strict=True)))


def places(run: RunEntry) -> Places:
    """Returns the places in all recorded steps; files that cannot be read are left out, as other pages report them."""
    by_problem: Places = {}
    for name in run.names("rollouts"):
        if not store.STEP.match(name):
            continue
        try:
            rows = _places_of_file(run.path(f"rollouts/{name}"))
        except UserError:
            continue
        for problem, step, group in rows:
            if (step, group) not in by_problem.setdefault(problem, []):
                by_problem[problem].append((step, group))
    return by_problem
