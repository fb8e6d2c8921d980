"""Decides for a method at a step: the coefficient of each term, the gate, and the models and rollouts that are read.

Trainer, planner, rescoring and app all use these functions, so that they cannot disagree. The module imports no
torch: it works on the numbers of one rollout, and callers with many rollouts call it for each.
"""

from dataclasses import dataclass

from sdpg.objective import schedules
from sdpg.objective.gate_choice import GateChoice, find_gate
from sdpg.objective.gates import GATES, Gate
from sdpg.params import Imported, MethodParams
from sdpg.params.train import TrainParams


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of the terms at one step: α, β(k), λ(k), and η of the entropy bonus."""

    alpha: float
    beta: float
    rlsd_lambda: float
    entropy_bonus: float = 0.0


EVIDENCE = {
    "rlsd": "A·[(1−λ) + λ·clip(exp(sign(A)·Δ), 1±ε_w)]",
    "cepo": "A·[(1−λ) + λ·clip(exp(sign(A)·(log q⁺−log q⁻)), 1±ε_w)]",
    "rlcsd": "A + λ·tanh((log q⁺−log q⁻)/τ), sign kept",
    "sipo": "A + λ·clip(log q⁺−log q⁻, ±ε_w), sign kept",
    "antisd": "A − λ·½(softplus(Δ) − log 2)",
    "sampled_opsd": "λ·clip(Δ, 0, 20)·1[A > 0]",
}
"""Value of ``token_weighting`` → what each token's advantage becomes, for people; ε_w is ``rlsd_clip``."""
ADDS = ("sipo", "antisd")
"""The values of ``token_weighting`` that give something to a rollout of advantage 0."""


def coefficients(method: MethodParams, step: int, total: int) -> Coefficients:
    """Returns the coefficients at step k of ``total``; a term that the method lacks has coefficient 0."""
    beta = rlsd_lambda = 0.0
    if distils(method):
        warmup, decay = (schedules.window(fraction, total) for fraction in (method.beta_warmup, method.beta_decay))
        beta = schedules.beta(step, total, method.beta, warmup, decay, method.beta_shape)
    if weights_tokens(method):
        warmup, decay = (schedules.window(fraction, total) for fraction in (method.rlsd_warmup, method.rlsd_decay))
        rlsd_lambda = schedules.rlsd_lambda(step, method.rlsd_lambda, decay, warmup, method.rlsd_shape)
    alpha = method.alpha if method.reference != "none" else 0.0
    return Coefficients(alpha, beta, rlsd_lambda, method.entropy_bonus)


def entropy_switch(method: MethodParams, total: int) -> schedules.EntropySwitch | None:
    """Returns the switch by which λ is on or off over a run of ``total`` steps; None where the method has none."""
    if method.switch is None:
        return None
    return schedules.EntropySwitch(schedules.window(method.switch.warmup, total), method.switch.off)


def learning_rate(train: TrainParams, step: int) -> float:
    """Returns the learning rate at step k, with the warm-up and decay of ``train``."""
    warmup, decay = (schedules.window(fraction, train.steps) for fraction in (train.lr_warmup, train.lr_decay))
    return schedules.learning_rate(step, train.lr, warmup, train.lr_starts_at_zero, train.steps, decay, train.lr_shape)


def distils(method: MethodParams) -> bool:
    """Says whether the loss has a distillation term."""
    return method.distillation != "none"


def weights_tokens(method: MethodParams) -> bool:
    """Says whether the teacher's evidence weights the tokens of the outcome term, as in RLSD."""
    return method.token_weighting != "none"


def has_teacher(method: MethodParams) -> bool:
    """Says whether any term of the loss reads the privileged teacher: its distribution or its log-probs."""
    own = any(term.reads_teacher for term in method.terms.values())
    return distils(method) or weights_tokens(method) or own


def draws_hints(method: MethodParams) -> bool:
    """Says whether the teacher is shown more than the prepared prompts: hints that are drawn at each step."""
    return has_teacher(method) and (method.hint != "prompts" or method.contrast_hint != "none")


def gate_name(method: MethodParams) -> str:
    """Returns the gate in force, by names or import path; a method that distils nothing is recorded with the paper's.

    No own code runs, unlike in :func:`gate_of`.
    """
    gate = gate_kind(method)
    return gate.path if isinstance(gate, Imported) else " · ".join(gate_names(gate))


def gate_names(gate: GateChoice) -> list[str]:
    """Returns the names of a gate of this package, whose product it is; none for a user's own."""
    return [] if isinstance(gate, Imported) else [gate] if isinstance(gate, str) else list(gate)


def known_gate(method: MethodParams) -> Gate | None:
    """Returns the gate in force where it is one of this package's; None for a user's own, or another version's."""
    names = gate_names(gate_kind(method))
    return find_gate(names) if names and GATES.keys() >= set(names) else None


def gate_kind(method: MethodParams) -> GateChoice:
    """Returns the value of ``gate`` in force; see :func:`gate_name`."""
    return method.gate if distils(method) else "positive"


def gate_of(method: MethodParams) -> Gate:
    """Returns the rule of the gate in force; a user's own gate is imported."""
    return find_gate(gate_kind(method))


def has_reference_weights(method: MethodParams) -> bool:
    """Says whether the method reads the reference policy at all: in its loss, in its reward, or as its teacher."""
    return method.reference != "none" or (has_teacher(method) and method.teacher == "reference")


def needs_reference_weights(method: MethodParams, train: TrainParams) -> bool:
    """Says whether a run holds the reference policy, which the records of sampled rollouts read for every method."""
    return has_reference_weights(method) or train.record_rows > 0


def needs_teacher_passes(method: MethodParams, train: TrainParams) -> bool:
    """Says whether a run passes privileged prompts at all; the records of sampled rollouts do so for every method."""
    return has_teacher(method) or train.record_rows > 0


def keeps_teacher_weights(method: MethodParams) -> bool:
    """Says whether a run holds weights for its teacher beside those of student and reference."""
    return has_teacher(method) and method.teacher not in ("current", "reference")


def teaches_with_own_head(method: MethodParams) -> bool:
    """Says whether the teacher's head is another one than the student's, where all weights are trained."""
    return has_teacher(method) and method.teacher != "current"


def penalizes_reward(method: MethodParams) -> bool:
    """Says whether the reference term is subtracted from the reward, before advantages are computed (D4)."""
    return method.reference != "none" and method.reference_in == "reward"


def scores_old_policy(train: TrainParams) -> bool:
    """Says whether the trainer scores a batch before its first update: π_old, where a batch feeds several updates."""
    return train.updates_per_batch > 1 and train.old_logprobs == "trainer"


def scores_teacher_first(train: TrainParams, at: Coefficients) -> bool:
    """Says whether RLSD's Δ is computed before a batch's first update; updates then read the teacher to distil alone.

    With one update per batch, the update's own teacher pass gives Δ.
    """
    return train.updates_per_batch > 1 and at.rlsd_lambda > 0


def reads_certainty(method: MethodParams, at: Coefficients) -> bool:
    """Says whether the teacher's entropy on all distilled rollouts is taken before the update: a mean is divided by."""
    return distils(method) and "certainty" in method.token_gate and at.beta > 0


def is_recorded(train: TrainParams, step: int) -> bool:
    """Says whether teacher and reference score sampled rollouts of a step for the record, gate open or not."""
    return train.record_rows > 0 and (step % train.record_every == 0 or step in (1, train.steps))


def reads_reference(method: MethodParams, at: Coefficients) -> bool:
    """Says whether the loss reads log π_ref at these coefficients."""
    return method.reference != "none" and method.reference_in == "loss" and at.alpha > 0


def reads_teacher(method: MethodParams, at: Coefficients, advantage: float, gate: float) -> bool:
    """Says whether the loss reads the teacher on a rollout; no teacher pass is made for the others."""
    if any(term.reads_teacher for term in method.terms.values()):
        return True
    return (at.beta > 0 and gate > 0) or (at.rlsd_lambda > 0 and has_outcome(method, at, advantage, gate))


def has_outcome(method: MethodParams, at: Coefficients, advantage: float, gate: float) -> bool:
    """Says whether the outcome term of a rollout is not zero."""
    if method.outcome == "none" or (method.outcome_rows == "undistilled" and gate > 0):
        return False
    if method.token_weighting == "sampled_opsd":
        return at.rlsd_lambda > 0 and advantage > 0
    # NaN differs from 0. A factor on a zero advantage leaves it at zero, an addend does not.
    return advantage != 0 or (at.rlsd_lambda > 0 and method.token_weighting in ADDS)


def reads_contrast(method: MethodParams, at: Coefficients, advantage: float, gate: float) -> bool:
    """Says whether the loss reads the teacher's log-probs under a wrong hint on a rollout, beside those under its own.

    They are scored before the first update of a batch.
    """
    return method.contrast_hint != "none" and reads_teacher(method, at, advantage, gate)


def is_trained(method: MethodParams, at: Coefficients, advantage: float, gate: float) -> bool:
    """Says whether a rollout has a term that is not zero; no student pass is made for the others."""
    return not silent_terms(method, at, advantage, gate)


def silent_terms(method: MethodParams, at: Coefficients, advantage: float, gate: float) -> list[str]:
    """Says why every term of a rollout's loss is zero, one reason for each term; empty where one of them is not."""
    if reads_reference(method, at) or at.entropy_bonus > 0 or method.terms:
        return []
    if has_outcome(method, at, advantage, gate) or (at.beta > 0 and gate > 0):
        return []
    routed = method.outcome_rows == "undistilled" and gate > 0
    reasons = [
        "there is no outcome term" if method.outcome == "none"
        else "the outcome term leaves out rollouts with an open gate" if routed
        else "its advantage is 0"
    ]  # fmt: skip
    if not distils(method):
        reasons.append("there is no distillation")
    else:
        reasons.append("its gate is closed" if at.beta > 0 else "β is 0 at this step")
    if method.reference == "none":
        reasons.append("there is no reference term")
    else:
        reasons.append("the reference term is part of the reward" if method.reference_in == "reward" else "α is 0")
    return reasons
