"""Tests what an answer may not say beside its value, what it may, and what math-verify alone makes of it."""

from collections.abc import Iterator

import pytest

from sdpg.evaluation.audit import audit, listed
from sdpg.params import RewardParams
from sdpg.rewards.math_verify_pool import math_verify_equal
from sdpg.rewards.verifiers import Status, Verifier

FOOLING = [
    ("204", "205=204"), ("204", "x=205=204"), ("204", r"204\text{ thousand}"), ("204", r"204\text{, no wait, 205}"),
    ("204", r"204\text{ m} + 1\text{ m}"), ("204", "204_8"), ("204", "[204,204]"), ("204", r"\{204,204\}"),
    ("204", "203 1"), ("204", "203(1)"), ("204", "204 h 5"), ("204", r"204\text{ percent}"), ("204", "204'"),
    ("204", r"\fbox{204}205"), (r"336^\circ", r"336\text{ rad}"), (r"336^\circ", "336'"),
    (r"\frac{1}{2}", r"0.6=\frac{1}{2}"), ("x^2+1", r"x^2+1\text{ or 778}"), ("x^2+1", "x^2+1_8"),
]  # fmt: skip
"""Wrong answers that math-verify alone holds to be right."""

RIGHT = [
    (r"\frac12", r"P(X=2)=\frac12"), (r"\frac{1}{2}", r"P\left(X=2\right)=\frac{1}{2}"),
    (r"\frac{\sqrt{3}}{2}", r"\sin 60^\circ=\frac{\sqrt3}{2}"), ("1/2", r"\cos(60^\circ)=\frac12"),
    ("1", r"\tan 45^\circ=1"), ("30", r"\arcsin\frac12=30^\circ"), (r"30^\circ", r"\arcsin\frac12=30^\circ"),
    ("120", "10(12)=120"), ("120", "(10)(12)=120"), ("25", "5(5)=25"), (r"16\pi", r"\pi (4)^2=16\pi"),
    ("25", "31_8 = 25"), ("25", "31_8=25_{10}"), ("10", "1010_2=10_{10}"), ("55", r"1+2+\cdots+10=55"),
    ("3", r"13 \bmod 10=3"), ("3", r"13\equiv 3 \pmod{10}"), ("3", r"x\equiv 3\pmod{10}"),
    ("10", r"\text{lcm}(2,5)=10"), ("10", r"\operatorname{lcm}(2,5)=10"), ("10", r"\mathrm{lcm}(2,5)=10"),
    (r"\frac{3}{8}", r"P(3\text{ heads})=\frac38"), ("55", r"\text{Sum of first 10 terms}=55"),
    ("10", r"\text{Var}(2X)=10"), (r"2\sqrt{3}", r"2\sqrt{3}\approx 3.464"), (r"16\pi", r"16\pi\approx 50.27"),
    (r"\frac{1}{3}", r"\frac13\approx 0.333"), (r"2\sqrt{3}", r"r=2\sqrt3\approx 3.46"),
    ("1,-2", r"x=1 \text{ or } x=-2"), ("1,-2", r"1 \text{ and } -2"), ("-1,3", r"-1\text{ or }3"),
    ("1,2,3", r"1, 2, \text{ and } 3"), (r"2+\sqrt{3},2-\sqrt{3}", r"2+\sqrt3 \text{ and } 2-\sqrt3"),
    (r"\pm 2", "2, -2"), ("2000", r"2,\!000"), ("10080", r"10,\!080"), ("11111111100", r"11,\! 111,\! 111,\! 100"),
    (r"2,\!000", "2000"), ("2000", r"2,\,000"), ("2000", r"2,\!000\text{ cm}"), ("60", r"60\text{ miles per hour}"),
    ("25", r"25\text{ km per hour}"), ("12", r"12\text{ feet per second}"), ("4", r"4\text{ times}"),
    ("3", r"3\text{ quarters}"), ("12", r"12\text{ base pairs}"), 
    ("300", r"300\text{ K}"), ("25", r"25\text{ cm squared}"),
    ("24", "4!=24"), ("720", "6!=720"), ("720", "N=6!=720"), ("120", r"5\cdot4!=120"), ("720", "n!=720"),
    (r"\frac{1}{2}", r"P(X > 2)=\frac12"), (r"\frac12", r"P(2\le X\le 3)=\frac12"), ("36", r"3\text{ dozen}=36"),
    ("204", "x = 100+104 = 204"),
    ("3", r"3\ (\text{mod } 10)"), ("3", r"7\equiv 3\pmod 4"), ("5", r"5\text{ more}"), ("7", r"7\text{ over par}"),
    ("10", r"\binom52=10"), ("8", r"\max\{3,8\}=8"), ("5", "d((1,2),(4,6))=5"),
    (r"\frac{1}{2}", r"\Pr[X>2]=\frac{1}{2}"), (r"\pm 2", r"2\text{ or }-2"), (r"1\pm\sqrt2", r"1+\sqrt2, 1-\sqrt2"),
    ("12", r"\text{Area}=3\times4=12\text{ cm}^2"), ("(1,2)", "(x,y)=(1,2)"), ("1:2", "1:2"),
    (r"\frac12", r"0.5=\frac12"),
]  # fmt: skip
"""Right answers that a rule could take for wrong ones: names that hold numbers, units, remarks, approximations."""

WRONG = [
    ("204", r"204\text{ or 205}"), ("204", r"\{204,205\}"), ("204", r"204\text{ squared}"),
    ("204", r"204\text{ cubed}"), ("204", r"204\text{ doubled}"), ("204", r"204\text{ factorial}"),
    ("204", r"205\text{ no}=204"), ("204", "(205=204)"), ("204", "x=(205=204)"), ("204", "(205=204"),
    ("204", "205=204)"), ("204", "204(x=205)"), ("204", r"x\approx 204"), ("204", "204!=204"), ("204", "205!=204"),
    ("204", r"\text{over }204"), ("204", r"204\text{ or two hundred five}"), ("204", "[204]"),
    ("204", r"\left[204\right]"), ("204", "x=[204]"), ("204", r"\badcommand( = 204"), ("204", "(( = 204"),
    ("204", r"203.9\approx 204"), ("204", r"205\equiv 204"), ("204", r"\text{Answer: }205=204"),
    ("204", r"205\text{ or }x=204"), ("204", "(205)=204"), ("204", "100+105=204"),
    ("204", r"205\text{ cm}=204"), ("204", r"\left(205\right)=204"), ("204", "x>204"),
    ("204", "(x>5)>204"), ("204", r"204\text{ (base eight)}"), ("204", r"205,\!000=204"), ("204", "1,203"),
    ("3", "3:1"), ("25", "[25]"), ("3", r"3\colon 1"), ("3", r"3\text{ and no four}"),
    ("x^2+1", r"x^2+1\text{ or 778}"), ("x^2+1", r"x^2+1\text{ or }778"), ("x^2+1", r"x^2+1\text{ thousand}"),
    ("x^2+1", r"x^2+1\text{ m}+205\text{ m}"), (r"\frac{1}{2}", r"0.6=\frac{1}{2}"), ("1,-2", "1,-3"),
    ("1,-2", r"1\text{ or }-3"),
    ("204", r"205\,=204"), ("204", "{205}=204"), ("204", "(205=204)=204"), ("204", r"\left(205=204\right)"),
    ("204", r"204\approx"), ("204", "[205=204]"), ("204", r"205\approx 204"), ("204", "204) = (204"),
    ("204", r"2,\!04"), ("3", r"3\text{ and no others}"), ("-3", r"-3\text{ (not valid otherwise)}"),
]  # fmt: skip
"""Wrong answers beside those."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardParams(timeout=20.0)) as shared:
        yield shared


@pytest.mark.parametrize(("gold", "answer"), FOOLING)
def test_what_fools_math_verify_is_refused(gold: str, answer: str, verifier: Verifier) -> None:
    assert math_verify_equal(gold, answer)
    assert verifier.compare([(gold, answer)]) == [Status.WRONG]


@pytest.mark.parametrize(("gold", "answer"), RIGHT)
def test_what_is_right_is_not_refused(gold: str, answer: str, verifier: Verifier) -> None:
    assert verifier.compare([(gold, answer)]) == [Status.CORRECT]


@pytest.mark.parametrize(("gold", "answer"), WRONG)
def test_what_is_wrong_stays_wrong(gold: str, answer: str, verifier: Verifier) -> None:
    assert verifier.compare([(gold, answer)]) == [Status.WRONG]


@pytest.mark.parametrize(
    "text", [r"(( $204$", r"\badcommand( \(204\)", r"not \frac{204}{1} ((", "((, final answer is $204$. I hope"]
)
def test_a_formula_within_an_answer_that_does_not_parse_is_not_the_answer(text: str) -> None:
    assert not math_verify_equal("204", text)


# Audit


def test_audit_counts_and_lists_what_the_two_say() -> None:
    pairs = {("204", "204"): 7, ("204", "205=204"): 2, ("1/2", "0.5"): 3, ("204", "203"): 5, ("50%", "50%"): 4,
             ("4}", "4}"): 1}  # fmt: skip
    found = audit(RewardParams(timeout=20.0), pairs)
    assert (found.pairs, found.answers, found.timeouts) == (6, 22, [])
    told = {one.answer: (one.count, one.exact.value, one.math_verify.value, one.verdict.value, one.reason)
            for one in found.disagreements}  # fmt: skip
    assert told == {
        "0.5": (3, "wrong", "correct", "correct", "rational: equal"),
        "205=204": (2, "wrong", "correct", "wrong", "integer: another value"),
        "4}": (1, "correct", "wrong", "correct", "other: the same text"),
    }
    assert [one.count for one in found.disagreements] == [3, 2, 1]
    assert found.summary() == (
        "audit: exact match and math-verify disagree on 3 of 6 distinct pairs (6 of 22 answers): 1 equal by exact "
        "match alone, 1 equal by math-verify alone and accepted, 1 equal by math-verify alone and refused by a "
        "rule; math-verify was stopped on 0"
    )


def test_audit_keeps_time_outs_apart_and_lists_only_so_many() -> None:
    pairs = {("204", "9^{9^{9^9}}"): 1, ("1/2", "0.5"): 1, ("1/4", "0.25"): 1}
    found = audit(RewardParams(timeout=0.7), pairs)
    assert [(one.answer, one.math_verify) for one in found.timeouts] == [("9^{9^{9^9}}", Status.TIMEOUT)]
    assert (found.timeouts[0].verdict, found.timeouts[0].reason) == (
        Status.WRONG, "integer: no value: a power too large to compare"
    )  # fmt: skip
    assert {one.answer for one in found.disagreements} == {"0.5", "0.25"}
    assert listed(found, 1).endswith("\n  … and 2 more")
