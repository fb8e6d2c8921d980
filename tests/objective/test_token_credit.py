"""Tests the rules by which a teacher's evidence changes the advantage of each token, by hand and at their limits."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sdpg.objective.coefficients import ADDS
from sdpg.objective.responses import Responses
from sdpg.objective.token_credit import CREDITS, Evidence, credited
from sdpg.params.method import CONTRASTED

NAN = math.nan


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def evidence(
    advantages: list[float], gain: list[float], against: list[float] | None = None, strength: float = 0.5,
    lengths: tuple[int, ...] | None = None,
) -> Evidence:  # fmt: skip
    """Tokens of log p = -1, log q = -1 + gain, and log q⁻ = -1 + against."""
    contrast = None if against is None else double(*against) - 1
    responses = Responses.of(torch.tensor(lengths or (len(gain),)))
    student = torch.full((len(gain),), -1.0, dtype=torch.float64)
    return Evidence(double(*advantages), student, student + double(*gain), contrast, responses, strength)


def values(name: str, given: Evidence, **options: Any) -> list[float]:
    defaults = {"rlsd_clip": 0.2, "evidence_tau": 1.0, "evidence_threshold": 0.1, "evidence_share": 1.0}
    return credited(name, given, SimpleNamespace(**defaults | options))[0].tolist()


def test_rlsd_and_cepo_by_hand() -> None:
    given = evidence([2.0, -2.0, 2.0, 0.0], [0.1, 0.1, 5.0, 1.0])
    # ½ + ½·e^±0.1, clipped at 1.2, and nothing where A is 0.
    expected = [1 + math.exp(0.1), -1 - math.exp(-0.1), 1 + 1.2, 0.0]
    assert values("rlsd", given) == pytest.approx(expected)
    assert values("cepo", evidence([2.0, -2.0], [0.1, -0.1], [0.2, 0.05])) == pytest.approx(
        [1 + math.exp(-0.1), -1 - math.exp(0.15)]
    )


def test_cepo_without_a_wrong_hint_is_rlsd() -> None:
    gains = [0.1, -0.05, 0.3]
    alone = values("rlsd", evidence([1.0, -1.0, 0.5], gains))
    assert values("cepo", evidence([1.0, -1.0, 0.5], gains, [NAN] * 3)) == alone
    assert values("cepo", evidence([1.0, -1.0, 0.5], gains)) == alone


def test_sipo_by_hand() -> None:
    # e = 0.1, 5 (clipped to 0.2), -5 (clipped): a bonus of ½·e that does not turn A's sign.
    given = evidence([1.0, 1.0, 0.05, -0.05, 0.0], [0.1, 5.0, -5.0, 5.0, -5.0], [0.0] * 5)
    assert values("sipo", given) == pytest.approx([1.05, 1.1, 0.0, 0.0, -0.1])
    assert values("sipo", evidence([1.0, 0.0], [0.1, 0.1], [NAN, NAN])) == [1.0, 0.0]


def test_antisd_by_hand() -> None:
    # φ(0) = 0; ½(softplus(u) - log 2), at most ½ log 2 above A and linear below it.
    found = values("antisd", evidence([1.0, 1.0, -1.0, 0.0], [0.0, -60.0, 60.0, 1.0], strength=1.0))
    assert found == pytest.approx(
        [1.0, 1 + math.log(2) / 2, -1 - (60 - math.log(2)) / 2, -(math.log(1 + math.e) - math.log(2)) / 2]
    )
    assert values("antisd", evidence([1.0], [NAN], strength=1.0)) == [1.0]


def test_sampled_opsd_by_hand() -> None:
    found = values("sampled_opsd", evidence([1.0, 1.0, 1.0, -1.0, 0.0], [0.3, -0.3, 90.0, 0.3, 0.3], strength=1.0))
    assert found == pytest.approx([0.3, 0.0, 20.0, 0.0, 0.0])


def test_rlcsd_by_hand() -> None:
    # Two responses. In the first, r = ½·tanh(1) is evidence for two of four tokens; in the second for none.
    gain, against = [1.0, 0.0, -1.0, 0.05, 0.01, 0.0], [0.0] * 6
    given = evidence([0.3] * 4 + [-1.0] * 2, gain, against, lengths=(4, 2))
    r = math.tanh(1) / 2
    expected = [(0.3 + r) * 2, 0.6, 0.0, 0.6, -1.0, -1.0]
    assert values("rlcsd", given) == pytest.approx(expected)
    # η weights the mean over the tokens with evidence, and the mean over the others stays.
    assert values("rlcsd", given, evidence_share=0.5) == pytest.approx([(0.3 + r), 0.6, 0.0, 0.6, -1.0, -1.0])
    missing = evidence([1.0, 1.0], [1.0, 1.0], [NAN, NAN])
    assert values("rlcsd", missing) == [0.0, 0.0]


def test_rlcsd_sums_to_the_two_means_of_each_response() -> None:
    draw = torch.Generator().manual_seed(1)
    lengths = (5, 1, 8, 3)
    gain = torch.randn(sum(lengths), generator=draw, dtype=torch.float64).tolist()
    advantages = [a for a, n in zip((1.0, -0.5, 0.7, -1.2), lengths, strict=True) for _ in range(n)]
    found = values("rlcsd", evidence(advantages, gain, [0.0] * len(gain), lengths=lengths), evidence_share=0.4)
    start = 0
    for a, n in zip((1.0, -0.5, 0.7, -1.2), lengths, strict=True):
        r = [0.5 * math.tanh(g) for g in gain[start : start + n]]
        inside = [(max(a + b, 0.0) if a > 0 else min(a + b, 0.0)) for b in r if abs(b) > 0.1]
        means = (a if len(inside) < n else 0.0) + (0.4 * sum(inside) / len(inside) if inside else 0.0)
        assert sum(found[start : start + n]) / n == pytest.approx(means)
        start += n


@pytest.mark.parametrize("name", CREDITS)
def test_without_strength_every_rule_leaves_the_advantages(name: str) -> None:
    given = evidence([1.0, -0.5, 0.0], [0.4, -0.2, 0.9], [0.1, 0.3, 0.2], strength=0.0)
    # The evidence of sampled_opsd is all that it has.
    left = [0.0, 0.0, 0.0] if name == "sampled_opsd" else [1.0, -0.5, 0.0]
    assert values(name, given) == pytest.approx(left)


@pytest.mark.parametrize("name", CREDITS)
def test_what_the_rules_are_said_to_read_is_what_they_read(name: str) -> None:
    rule = CREDITS[name]
    assert rule.adds == (name in ADDS) and rule.contrast == (name in CONTRASTED)
    usual = evidence([1.0, 0.0], [0.15, 0.15], [0.05, 0.05])
    assert (values(name, usual)[1] != 0) == rule.adds
    other = evidence([1.0, 0.0], [0.15, 0.15], [0.1, 0.1])
    assert (values(name, usual, evidence_threshold=0.0) != values(name, other, evidence_threshold=0.0)) == rule.contrast
    alone = values(name, evidence([1.0], [0.15], [0.05]), evidence_threshold=0.04)
    beside = values(name, evidence([1.0, 1.0], [0.15, 0.05], [0.05, 0.05]), evidence_threshold=0.04)
    assert (alone[0] != pytest.approx(beside[0])) == rule.whole_responses


def test_the_quotient_is_the_factor_on_the_advantage() -> None:
    given = evidence([2.0, -1.0, 0.0], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0])
    for name in CREDITS:
        value, quotient = credited(name, given, SimpleNamespace(
            rlsd_clip=0.2, evidence_tau=1.0, evidence_threshold=0.0, evidence_share=1.0))  # fmt: skip
        assert (quotient * given.advantages)[:2].tolist() == pytest.approx(value[:2].tolist())
        assert quotient[2] == 1 or name in ("rlsd", "cepo")
