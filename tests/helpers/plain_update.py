"""Computes the update's loss from the paper's formulas, one row and one token at a time, and calls the update."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdpg.models.experience import Experience
from sdpg.models.passes import Policies
from sdpg.objective.coefficients import Coefficients
from sdpg.params import MethodParams, load_params
from sdpg.params.train import TrainParams
from sdpg.training.update import Accumulated, Task, accumulate_gradients
from tests.helpers.tiny import (
    MAX_TOKENS,
    SIBLINGS,
    gradients,
    tiny_policies,
    with_teacher,
)

METHODS = load_params(Path(__file__).parents[2] / "params.yaml").methods
NORMALISERS: list[Any] = ["group", "batch", "sequence", "constant"]
KL: dict[str, Any] = {"distillation": "kl_student_teacher", "beta": 1.0}
AT = Coefficients(alpha=0.3, beta=0.7, rlsd_lambda=0.0)
OFF = Coefficients(alpha=0.0, beta=0.0, rlsd_lambda=0.0)
EVERYONE = dataclasses.replace(OFF, entropy_bonus=0.1)
"""A term that is in every row: without one, rows whose every term is zero are not read."""


def run(
    policies: Policies, experience: Experience, method: MethodParams, at: Coefficients, train: TrainParams,
    rows: range | None = None, dump: Path = Path("unused.json"),
) -> tuple[float, Tensor]:  # fmt: skip
    """Loss and gradient of the module under test."""
    accumulated, gradient = update(policies, experience, method, at, train, rows, dump)
    return accumulated.loss, gradient


def update(
    policies: Policies, experience: Experience, method: MethodParams, at: Coefficients, train: TrainParams,
    rows: range | None = None, dump: Path = Path("unused.json"),
) -> tuple[Accumulated, Tensor]:  # fmt: skip
    """All that the module under test leaves behind, and the gradient."""
    if policies.teacher_weights is None:
        with_teacher(policies, method)
    policies.student.zero_grad(set_to_none=True)
    everyone = range(len(experience.responses)) if rows is None else rows
    task = Task(policies, experience, method, at, train, MAX_TOKENS, dump)
    accumulated = accumulate_gradients(task, everyone)
    return accumulated, gradients(policies.student)


def lists(accumulated: Accumulated) -> dict[str, dict[int, list[float]]]:
    """Name → rollout → its values per token."""
    return {name: column.lists() for name, column in accumulated.columns.items()}


def switched_on(method: MethodParams) -> Coefficients:
    """Coefficients that give every term of the method a weight that shows."""
    return Coefficients(
        alpha=AT.alpha if method.reference != "none" else 0.0,
        beta=AT.beta if method.distillation != "none" else 0.0,
        rlsd_lambda=0.4 if method.token_weighting != "none" else 0.0,
        entropy_bonus=method.entropy_bonus,
    )


def gate_kind(method: MethodParams) -> str:
    return method.gate if method.distillation != "none" else "positive"


# --- an independent implementation


def plain_log_probs(model: Any, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=-1)


def gate_open(m: MethodParams, x: Experience, i: int) -> float:
    """m_i from the advantages of the row's group alone: a uniform group counts as neither right nor wrong."""
    start = i // SIBLINGS * SIBLINGS
    group = x.advantages[start : start + SIBLINGS].tolist()
    share = sum(a > 0 for a in group) / SIBLINGS
    known = {
        # The one uniform group of the fabricated rollouts is all right.
        "correct": float(x.advantages[i] >= 0), "wrong": float(x.advantages[i] < 0),
        "all": 1.0, "positive": float(x.advantages[i] > 0), "negative": float(x.advantages[i] < 0),
        "difficulty": 4 * share * (1 - share),
    }  # fmt: skip
    names = [m.gate] if isinstance(m.gate, str) else m.gate
    return math.prod(known[name] for name in names)


def plain_advantages(
    m: MethodParams, at: Coefficients, a: float, old: Tensor, log_q: Tensor, against: Tensor | None
) -> list[float]:
    """Each token's advantage, from the papers' formulas; ``against`` is log q⁻."""
    lam, clip = at.rlsd_lambda, m.rlsd_clip
    delta = [float(each) for each in log_q.detach() - old.detach()]
    e = delta if against is None else [float(each) for each in log_q.detach() - against]
    sign = (a > 0) - (a < 0)

    def same_sign(value: float) -> float:
        return max(0.0, value) if a > 0 else min(0.0, value) if a < 0 else 0.0

    match m.token_weighting:
        case "rlsd" | "cepo":
            gains = delta if m.token_weighting == "rlsd" else e
            return [a * ((1 - lam) + lam * min(max(math.exp(sign * g), 1 - clip), 1 + clip)) for g in gains]
        case "sampled_opsd":
            return [lam * min(max(g, 0.0), 20.0) * (a > 0) for g in delta]
        case "antisd":
            return [a - lam * (math.log(1 + math.exp(g)) - math.log(2)) / 2 for g in delta]
        case "sipo":
            bonus = [lam * min(max(g, -clip), clip) for g in e]
            return [same_sign(a + b) if a else b for b in bonus]
        case "rlcsd":
            bonus = [lam * math.tanh(g / m.evidence_tau) for g in e]
            inside = [abs(b) > m.evidence_threshold for b in bonus]
            sides = {True: sum(inside), False: len(inside) - sum(inside)}
            share = {True: m.evidence_share, False: 1.0}
            values = [same_sign(a + b) if side else a for b, side in zip(bonus, inside, strict=True)]
            return [v * share[side] * len(e) / sides[side] for v, side in zip(values, inside, strict=True)]
    return [a] * len(delta)


def plain_row(policies: Policies, x: Experience, i: int, m: MethodParams, at: Coefficients, t: TrainParams) -> Tensor:
    """Sum over the tokens of row i."""
    advantage, response = x.advantages[i].item(), x.responses[i]
    log_p = plain_log_probs(policies.student, x.student_prompts[i], response, policies.temperature)
    with torch.no_grad():
        teacher = policies.student if m.teacher == "current" else policies.reference
        teacher_temperature = policies.temperature if t.teacher_temperature == "same" else 1.0
        log_q = plain_log_probs(teacher, x.teacher_prompts[i], response, teacher_temperature)
        log_ref = plain_log_probs(policies.reference, x.student_prompts[i], response, policies.temperature)
    total = torch.zeros((), dtype=log_p.dtype)
    taken = torch.tensor(response)
    lps, log_qs = log_p[range(len(response)), taken], log_q[range(len(response)), taken]
    if x.teacher_logprobs is not None:
        log_qs = x.teacher_logprobs[i]  # type: ignore[assignment]
    olds = lps.detach() if x.old_logprobs is None else x.old_logprobs[i]
    shaped = plain_advantages(
        m, at, advantage, olds, log_qs, None if x.contrast_logprobs is None else x.contrast_logprobs[i]
    )
    sequence_ratio = torch.exp(torch.mean(lps - olds))
    distilled = gate_open(m, x, i)
    for place, token in enumerate(response):
        lp = log_p[place, token]
        old = lp.detach() if x.old_logprobs is None else x.old_logprobs[i][place]
        log_rho = lp - old
        if t.log_ratio_clamp is not None:
            log_rho = torch.clamp(log_rho, -t.log_ratio_clamp, t.log_ratio_clamp)
        rho = torch.exp(log_rho)

        a = torch.tensor(shaped[place], dtype=log_p.dtype)
        if m.outcome_rows == "undistilled" and distilled:
            a = a * 0

        if m.outcome == "reinforce":
            total = total - a * lp
        elif m.outcome == "cispo":
            total = total - min(max(rho.item(), 1 - m.clip_low), 1 + m.clip_high) * a * lp
        elif m.outcome == "gspo":
            s = sequence_ratio
            total = total - torch.minimum(s * a, torch.clamp(s, 1 - m.clip_low, 1 + m.clip_high) * a)
        elif m.outcome != "none":
            bounded = torch.clamp(rho, 1 - m.clip_low, 1 + m.clip_high)
            ell = -torch.minimum(rho * a, bounded * a)
            if a < 0 and m.dual_clip is not None:
                ell = torch.minimum(ell, -a * m.dual_clip)
            total = total + (ell if m.outcome == "ppo_clip" else ell.detach() * lp)

        rest = torch.zeros((), dtype=log_p.dtype)
        if m.distillation != "none" and at.beta > 0 and distilled:
            p, q = torch.softmax(log_p[place], -1), torch.softmax(log_q[place], -1)
            gain = log_q[place, token] - lp
            if m.top_k is not None and m.top_k < len(p):
                kept = torch.topk(p if m.top_k_of == "student" else q, m.top_k).indices
                p, q = (torch.cat([each[kept], 1 - each[kept].sum()[None]]) for each in (p, q))
            if m.distillation == "kl_student_teacher":
                entries = p * torch.log(p / q)
            elif m.distillation == "kl_teacher_student":
                entries = q * torch.log(q / p)
            elif m.distillation == "skewed_kl":
                entries = p * torch.log(p / (m.skew * q + (1 - m.skew) * p))
            elif m.distillation == "jsd":
                mix = m.jsd_beta * q + (1 - m.jsd_beta) * p
                entries = m.jsd_beta * q * torch.log(q / mix) + (1 - m.jsd_beta) * p * torch.log(p / mix)
            else:
                made = {"sampled_k2": gain**2 / 2, "sampled_k3": gain.exp() - 1 - gain, "sampled_gain": gain}
                entries = made[m.distillation][None]
            if m.entry_clip is not None:
                entries = torch.where(entries < m.entry_clip, entries, entries.detach() * 0 + m.entry_clip)
            kl = entries.sum() * distilled
            if "sigmoid" in m.token_gate:
                kl = kl / (1 + math.exp(-m.gate_kappa * gain.item()))
            if "certainty" in m.token_gate:
                everywhere = torch.softmax(log_q[place], -1)
                kl = kl * torch.exp(m.gate_kappa * torch.sum(everywhere * torch.log(everywhere))) / x.certainty
            if m.exclude_eos and place == len(response) - 1 and (x.ended is None or x.ended[i]):
                kl = kl * 0
            rest = rest + at.beta * (kl if m.kl_clamp is None or kl < m.kl_clamp else kl.detach() * 0 + m.kl_clamp)
        if m.reference != "none" and m.reference_in == "loss":
            w = torch.exp(lp - log_ref[place, token])
            term = {
                "ufkl": 1 / w + torch.log(w),
                "urkl": 0.5 * torch.log(w) ** 2,
                "fkl": 1 / w,
                "rkl": 0.5 * (torch.log(w) + 1) ** 2,
                "k3": 1 / w - 1 + torch.log(w),
            }[m.reference]
            rest = rest + at.alpha * term
        if m.entropy_bonus:
            rest = rest + at.entropy_bonus * torch.sum(log_p[place].exp() * log_p[place])
        if t.updates_per_batch > 1 and t.ratio_on_all_terms:
            rest = rest * rho.detach()
        total = total + rest
    return total


def plain_loss(policies: Policies, x: Experience, m: MethodParams, at: Coefficients, t: TrainParams) -> Tensor:
    sums = [plain_row(policies, x, i, m, at, t) for i in range(len(x.responses))]
    lengths = [len(response) for response in x.responses]
    count = len(sums)
    if t.normaliser == "group":
        groups = [range(start, start + SIBLINGS) for start in range(0, count, SIBLINGS)]
        means = [sum(sums[i] for i in group) / sum(lengths[i] for i in group) for group in groups]
        return sum(means) / len(means)  # type: ignore[return-value]
    if t.normaliser == "batch":
        return sum(sums) / sum(lengths)  # type: ignore[return-value]
    if t.normaliser == "sequence":
        return sum(s / length for s, length in zip(sums, lengths, strict=True)) / count  # type: ignore[return-value]
    return sum(sums) / (count * MAX_TOKENS)  # type: ignore[return-value]


def assert_close(found: tuple[float, Tensor], expected: tuple[float, Tensor], tolerance: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    assert expected[1].norm() > 1e-3
    assert (found[1] - expected[1]).norm() / expected[1].norm() < tolerance


def compare(method: MethodParams, train: TrainParams, experience: Experience, temperature: float = 1.0) -> None:
    policies, at = tiny_policies(torch.float64, temperature), switched_on(method)
    loss = plain_loss(policies, experience, method, at, train)
    loss.backward()
    expected = loss.item(), gradients(policies.student)
    assert_close(run(policies, experience, method, at, train), expected, 1e-6)
