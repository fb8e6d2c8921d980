"""Lets a reader choose one rollout, and the signal that colours it; the choice is in the URL."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from app import selection, signals, store, tokens, ui
from app.places import places
from app.sources import RunEntry
from sdpg.errors import UserError
from sdpg.objective.coefficients import distils, is_recorded
from sdpg.params.stored import method_of, train_of

MARKS = {"correct": "✓", "wrong": "✕", "no_answer": "∅", "truncated": "✂", "timeout": "◷"}
HELP = ("Responses to the same prompt: ✓ correct, ✕ wrong, ∅ no answer, ✂ truncated, ◷ timeout. "
        "◆ scored by teacher and reference.")  # fmt: skip


@dataclass(frozen=True)
class Chosen:
    """A rollout of a run; ``row`` is a row of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`."""

    run: RunEntry
    row: dict[str, Any]

    @property
    def link(self) -> dict[str, Any]:
        """Returns the selection that leads to the rollout."""
        return {"run": self.run.id, **{name: self.row[name] for name in ("step", "group", "sibling")}}

    @property
    def key(self) -> str:
        """Returns a text that identifies the rollout."""
        return "/".join(map(str, self.link.values()))

    def readings(self) -> list[signals.Reading]:
        """Returns the signals of the rollout."""
        tokens, applied = (step_metric(self.run, self.row["step"], name) for name in ("response_tokens", "rlsd_lambda"))
        return signals.readings(self.row, self.run.params, tokens, applied)

    @property
    def distils(self) -> bool:
        """Says whether the rollout's method has a distillation term, which is all that the gate acts on."""
        return distils(method_of(self.run.params, self.row["method"]))

    @property
    def limit(self) -> int | None:
        """Returns the token limit of responses in training."""
        return (self.run.params.get("rollout") or {}).get("max_tokens")


def step_metric(run: RunEntry, step: int, name: str) -> float | None:
    """Returns a metric of a step, such as N (``response_tokens``), or None where metrics.csv does not hold it."""
    try:
        table = store.metrics(run)
    except UserError:
        return None
    if name not in table:
        return None
    values = table.loc[table["step"] == step, name]
    return None if values.empty or values.isna().any() else float(values.iloc[-1])


def choose_step(run: RunEntry, key: str = "step", first: int | None = None, among: list[int] | None = None) -> int:
    """Lets the reader choose a step; the default is the last one with rollouts that the teacher scored."""
    steps = store.rollout_steps(run) if among is None else among
    if not steps:
        raise UserError(f"{run.label_of('rollouts')} holds no records yet: the first step writes them")
    scored = [step for step in steps if is_recorded(train_of(run.params, run.method), step)]
    total = (run.params.get("train") or {}).get("steps")
    return selection.choose(
        "Step", steps, key, first=(scored or steps)[-1] if first is None else first,
        shown=lambda step: f"{step}{f' of {total}' if total else ''}{' ◆' if step in scored else ''}",
        help="◆ Some rollouts of this step were scored by teacher and reference.",
    )  # fmt: skip


def choose_group(table: pa.Table, key: str = "group", first: int | None = None) -> int:
    """Lets the reader choose a problem of a step; the default has a rollout that the teacher scored."""
    problems = dict(zip(table["group"].to_pylist(), table["problem_id"].to_pylist(), strict=True))
    if first is None:
        lengths = pc.list_value_length(table["kl_to_teacher"]).to_pylist()
        first = table["group"][next((place for place, length in enumerate(lengths) if length), 0)].as_py()
    return selection.choose(
        "Problem", list(problems), key, first=first,
        shown=lambda group: f"{tokens.cut(str(problems[group]), 60)} · group {group}",
    )  # fmt: skip


def members(table: pa.Table, group: int) -> pa.Table:
    """Returns the siblings of a group."""
    return table.filter(pc.equal(table["group"], group))


def choose_sibling(siblings: pa.Table, key: str = "sibling", first: int | None = None) -> int:
    """Lets the reader choose a sibling by number and verdict; the default is one that the teacher scored."""
    statuses = dict(zip(siblings["sibling"].to_pylist(), siblings["status"].to_pylist(), strict=True))
    lengths = pc.list_value_length(siblings["kl_to_teacher"]).to_pylist()
    scored = [number for number, length in zip(statuses, lengths, strict=True) if length]
    texts = {str(sibling): sibling for sibling in statuses}
    default = str(first if first in statuses else (scored or list(statuses))[0])
    shown = {
        text: ui.plain(f"{text} {MARKS.get(statuses[sibling], '')}{' ◆' if sibling in scored else ''}")
        for text, sibling in texts.items()
    }
    return texts[selection.pills("Sibling", shown, key, first=default, help=HELP)]


def choose_rollout(run: RunEntry) -> Chosen:
    """Lets the reader choose step, problem and sibling of a run; a link may name the problem alone."""
    problem = st.query_params.get("problem", "") if "group" not in st.query_params else ""
    stands = places(run).get(problem, []) if problem else []
    left, middle, right = st.columns([2, 3, 6])
    with left:
        step = choose_step(run, first=stands[0][0] if stands else None)
    table = store.step_rollouts(run, step)
    with middle:
        group = choose_group(table, first=next((group for at, group in stands if at == step), None))
    with right:
        sibling = choose_sibling(members(table, group))
    return Chosen(run, store.rollout(run, step, group, sibling))


def choose_signal(*readings: list[signals.Reading]) -> str:
    """Lets the reader choose the signal that gives the colours; the default is the first recorded for all rollouts."""
    there = {one[0].signal.key: all(each.values is not None for each in one) for one in zip(*readings, strict=True)}
    default = next(key for key in ("gap", "entropy", "loss", "advantage") if there[key])
    labels = {key: ui.plain(signals.LABELS[key]) for key in there}
    shown = {key: label if there[key] else f":gray[{label}]" for key, label in labels.items()}
    return selection.pills("Signal", shown, "signal", first=default, written=False, label_visibility="collapsed")
