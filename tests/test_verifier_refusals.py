"""What an answer may not say beside its value, rule by rule, and what math-verify alone makes of it."""

from collections.abc import Iterator

import pytest

from sdpg.audit import audit, listed
from sdpg.params import RewardParams
from sdpg.refusals import numbers_before, refusal, stated_number
from sdpg.rewards import Status, Verifier
from sdpg.verification import every_side_equal, math_verify_equal

FOOLING = [
    ("204", "205=204"), ("204", "x=205=204"), ("204", r"204\text{ thousand}"), ("204", r"204\text{, no wait, 205}"),
    ("204", r"204\text{ m} + 1\text{ m}"), ("204", "204_8"), ("204", "[204,204]"), ("204", r"\{204,204\}"),
    ("204", "203 1"), ("204", "203(1)"), ("204", "204 h 5"), ("204", r"204\text{ percent}"), ("204", "204'"),
    ("204", r"\fbox{204}205"), (r"336^\circ", r"336\text{ rad}"), (r"336^\circ", "336'"),
    (r"\frac{1}{2}", r"0.6=\frac{1}{2}"), ("x^2+1", r"x^2+1\text{ or 778}"), ("x^2+1", "x^2+1_8"),
]  # fmt: skip
"""Wrong answers that math-verify alone holds to be right."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardParams(timeout=20.0)) as shared:
        yield shared


@pytest.mark.parametrize(("gold", "answer"), FOOLING)
def test_what_fools_math_verify_is_refused(gold: str, answer: str, verifier: Verifier) -> None:
    assert math_verify_equal(gold, answer)
    assert verifier.compare([(gold, answer)]) == [Status.WRONG]


@pytest.mark.parametrize(
    "text", [r"(( $204$", r"\badcommand( \(204\)", r"not \frac{204}{1} ((", "((, final answer is $204$. I hope"]
)
def test_a_formula_within_an_answer_that_does_not_parse_is_not_the_answer(text: str) -> None:
    assert not math_verify_equal("204", text)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (r"204\text{ thousand}", "the word 'thousand'"),
        (r"204\text{ or more}", "the word 'more'"),
        ("204 k", "the word 'k'"),
        (r"204\text{ or }205", "several numbers with words between them"),
        (r"204\text{ (base 8)}", "several numbers with words between them"),
        ("204 h 5", "several numbers with words between them"),
        ("203 1", "several numbers with nothing between them"),
        ("203{}1", "several numbers with nothing between them"),
        (r"\left(203\right)1", "several numbers with nothing between them"),
        (r"205\text{ or }x=204", "a number among words before the equals sign"),
        (r"204\%", "a percentage against a number that is none"),
        (r"204 percent", "a percentage against a number that is none"),
        ("204_8", "a number of another base"),
        ("(204)_{8}", "a number of another base"),
        ("204'", "minutes, seconds or a prime"),
        ("204, 205", "a list or an interval"),
        ("[204,204]", "a list or an interval"),
        ("204;", "a list or an interval"),
        (r"\fbox{204}", "a box within the answer"),
        ("x!=204", "a relation that is no equation"),
        ("x>=204", "a relation that is no equation"),
        (r"\not= 204", "a relation that is no equation"),
        (r"x \ne y = 204", "a relation that is no equation"),
        ("x≤y=204", "a relation that is no equation"),
        (r"x\approx 204", "an approximation of a number that is exact"),
        ("x≈204", "an approximation of a number that is exact"),
    ],
)
def test_reasons(answer: str, reason: str) -> None:
    assert refusal("204", answer) == reason


@pytest.mark.parametrize(
    "answer",
    [
        "205", "x=204", r"204\text{ cm}", r"204\text{ cm}^2", r"204\,\mathrm{cm}^{3}", "204 m", "204_{10}",
        r"\frac{408}{2}", r"\frac 1 2", r"\frac12", "1 1/2", r"1\frac12", "1,204", r"1{,}204.5", r"\gcd(204,408)",
        "a_5=204", "f'(2)=204",
        r"\text{Area}=204", r"\text{The answer is }204", r"\sqrt{2}+3\sqrt{3}", r"2\cdot 102", r"10^{2}\cdot 2",
        r"204\;",
        r"\binom{4}{2}", r"\sum_{i=1}^{204} 1", r"x = 100+104 = 204", r"204^\circ",
    ],
)  # fmt: skip
def test_what_may_stand_beside_a_number(answer: str) -> None:
    assert refusal("204", answer) is None


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        (r"336^\circ", r"336\text{ degrees}", None),
        (r"336^\circ", r"\angle ABC=336^\circ", None),
        (r"336^\circ", "336 m", "the unit 'm' for an angle in degrees"),
        ("336", r"336\text{ rad}", None),
        (r"50\%", r"50\%", None),
        (r"50\%", "50", "a percentage against a number that is none"),
        ("204_8", "204_8", None),
        ("204_8", "204_9", "a number of another base"),
        (r"\text{B}", r"\text{not B}", None),
        ("x+1", "x+1'", "minutes, seconds or a prime"),
        ("f'(x)", "f'(x)", None),
        ("x^2", "2 x x", None),
        (r"\log_{2}3", r"\log_2 3", None),
        ("3.14", r"\pi\approx 3.14", None),
        ("x^2", "y!=x^2", "a relation that is no equation"),
        ("(1,2)", "1<x<2", None),
        ("x<5", "x<5", None),
        ("1,2", "1, 2", None),
        ("(1,2)", "(1,2)", None),
        (r"x\text{ if }y", r"5\text{ or }7", None),
    ],
)
def test_rules_depend_on_the_gold_answer(gold: str, answer: str, reason: str | None) -> None:
    assert refusal(gold, answer) == reason


@pytest.mark.parametrize(
    ("answer", "sides"),
    [
        ("204", []), ("x=204", []), ("205=204", ["205"]), ("x=205=204", ["205"]), ("100+104 = 204", ["100+104"]),
        (r"\theta=204", []), (r"\sqrt{4}=204", [r"\sqrt{4}"]), (r"\text{Answer: }205=204", [r"\text{Answer: }205"]),
        (r"\text{Area}=204", []), (r"\sum_{i=1}^{204} 1", []), (r"203.9\approx 204", ["203.9"]), ("204=", ["204"]),
    ],
)  # fmt: skip
def test_numbers_before(answer: str, sides: list[str]) -> None:
    assert numbers_before("204", answer) == sides
    assert numbers_before("x=204", answer) == []


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("204", "204"), ("x=204", "204"), (r"m+n = 204\,\text{ cm}^2", "204"), ("205=204", "205=204"),
        ("x=y=204", "204"), ("x=205=204", "x=205=204"), (r"x\equiv 204", r"x\equiv 204"),
        (r"x\equiv y=204", r"x\equiv y=204"), ("204 m", "204 m"), (r"\sum_{i=1} i", r"\sum_{i=1} i"),
    ],
)  # fmt: skip
def test_stated_number(answer: str, number: str) -> None:
    assert stated_number(answer) == number


def test_each_side_of_a_chain_counts() -> None:
    assert every_side_equal("204", "x = 100+104 = 204")
    assert not every_side_equal("204", "x = 100+105 = 204")
    assert math_verify_equal("204", "x = 100+105 = 204")


# Audit


def test_audit_counts_and_lists_what_the_two_say() -> None:
    pairs = {("204", "204"): 7, ("204", "205=204"): 2, ("1/2", "0.5"): 3, ("204", "203"): 5, ("50%", "50%"): 4,
             ("4}", "4}"): 1}  # fmt: skip
    found = audit(RewardParams(timeout=20.0), pairs)
    assert (found.pairs, found.answers, found.timeouts) == (6, 22, [])
    told = {one.answer: (one.count, one.exact.value, one.math_verify.value, one.verdict.value, one.refused_for)
            for one in found.disagreements}  # fmt: skip
    assert told == {
        "0.5": (3, "wrong", "correct", "correct", None),
        "205=204": (2, "wrong", "correct", "wrong", None),
        "4}": (1, "correct", "wrong", "correct", None),
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
    assert found.timeouts[0].verdict is Status.TIMEOUT
    assert {one.answer for one in found.disagreements} == {"0.5", "0.25"}
    assert listed(found, 1).endswith("\n  … and 2 more")
