"""The metrics of a training step; docs/metrics.md defines each with its estimator."""

from collections import Counter
from collections.abc import Sequence
import math

from sdpg.params import MethodParams
from sdpg.rewards import Status, Verdict
from sdpg.update import Experience, Signals

TIMING_COLUMNS = (
    "step",
    "rollout_seconds",
    "reward_seconds",
    "update_seconds",
    "diagnostic_seconds",
    "record_seconds",
    "evaluation_seconds",
    "rollout_tokens_per_second",
    "peak_memory_bytes",
)


def metric_columns() -> list[str]:
    """Columns of metrics.csv; all of them are functions of seed, data and code, never of time."""
    return [
        "step", "reward", "accuracy", "length", "response_tokens", "truncated",
        *(f"status_{status}" for status in Status),
        "gate_rate", "zero_variance_groups", "teacher_rows",
        "loss", "grad_norm", "lr", "alpha", "beta", "rlsd_lambda",
        "entropy", "kl_to_teacher_gated", "kl_to_teacher_sampled", "kl_to_reference_k1", "kl_to_reference_k3",
        "ratio", "clip_fraction", "rlsd_weight", "sampler_mismatch", "sampler_mismatch_max",
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


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
    clips = method.outcome in ("ppo_clip", "clipped_weight")
    return {
        "reward": _mean(rewards),
        "accuracy": statuses[Status.CORRECT] / count,
        "length": _mean(lengths),
        "response_tokens": float(sum(lengths)),
        **{f"status_{status}": statuses[status] / count for status in Status},
        "gate_rate": float(experience.gates.mean()),
        "zero_variance_groups": sum(min(group) == max(group) for group in groups) / len(groups),
        "entropy": signals.mean("entropy"),
        "kl_to_teacher_gated": signals.mean("kl_gated"),
        "kl_to_teacher_sampled": _mean([kl for row in sorted(diagnosed) for kl in diagnosed[row]["kl_to_teacher"]]),
        "kl_to_reference_k1": _mean(log_w),
        "kl_to_reference_k3": _mean([math.expm1(-value) + value for value in log_w]),
        "ratio": signals.mean("ratio"),
        "clip_fraction": signals.mean("clipped") if clips else None,
        "rlsd_weight": signals.mean("weight") if method.token_weighting == "rlsd" else None,
        "sampler_mismatch": _mean(mismatch),
        "sampler_mismatch_max": max(mismatch, default=None),
    }
