"""Per-token signals of a rollout: their meaning, how the record gives them, their scale, and why one is missing.

The functions are pure: they read a row of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA` and the run's parameters. A
scale depends on the run at most, never on step or rollout, so that one colour means one value throughout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

from sdpg.objective import coefficients as rules
from sdpg.objective.gate_choice import gate_formula
from sdpg.params import Imported, MethodParams
from sdpg.params.stored import method_of, train_of

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """The limits of the colours; values beyond an open end take the colour of that end.

    Attributes:
        low: the value at which the lower colour is full; equals ``centre`` where a signal has one side only.
        centre: the value without colour.
        high: the value at which the upper colour is full.
        open_low: whether values below ``low`` exist.
        open_high: whether values above ``high`` exist.
    """

    low: float
    centre: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def united(self, other: "Scale") -> "Scale":
        """Returns the narrowest scale that holds both, for two runs whose constants differ."""
        return Scale(min(self.low, other.low), self.centre, max(self.high, other.high), self.open_low, self.open_high)

    def ends(self) -> tuple[str, str]:
        """Returns the lower and upper end, as a legend names them."""
        return (f"{'≤ ' if self.open_low else ''}{number(self.low)}",
                f"{'≥ ' if self.open_high else ''}{number(self.high)}")  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """The definition of a signal.

    Attributes:
        key: the signal's name in the URL.
        label: the text on its button.
        unit: the unit of its values; empty for a plain number.
        formula: the formula in the paper's letters.
        derived: how it is computed from the record, for a reader who wants to check.
        scale: the scale of its colours.
    """

    key: str
    label: str
    unit: str
    formula: str
    derived: str
    scale: Scale


@dataclass(frozen=True)
class Reading:
    """The values of a signal on one rollout.

    Attributes:
        signal: the definition of the signal.
        values: one value per response token; a single number where all tokens share it; None where it was not recorded.
        reason: the reason why it was not recorded; empty where it was.
        note: a remark on the values of this rollout or step; may be empty.
    """

    signal: Signal
    values: list[float] | float | None
    reason: str = ""
    note: str = ""


KEYS = ("gap", "kl", "entropy", "gate", "advantage", "weight", "reference", "mismatch", "loss")
LABELS = {
    "gap": "log q − log p", "kl": "KL to teacher", "entropy": "entropy", "gate": "gate", "advantage": "advantage",
    "weight": "evidence weight", "reference": "log-ratio to reference", "mismatch": "sampler mismatch", "loss": "loss",
}  # fmt: skip
NEEDS = {
    "gap": ("teacher_logprob", "logprob"), "kl": ("kl_to_teacher",), "entropy": ("entropy",), "gate": (),
    "advantage": (), "weight": ("weight",), "reference": ("ref_logprob", "logprob"),
    "mismatch": ("logprob", "rollout_logprob"), "loss": ("loss",),
}  # fmt: skip
"""Signal → the columns of the record from which it is computed."""
DIAGNOSED = ("teacher_logprob", "kl_to_teacher", "ref_logprob")
"""The columns that only the diagnostic pass fills."""


def number(value: float) -> str:
    """Returns a number in few digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def catalogue(row: Row, params: Mapping[str, Any]) -> dict[str, Signal]:
    """Returns all signals, with the scales of the run that the row belongs to."""
    train, method = train_of(params, row["method"]), method_of(params, row["method"])
    siblings = max(int(train.responses_per_prompt), 2)
    # No value of a sample is further from the sample's mean than this many of its standard deviations.
    sample = train.advantage_std == "sample"
    largest = math.sqrt(siblings - 1) * (math.sqrt((siblings - 1) / siblings) if sample else 1)
    shown = f"under the privileged prompt ({_teacher(method, int(row['step']))}, before the update)"
    gate = "1 where the rollout is distilled, 0 where it is not"
    if not rules.distils(method):
        gate = f"{method.title} distils nothing; this is what the gate A > 0 would be"
    known = rules.known_gate(method)
    descriptions: dict[str, tuple[str, str, str, Scale]] = {
        "gap": ("nats", "log q(yₜ) − log p(yₜ)", f"teacher_logprob − logprob: the sampled token {shown}, less the "
                "student's. Below 0 the teacher finds the token less likely", Scale(-3, 0, 3, True, True)),
        "kl": ("nats", "D(p‖q) = Σᵥ p (log p − log q)", f"kl_to_teacher: exact over the vocabulary; q {shown}",
               Scale(0, 0, 3, False, True)),
        "entropy": ("nats", "−Σᵥ p log p", "entropy: of the student's distribution, exact over the vocabulary",
                    Scale(0, 0, 2, False, True)),
        "gate": ("", known.formula if known else _unknown_gate(method),
                 f"gate, one for the whole rollout: {gate}", Scale(0, 0, 1)),
        "advantage": ("", "A = (r − mean) / (std + ε)", "advantage, one for the whole rollout: within its group of "
                      f"{siblings}, whose bound ±{number(largest)} is the scale", Scale(-largest, 0, largest)),
        "weight": ("", rules.EVIDENCE.get(method.token_weighting, "1"), "weight: the token's advantage over the row's, "
                   "by the teacher's evidence; the scale is where ε_w clips it",
                   Scale(1 - method.rlsd_clip, 1, 1 + method.rlsd_clip)),
        "reference": ("nats", "log w = log π_θ(yₜ) − log π_ref(yₜ)", "logprob − ref_logprob: how far training has "
                      "moved this token from the base", Scale(-1, 0, 1, True, True)),
        "mismatch": ("nats", "log π_θ(yₜ) − log π_rollout(yₜ)", "logprob − rollout_logprob: trainer against sampler; "
                     "with rollout.top_p below 1, or several updates a batch, they differ by design",
                     Scale(-0.1, 0, 0.1, True, True)),
        "loss": ("", "N · ℓₜ", "the token's share of the loss, normaliser and coefficients inside, times the step's N "
                 "response tokens (an update's, where a batch has several): the mean over these tokens is the step's "
                 "loss", Scale(-3, 0, 3, True, True)),
    }  # fmt: skip
    return {key: Signal(key, LABELS[key], *descriptions[key]) for key in KEYS}


def _teacher(method: MethodParams, step: int) -> str:
    """Returns whose weights played the teacher at a step."""
    if not rules.has_teacher(method):
        return "the current weights"
    match method.teacher:
        case "current":
            return "the current weights"
        case "reference":
            return "the base"
        case "ema":
            return f"the moving average of the weights, rate {number(method.teacher_rate)}"
        case "snapshot":
            taken = (step - 1) // method.teacher_every * method.teacher_every
            return f"the weights after step {taken}" if taken else "the base, until the first snapshot"
        case "gated":
            return "the weights with the best validation accuracy so far"
    return f"{method.teacher}, which this version does not know"


def _unknown_gate(method: MethodParams) -> str:
    """Returns how people are told of a gate that has no name in this version."""
    if not isinstance(method.gate, Imported):
        return f"m: {rules.gate_name(method)}, which this version does not know"
    return gate_formula(method.gate)


@dataclass(frozen=True)
class Plan:
    """The passes that training made on a rollout, according to the parameters.

    Attributes:
        scored: whether teacher and reference score rollouts at its step at all.
        why_not_scored: the reason why neither scored it, if the parameters give one; otherwise, that it was not drawn.
        trained: whether the student read it in training.
        why_not_trained: the reason why every term of its loss is zero; empty where one is not.
        rlsd_lambda: λ at its step.
    """

    scored: bool
    why_not_scored: str
    trained: bool
    why_not_trained: str
    rlsd_lambda: float


def plan(row: Row, params: Mapping[str, Any], rlsd_lambda: float | None = None) -> Plan:
    """Returns what training did with the row, by the rules of :mod:`sdpg.objective.coefficients`.

    Args:
        row: the rollout's record.
        params: the run's parameters.
        rlsd_lambda: λ as it was applied at the step, which a switch may have set to 0; None if unknown.
    """
    train, method, step = train_of(params, row["method"]), method_of(params, row["method"]), int(row["step"])
    scored = rules.is_recorded(train, step)
    if scored:
        count = train.prompts_per_step * train.responses_per_prompt
        not_scored = f"it is not among the {train.record_rows} of {count} rollouts drawn at this step "
        not_scored += "(train.record_rows)"
    elif train.record_rows == 0:
        not_scored = "no rollouts are drawn for it (train.record_rows is 0)"
    else:
        not_scored = f"none are at step {step}, only at step 1, every {train.record_every} (train.record_every) "
        not_scored += "and the last"
    at = rules.coefficients(method, step, train.steps)
    if rlsd_lambda is not None:
        at = replace(at, rlsd_lambda=rlsd_lambda)
    zero = rules.silent_terms(method, at, row["advantage"], row["gate"])
    listed = ", ".join(zero[:-1]) + " and " + zero[-1] if zero else ""
    return Plan(scored, not_scored, not zero, listed, at.rlsd_lambda)


def _reason(column: str, row: Row, done: Plan) -> str:
    """Says why a column of the row is null."""
    if column in DIAGNOSED:
        drawn = any(row[name] is not None for name in DIAGNOSED)
        if not drawn:
            return f"Teacher and reference did not score this rollout: {done.why_not_scored}."
        if row.get("hint_kind") == "none":
            return "The teacher does not read this rollout: there is no such hint for it (hint_missing: skip)."
    elif not done.trained:
        reason = f"This rollout was not read in training, for no term of its loss touches it: {done.why_not_trained}."
        if column in ("logprob", "entropy"):
            reason += f" Nor was it scored for the record: {done.why_not_scored}."
        return reason
    return f"The record has no {column} here, and the run's parameters do not say why."


def readings(
    row: Row, params: Mapping[str, Any], step_tokens: float | None, rlsd_lambda: float | None = None
) -> list[Reading]:
    """Returns all signals of a rollout, in the order of :data:`KEYS`.

    Args:
        row: a row of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`.
        params: the run's parameters.
        step_tokens: N, the number of response tokens of the step's rollouts (metric ``response_tokens``); None if
            unknown.
        rlsd_lambda: λ as it was applied at the step (metric of that name); None if unknown.
    """
    done, method = plan(row, params, rlsd_lambda), method_of(params, row["method"])
    updates = train_of(params, row["method"]).updates_per_batch
    result = []
    for key, signal in catalogue(row, params).items():
        missing = next((column for column in NEEDS[key] if row[column] is None), None)
        values: list[float] | float | None = None
        reason = note = ""
        if key == "weight" and not rules.weights_tokens(method):
            reason = f"{method.title} has no token weighting: to it all tokens of a rollout count alike."
        elif missing is not None:
            reason = _reason(missing, row, done)
        elif key == "loss" and step_tokens is None:
            reason = "N, the step's response tokens, is not on record: metrics.csv has no row of this step."
        else:
            values = _values(key, row, step_tokens or 0.0, updates)
        if key == "weight" and values is not None and done.rlsd_lambda == 0:
            note = "λ is 0 at this step, so that every weight is 1."
        result.append(Reading(signal, values, reason, note))
    return result


def _values(key: str, row: Row, step_tokens: float, updates: int) -> list[float] | float:
    match key:
        case "gate" | "advantage":
            return float(row[key])
        case "loss":
            return [value * step_tokens / updates for value in row["loss"]]
        case "gap" | "reference" | "mismatch":
            left, right = NEEDS[key]
            if key == "reference":
                left, right = right, left
            return [a - b for a, b in zip(row[left], row[right], strict=True)]
        case _:
            return list(row[NEEDS[key][0]])


def united(readings: Sequence[Reading], others: Sequence[Reading]) -> list[Reading]:
    """Returns the first readings, on scales that also hold the second readings."""
    return [
        replace(one, signal=replace(one.signal, scale=one.signal.scale.united(other.signal.scale)))
        for one, other in zip(readings, others, strict=True)
    ]
