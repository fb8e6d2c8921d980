"""Finds what the gate lets through, from a run's metrics and the index of its rollouts. The module imports no torch.

A rollout is inside the gate if its gate is above 0. KL is recorded on few rollouts of few steps (train.record_rows and
record_every), so each number says how many rollouts it is computed from.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from app.sources import RunEntry
from sdpg.objective import coefficients as rules
from sdpg.objective.gate_choice import find_gate
from sdpg.objective.gates import EXAMPLES, GATES
from sdpg.params.stored import method_of
from sdpg.results.statistics.intervals import skewed_limits

FEWEST = 4
"""The number of rollouts below which no interval is given, as it would say nothing."""
CONFIDENCE = 0.95
Reason = Literal["never solved", "always solved", "no reward above its group's mean"]


@dataclass(frozen=True)
class Kind:
    """The kind of a method's gate.

    Attributes:
        distils: whether the loss holds a distillation term at all.
        gate: a name of :data:`sdpg.objective.gates.GATES`, or one that only another version knows; for a method without
            distillation it is the gate in the records, the positive one.
        rlsd: whether the teacher weights tokens instead.
        skips: whether a rollout without a hint has no teacher, so that its gate is closed.
    """

    distils: bool
    gate: str
    rlsd: bool
    skips: bool = False

    @property
    def known(self) -> bool:
        """Says whether this version knows the gate."""
        return set(self.gate.split(" · ")) <= GATES.keys()

    @property
    def own(self) -> bool:
        """Whether the gate is a rule of the run's own, named by its import path; its code is not run here."""
        return ":" in self.gate

    @property
    def keeps_out(self) -> bool:
        """Says whether the gate, which must be known, closes on any rollout."""
        gate = find_gate(self.gate.split(" · "))
        return self.skips or any(gate.row(row) <= 0 for row in EXAMPLES)


def kind(run: RunEntry) -> Kind:
    """Returns the kind of gate that the run's own parameters give."""
    method = method_of(run.params, run.method)
    skips = method.hint != "prompts" and method.hint_missing == "skip"
    return Kind(rules.distils(method), rules.gate_name(method), rules.weights_tokens(method), skips)


def divergences(index: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean KL to the teacher inside and outside the gate at each recorded step.

    Columns: step, where (``inside`` or ``outside``), value (mean over rollouts of each one's mean per token, nats),
    low, high (95% t limits corrected for skewness, rollouts as the unit; NaN below :data:`FEWEST`), rollouts.
    """
    recorded = index[index["kl_to_teacher"].notna()]
    rows = []
    for (step, inside), rollouts in recorded.groupby(["step", recorded["gate"] > 0]):
        values = rollouts["kl_to_teacher"].to_numpy(dtype=np.float64)
        low = high = float("nan")
        if len(values) >= FEWEST and np.ptp(values) > 0:
            low, high = skewed_limits(values, CONFIDENCE)
        rows.append({"step": step, "where": "inside" if inside else "outside", "value": float(values.mean()),
                     "low": max(0.0, low) if low == low else low, "high": high, "rollouts": len(values)})  # fmt: skip
    return pd.DataFrame(rows, columns=["step", "where", "value", "low", "high", "rollouts"])


def excluded_share(index: pd.DataFrame) -> float | None:
    """Returns the share of all recorded KL (summed over tokens) on rollouts outside the gate; None without any."""
    recorded = index[index["kl_to_teacher"].notna()]
    total = recorded["kl_to_teacher"] * recorded["length"]
    if total.sum() <= 0:
        return None
    return float(total[recorded["gate"] <= 0].sum() / total.sum())


def never_inside(index: pd.DataFrame) -> pd.DataFrame:
    """Returns the problems that had no recorded rollout inside the gate.

    Columns: problem_id, groups, rollouts, correct (share), reason, last (step), group (of that step); the problems
        drawn
    most often come first.
    """
    rows = index.assign(inside=index["gate"] > 0, right=index["status"] == "correct")
    table = rows.groupby("problem_id", as_index=False).agg(
        rollouts=("sibling", "size"), inside=("inside", "any"), correct=("right", "mean"), last=("step", "max")
    )
    pairs = rows[["problem_id", "step", "group"]].drop_duplicates()
    table["groups"] = table["problem_id"].map(pairs.groupby("problem_id").size())
    latest = pairs.sort_values("step").drop_duplicates("problem_id", keep="last").set_index("problem_id")["group"]
    table["group"] = table["problem_id"].map(latest)
    table = table[~table["inside"]].drop(columns="inside")
    table["reason"] = [reason(share) for share in table["correct"]]
    return table.sort_values(["groups", "problem_id"], ascending=[False, True], kind="stable").reset_index(drop=True)


def reason(correct: float) -> Reason:
    """Says why a problem with this share of right answers had no positive advantage."""
    if correct == 0:
        return "never solved"
    return "always solved" if correct == 1 else "no reward above its group's mean"


def highest_outside(index: pd.DataFrame, limit: int = 200) -> pd.DataFrame:
    """Returns rollouts outside the gate by their KL to the teacher, the highest first."""
    outside = index[(index["gate"] <= 0) & index["kl_to_teacher"].notna()]
    return outside.sort_values("kl_to_teacher", ascending=False, kind="stable").head(limit).reset_index(drop=True)
