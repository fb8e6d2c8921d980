"""The metrics of a training step; docs/metrics.md defines each with its estimator."""

from collections import Counter
from collections.abc import Sequence
import math

from sdpg.models.experience import Experience, Signals
from sdpg.params import MethodParams
from sdpg.records import watch
from sdpg.rewards.verifiers import Status, Verdict
from sdpg.training.term_gradients import COLUMNS as TERM_GRADIENTS

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
    """Columns of metrics.csv; all of them are functions of seed, data and code, never of time."""
    return [
        "step", "reward", "accuracy", "length", "response_tokens", "truncated",
        *(f"status_{status}" for status in Status),
        "gate_rate", "zero_variance_groups", "trained_rows", "teacher_rows",
        "loss", "grad_norm", *TERM_GRADIENTS, "lr", "alpha", "beta", "rlsd_lambda",
        "entropy", "kl_to_teacher_gated", "kl_to_teacher_sampled", "kl_to_reference_k1", "kl_to_reference_k3",
        "ratio", "clip_fraction", "clip_fraction_low", "clip_fraction_high", "clip_fraction_dual",
        "rlsd_weight", "sampler_mismatch", "sampler_mismatch_max", *watch.LEAKS, *watch.COLUMNS,
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _clip_fractions(experience: Experience, signals: Signals, method: MethodParams) -> dict[str, float | None]:
    """Shares of tokens by what the clip did to them: held at 1-ε_l, at 1+ε_h, or at the dual bound."""
    names = ("clip_fraction", "clip_fraction_low", "clip_fraction_high", "clip_fraction_dual")
    if method.outcome not in ("ppo_clip", "clipped_weight"):
        return dict.fromkeys(names)
    tokens = [
        (clipped, float(experience.advantages[row]), ratio)
        for row, marks in sorted(signals.clipped.items())
        for clipped, ratio in zip(marks, signals.ratio[row], strict=True)
    ]
    kinds = Counter("high" if a > 0 else "low" if ratio < 1 else "dual" for clipped, a, ratio in tokens if clipped)
    if not tokens:
        return dict.fromkeys(names)
    shares = {f"clip_fraction_{kind}": kinds[kind] / len(tokens) for kind in ("low", "high", "dual")}
    return {"clip_fraction": kinds.total() / len(tokens), **shares}


def step_metrics(
    experience: Experience,
    verdicts: Sequence[Verdict],
    signals: Signals,
    diagnosed: dict[int, dict[str, list[float]]],
    siblings: int,
    method: MethodParams,
) -> dict[str, float | None]:
    """Metrics from a step's rollouts and per-token values; None where the step has nothing to measure."""
    count = len(verdicts)
    statuses = Counter(verdict.status for verdict in verdicts)
    lengths = [len(ids) for ids in experience.responses]
    rewards = [verdict.reward for verdict in verdicts]
    groups = [rewards[start : start + siblings] for start in range(0, count, siblings)]
    mismatch = [
        abs(trained - sampled)
        for row, logprobs in sorted(signals.logprob.items())
        for trained, sampled in zip(logprobs, experience.rollout_logprobs[row], strict=True)
    ]
    log_w = [
        trained - reference
        for row, ref_logprobs in sorted(signals.ref_logprob.items())
        for trained, reference in zip(signals.logprob[row], ref_logprobs, strict=True)
    ]
    # Rows without a training pass stand in with the sampler's log-probs, an unbiased estimate of the same entropy.
    entropies = [
        signals.entropy.get(row) or [-value for value in sampled]
        for row, sampled in enumerate(experience.rollout_logprobs)
    ]
    return {
        "reward": _mean(rewards),
        "accuracy": statuses[Status.CORRECT] / count,
        "length": _mean(lengths),
        "response_tokens": float(sum(lengths)),
        **{f"status_{status}": statuses[status] / count for status in Status},
        "gate_rate": float(experience.gates.mean()),
        "zero_variance_groups": sum(min(group) == max(group) for group in groups) / len(groups),
        "entropy": _mean([value for row in entropies for value in row]),
        "kl_to_teacher_gated": signals.mean("kl_gated"),
        "kl_to_teacher_sampled": _mean([kl for row in sorted(diagnosed) for kl in diagnosed[row]["kl_to_teacher"]]),
        "kl_to_reference_k1": _mean(log_w),
        "kl_to_reference_k3": _mean([math.expm1(-value) + value for value in log_w]),
        "ratio": signals.mean("ratio"),
        **_clip_fractions(experience, signals, method),
        "rlsd_weight": signals.mean("weight") if method.token_weighting == "rlsd" else None,
        "sampler_mismatch": _mean(mismatch),
        "sampler_mismatch_max": max(mismatch, default=None),
    }
