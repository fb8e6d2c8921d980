"""Divides the evaluation of a finished policy among the processes of a run, with the same results as in one process.

The problems are dealt into portions, whose number does not depend on the processes. Each is sampled by a call with a
seed of its own, and the processes take them in turn. All samples of a problem are in one portion, so that its prompt is
read once.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from sdpg.evaluation.evaluation import Identity, evaluate
from sdpg.models.ranks import Ranks
from sdpg.params import EvaluationParams
from sdpg.params.tree import PORTIONS
from sdpg.problems.prompts import PreparedRow
from sdpg.rewards.verifiers import Scorer
from sdpg.rollouts import RolloutEngine


def deal_portions(
    sets: Mapping[str, Sequence[PreparedRow]], samples: int, batch: int
) -> list[dict[str, list[PreparedRow]]]:
    """Returns the portions, each with its problems by set; each has about one ``batch`` of sequences, or more."""
    problems = [(name, row) for name, rows in sets.items() for row in rows]
    count = max(1, min(PORTIONS, len(problems) * samples // batch))
    portions: list[dict[str, list[PreparedRow]]] = [{name: [] for name in sets} for _ in range(count)]
    for place, (name, row) in enumerate(problems):
        portions[place % count][name].append(row)
    return portions


def evaluate_in_portions(
    engine: RolloutEngine,
    tokenizer: Any,
    verifier: Scorer,
    sets: Mapping[str, Sequence[PreparedRow]],
    params: EvaluationParams,
    identity: Identity,
    samples: int,
    ranks: Ranks,
    temperature: float | None = None,
    as_teacher: bool = False,
) -> list[dict[str, Any]]:
    """Returns the rows of all problems on every rank, in the order of :func:`~sdpg.evaluation.evaluation.evaluate`.

    All ranks call this, each with an engine and a verifier of its own; the arguments are those of ``evaluate``.
    """
    if as_teacher:
        sets = {name: [row for row in rows if row.teacher_prompt is not None] for name, rows in sets.items()}
    portions = deal_portions(sets, samples, params.batch)
    own: list[dict[str, Any]] = []
    for number in range(ranks.rank, len(portions), ranks.size):
        own += evaluate(
            engine, tokenizer, verifier, portions[number], params, identity, samples, temperature, as_teacher,
            purpose=f"final, portion {number}", show=ranks.first,
        )  # fmt: skip
    problems = [(name, row.id) for name, rows in sets.items() for row in rows]
    place = {problem: index for index, problem in enumerate(problems)}
    rows = chain.from_iterable(ranks.values(own))
    return sorted(rows, key=lambda row: (place[row["benchmark"], row["problem_id"]], row["sample"]))
