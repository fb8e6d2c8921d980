"""Tests answers within each kind of gold: twenty forms of a right one are right, near misses are wrong, and why."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
import json
from pathlib import Path
import random

import pytest

from sdpg.params import RewardParams
from sdpg.rewards.answers.judging import Kind, judge, read_gold
from sdpg.rewards.verifiers import Status, Verifier
from tests.helpers.answer_forms import FORMS

CASES = Path(__file__).parents[3] / "shared" / "data" / "verifier-cases.jsonl"
PACKAGES = (
    "%s", "$%s$", r"\displaystyle %s", r"\ %s\ ", r"\boldsymbol{%s}", r"\textcolor{blue}{%s}", r"{\large %s}", "%s.",
    r"\(%s\)", r"\,%s\!", r"\quad %s", r"{\color{red}%s}", r"\hspace{2mm}%s", "**%s**",
)  # fmt: skip
"""What may be around any answer; of a text the periods and fonts within it are tried by hand."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardParams(timeout=20.0)) as shared:
        yield shared


def judged(verifier: Verifier, pairs: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Returns gold, answer and reason of those that are not right."""
    outcomes = verifier.outcomes(pairs)
    return [(*pair, outcome.reason) for pair, outcome in zip(pairs, outcomes, strict=True)
            if outcome.status is not Status.CORRECT]  # fmt: skip


def packaged(answer: str, count: int, seed: str) -> list[str]:
    """Returns an answer in so many packages, the same each time."""
    return [package.replace("%s", answer) for package in random.Random(seed).sample(PACKAGES, count)]


@pytest.mark.skipif(not CASES.is_file(), reason=f"no cases in {CASES}")
def test_every_reported_case_is_judged_right(verifier: Verifier) -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    verdicts = verifier.score([case["completion"] for case in cases], [case["answer"] for case in cases],
                              [False] * len(cases))  # fmt: skip
    wrongly = [(case["id"], case["answer"], verdict.extracted_answer, verdict.reason)
               for case, verdict in zip(cases, verdicts, strict=True)
               if (verdict.status is Status.CORRECT) is not case["correct"]]  # fmt: skip
    assert (len(cases), wrongly) == (185, [])


def test_each_gold_has_the_kind_that_it_is_listed_under() -> None:
    assert {gold: read_gold(gold).kind for _, gold, *_ in FORMS} == {gold: kind for kind, gold, *_ in FORMS}
    assert {kind for kind, *_ in FORMS} == set(Kind) - {Kind.OTHER}


def test_right_answers_of_every_kind_are_right_in_many_forms(verifier: Verifier) -> None:
    counts = defaultdict[str, int](int)
    pairs = []
    for kind, gold, right, _ in FORMS:
        for answer in right.split(" ; "):
            # An answer that ends in a period or an ellipsis takes no further one.
            forms = [answer] if answer.endswith((".", ".}", "ldots")) else packaged(answer, 4, gold + answer)
            counts[kind] += len(forms)
            pairs += [(gold, form) for form in forms]
    assert judged(verifier, pairs) == []
    assert min(counts.values()) >= 20


def test_near_misses_of_every_kind_are_wrong_in_any_package(verifier: Verifier) -> None:
    pairs = [(gold, form) for _, gold, _, wrong in FORMS for answer in wrong.split(" ; ")
             for form in packaged(answer, 1, gold + answer)]  # fmt: skip
    assert len(judged(verifier, pairs)) == len(pairs) > 400


def test_no_gold_is_right_for_another(verifier: Verifier) -> None:
    golds = [gold for _, gold, *_ in FORMS]
    equal = {("5", "5"), (r"\frac{1}{3}", r"0.\overline{3}"), ("3½", r"3\frac{1}{2}"), ("pale", r"\text{pale}"),
             ("3.14", r"\pi"), ("x=5", r"5\text{ apples}"), ("x=5", r"5\text{ p.m.}")}  # fmt: skip
    pairs = [(gold, answer) for gold, answer in product(golds, golds[::3]) if gold != answer]
    right = {tuple(sorted(pair)) for pair in pairs} - {tuple(sorted(one[:2])) for one in judged(verifier, pairs)}
    assert right <= {tuple(sorted(pair)) for pair in equal}


# Numbers, by code


def written_numbers(at: random.Random) -> tuple[str, list[str], list[str]]:
    """Returns a gold number in e-notation or as a decimal, ways to write it, and other numbers."""
    digits, power = at.randint(101, 999), at.randint(-40, 40)
    first, rest = str(digits)[0], str(digits)[1:]
    sign = at.choice(["", "-"])
    gold = f"{sign}{first}.{rest}e{power}"
    number = f"{sign}{first}.{rest}"
    right = [
        rf"{number}\times 10^{{{power}}}",
        rf"{sign}{digits}\cdot 10^{{{power - 2}}}",
        f"{number}0E{power:+03d}",
        rf"x={number} \times10^{{{power}}}\text{{ kg}}",
        rf"\frac{{{sign}{digits}}}{{100}}\cdot 10^{{{power}}}",
    ]
    opposite = "" if sign else "-"
    wrong = [f"{number}e{power + 1}", f"{sign}{digits + 1}e{power - 2}", f"{sign}{digits - 1}e{power - 2}", "0",
             f"{opposite}{first}.{rest}e{power}", f"{number}e{-power or 1}", f"{sign}{digits}e{power}"]  # fmt: skip
    return gold, right, wrong


def test_numbers_of_any_size_are_compared_in_their_own_digits() -> None:
    at = random.Random(18)
    for _ in range(150):
        gold, right, wrong = written_numbers(at)
        assert [(gold, answer) for answer in right if not judge(gold, answer).correct] == []
        assert [(gold, answer) for answer in wrong if judge(gold, answer).correct] == []


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("2.718", ["2.7184", "2.7176", "2.71828"], ["2.7186", "2.7174", "2.72", "2.7"]),
        ("0.00120", ["0.001204", "0.0012"], ["0.001206", "0.00119"]),
        ("1.2", ["1.20"], ["1.21", "1.19", "1.204"]),
        ("7", ["7.0"], ["7.0001", "6.9999999999"]),
        (r"12.5\%", [r"12.52\%"], [r"12.56\%", r"12\%"]),
        (r"6.63\times 10^{-34}", ["6.626e-34"], ["6.6e-34", "6.62e-34"]),
    ],
)
def test_only_a_decimal_of_three_digits_may_be_rounded(gold: str, right: list[str], wrong: list[str]) -> None:
    assert [answer for answer in right if not judge(gold, answer).correct] == []
    assert [answer for answer in wrong if judge(gold, answer).correct] == []


@pytest.mark.parametrize(
    ("gold", "answer", "reason"),
    [
        ("204", r"204\text{ quux}", "integer: not understood: the word 'quux'"),
        ("204", r"\phantom{204}", "integer: not understood: the command 'phantom'"),
        ("204", "204@", "integer: not understood: the sign '@'"),
        ("204", "205.5", "integer: another value"),
        ("204", r"204\%", "integer: a percentage against a number that is none"),
        ("204", r"\text{reciprocal of }x=204", "integer: not understood: the word 'reciprocal'"),
        ("204", r"\text{Cube of }x=204", "integer: not understood: the name 'cube' of something"),
        ("204", r"x\approx 204", "integer: an approximation of an answer that is exact"),
        ("204", "204, 205", "integer: another kind"),
        (r"5\text{ km}", r"5\text{ cm}", "quantity: another value"),
        (r"5\text{ km}", r"5\text{ s}", "quantity: another unit"),
        (r"5\text{ h }30\text{ min}", "5", "quantity: no unit"),
        ("(1,2)", "[1,2]", "tuple or interval: other brackets"),
        ("(1,2)", "(1,2,3)", "tuple or interval: another number of parts"),
        ("x=5", "y=5", "assignment: another name"),
        ("CAB", "BAC", "words: another text"),
        ("x^2", "x^2+0y", "expression: a variable that the gold answer has not"),
        ("4", r"\frac{4}{0}", "integer: no value: a division by zero"),
        (r"\frac12", r"\frac{2}{4}", "rational: equal"),
    ],
)
def test_every_verdict_says_its_kind_and_rule(gold: str, answer: str, reason: str) -> None:
    assert judge(gold, answer).reason == reason
    with Verifier(RewardParams()) as verifier:
        [verdict] = verifier.score([rf"\boxed{{{answer}}}"], [gold], [False])
    assert verdict.reason == reason


def test_what_no_kind_is_goes_to_math_verify_with_nothing_new(verifier: Verifier) -> None:
    gold = r"\int_0^1 x^2\,dx"
    assert read_gold(gold).kind is Kind.OTHER
    told = {
        r"\int_0^1x^2\, dx": ("correct", "other: the same text"),
        r"\int_0^1 x\cdot x\,dx": ("correct", "other: equal for math-verify"),
        r"\int_0^2 x^2\,dx": ("wrong", "other: unequal for math-verify"),
        r"\int_0^1 x^2\,dx\text{ or so}": ("wrong", "other: not understood: 'or'"),
        r"\phantom{\int_0^1 x^2\,dx}": ("wrong", r"other: not understood: '\\phantom'"),
    }
    outcomes = verifier.outcomes([(gold, answer) for answer in told])
    assert [(one.status.value, one.reason) for one in outcomes] == list(told.values())
