"""Computes the metrics of a training step; docs/metrics.md defines each with its estimator."""

from collections import Counter
from collections.abc import Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray
import torch

from sdpg.models.columns import TokenColumn, mean_of
from sdpg.objective.outcomes import OUTCOMES
from sdpg.params import MethodParams
from sdpg.problems.hints import NONE
from sdpg.records import watch
from sdpg.rewards.parts import PARTS
from sdpg.rewards.verifiers import Status
from sdpg.training.diagnostics import TERM_GRADIENTS
from sdpg.training.steps import Sampled, Step

TIMING_COLUMNS = (
    "step",
    "rollout_seconds",
    "reward_seconds",
    "update_seconds",
    "diagnostic_seconds",
    "record_seconds",
    "evaluation_seconds",
    "rollout_tokens_per_second",
    "update_tokens_per_second",
    "peak_memory_bytes",
    "peak_gpu_bytes",
)


def metric_columns() -> list[str]:
    """Returns the columns of metrics.csv; all of them are functions of seed, data and code, never of time."""
    return [
        "step", "reward", *(f"reward_{part}" for part in PARTS), "accuracy", "length", "response_tokens", "truncated",
        *(f"status_{status}" for status in Status),
        "gate_rate", "zero_variance_groups", "refilled_groups", "staleness", "trained_rows", "teacher_rows",
        "teacher_age", "teacher_distance", "teacher_entropy",
        "hint_skipped", "hint_fell_back", "hint_refused", "contrast_missing",
        "loss", "grad_norm", *TERM_GRADIENTS, "lr", "alpha", "beta", "rlsd_lambda",
        "entropy", "kl_to_teacher_gated", "kl_to_teacher_sampled", "kl_to_teacher_eos", "top_k_error",
        "kl_to_reference_k1", "kl_to_reference_k3",
        "ratio", "clip_fraction", "clip_fraction_low", "clip_fraction_high", "clip_fraction_dual",
        "rlsd_weight", "sampler_mismatch", "sampler_mismatch_max", *watch.LEAKS, *watch.COLUMNS,
    ]  # fmt: skip


NOTHING: NDArray[np.float64] = np.zeros(0)


def _numbers(column: TokenColumn) -> NDArray[np.float64]:
    return column.values.numpy().astype(np.float64)


def _column_mean(columns: Mapping[str, TokenColumn], name: str) -> float | None:
    return columns[name].mean() if name in columns else None


def _clip_fractions(step: Step, method: MethodParams) -> dict[str, float | None]:
    """Returns the shares of tokens whose ratio the clip held at 1-ε_l, at 1+ε_h, or at the dual bound."""
    names = ("clip_fraction", "clip_fraction_low", "clip_fraction_high", "clip_fraction_dual")
    columns = step.update.columns
    if not OUTCOMES[method.outcome].clips or not (columns and columns["clipped"].rows):
        return dict.fromkeys(names)
    clipped, ratio = columns["clipped"], columns["ratio"].values
    cut = clipped.values != 0
    gains = (step.experience.advantages[clipped.rows] > 0).repeat_interleave(torch.tensor(clipped.lengths))
    kinds = {"low": cut & ~gains & (ratio < 1), "high": cut & gains, "dual": cut & ~gains & ~(ratio < 1)}
    shares = {f"clip_fraction_{kind}": int(tokens.sum()) / len(ratio) for kind, tokens in kinds.items()}
    return {"clip_fraction": int(cut.sum()) / len(ratio), **shares}


def _mismatch(step: Step) -> NDArray[np.float64]:
    """Returns |log π_θ - log π_rollout| of each trained token."""
    if (trained := step.update.columns.get("logprob")) is None:
        return NOTHING
    sampled = step.rollout_logprob.only(set(trained.rows))
    return np.abs(_numbers(trained) - _numbers(sampled))


def _log_ratios(step: Step) -> NDArray[np.float64]:
    """Returns log w = log π_θ - log π_ref of each token whose π_ref the loss read."""
    if (reference := step.update.columns.get("ref_logprob")) is None:
        return NOTHING
    ours = step.update.columns["logprob"].only(set(reference.rows))
    return _numbers(ours) - _numbers(reference)


def _kl_at_ends(step: Step) -> float | None:
    """Returns the mean of D_KL(p‖q) at the tokens that ended a sampled response; responses that were cut have none."""
    if (column := step.diagnosed.get("kl_to_teacher")) is None:
        return None
    ended = [not step.sampled.truncated[row] for row in column.rows]
    return mean_of(_numbers(column)[np.cumsum(column.lengths, dtype=int)[ended] - 1])


def _entropies(step: Step) -> NDArray[np.float32]:
    """Returns each token's entropy, exact where the rollout was trained on.

    For rollouts without a training pass the sampler's log-probs are used, an unbiased estimate of the same entropy.
    """
    exact, sampled = step.update.columns.get("entropy"), step.rollout_logprob
    if exact is None:
        return -sampled.values.numpy()
    rest = sampled.only(set(sampled.rows) - set(exact.rows))
    return np.concatenate([exact.values.numpy(), -rest.values.numpy()])


def _hint_shares(sampled: Sampled) -> dict[str, float | None]:
    """Returns the shares of rollouts without the hint that was asked for, and the mean number that was passed over."""
    hints, contrasts = sampled.hints, sampled.contrasts
    skipped = fell_back = refused = missing = None
    if hints is not None:
        skipped = sum(hint.kind == NONE for hint in hints) / len(hints)
        fell_back = sum(hint.fell_back for hint in hints) / len(hints)
        refused = sum(hint.refused for hint in chain(hints, *(contrasts or ()))) / len(hints)
    if contrasts is not None:
        missing = sum(hint.kind == NONE for hint in contrasts[0]) / len(contrasts[0])
    return {
        "hint_skipped": skipped, "hint_fell_back": fell_back, "hint_refused": refused, "contrast_missing": missing
    }  # fmt: skip


def step_metrics(step: Step, method: MethodParams) -> dict[str, float | None]:
    """Returns the metrics of a step from its rollouts and per-token values; None where the step measured nothing."""
    count, siblings = len(step.verdicts), step.siblings
    statuses = Counter(verdict.status for verdict in step.verdicts)
    lengths = [len(ids) for ids in step.experience.responses]
    rewards = [verdict.reward for verdict in step.verdicts]
    known = [one if kept else None for one, kept in zip(step.rewards, step.kept or [True] * count, strict=True)]
    groups = [[one for one in known[at : at + siblings] if one is not None] for at in range(0, count, siblings)]
    mismatch, log_w, columns = _mismatch(step), _log_ratios(step), step.update.columns
    return {
        "reward": mean_of(np.array(rewards)),
        **{f"reward_{part}": mean_of(np.array(step.parts.get(part, ()))) for part in PARTS},
        "accuracy": statuses[Status.CORRECT] / count,
        "length": mean_of(np.array(lengths)),
        "response_tokens": float(sum(lengths)),
        "truncated": sum(step.sampled.truncated) / count,
        **{f"status_{status}": statuses[status] / count for status in Status},
        "gate_rate": float(step.experience.gates.mean()),
        "zero_variance_groups": sum(len(set(group)) < 2 for group in groups) / len(groups),
        **_hint_shares(step.sampled),
        "entropy": mean_of(_entropies(step)),
        "kl_to_teacher_gated": _column_mean(columns, "kl_gated"),
        "kl_to_teacher_sampled": _column_mean(step.diagnosed, "kl_to_teacher"),
        "kl_to_teacher_eos": _kl_at_ends(step),
        "top_k_error": _column_mean(step.diagnosed, "top_k_error"),
        "kl_to_reference_k1": mean_of(log_w),
        "kl_to_reference_k3": mean_of(np.expm1(-log_w) + log_w),
        "ratio": _column_mean(columns, "ratio"),
        **_clip_fractions(step, method),
        "rlsd_weight": _column_mean(columns, "weight") if method.token_weighting != "none" else None,
        "sampler_mismatch": mean_of(mismatch),
        "sampler_mismatch_max": float(mismatch.max()) if len(mismatch) else None,
        "loss": step.update.loss,
        "grad_norm": step.update.grad_norm,
        "lr": step.update.lr,
    }
