"""Tests that an answer is credited only where every part of it is understood, and that honest ways of writing are."""

from collections.abc import Iterator

import pytest

from sdpg.params import RewardParams
from sdpg.rewards.answers.vocabulary import CHANGES, DENIALS, NAMES, WORDS
from sdpg.rewards.verifiers import Status, Verifier

GOLDS = ("204", r"\frac{1}{2}", r"2\sqrt{3}", r"\pi", "x^2+1", "1,-2", "(1,2)", r"336^\circ", "B", "x<3")

DENIED = (
    # words behind, before, and in a name
    r"%s\text{ is not correct}", r"%s\text{ never}", r"%s\text{ is rejected}", r"%s\text{ maybe}", r"%s\text{?}", "%s?",
    r"%s\text{ (extraneous)}", r"%s\text{ or not}", r"%s\text{ und nicht}", r"%s\text{ 不对}", r"%s\text{ — wrong}",
    r"%s\text{ i s n o t}", r"%s\text{ \textbf{is not it}}", r"%s\text{ {{{is not it}}}}", r"%s\textsc{ no}",
    r"%s\mathrm{not}", r"%s\,\mathrm{not\ it}", r"%s\operatorname{no}", r"%s{\rm no}", r"%s\textit{ no}",
    r"%s\quad\text{not}", r"%s\text{ cm less}", r"%s\text{th}", r"%s\text{-ish}", r"%s\text{ xor something}",
    r"%s\text{ hours ago}", r"%s is not it", r"%s false", r"\text{never }%s", r"\text{anything but }%s", r"не %s",
    r"\mathbf{not }%s", r"\operatorname{not}(%s)", r"\mathrm{neg}\,%s", r"\text{false}=%s", r"\text{Not }x=%s",
    r"\text{wrong value}=%s", r"\text{Suppose }x=%s", r"\text{assuming false, }%s", r"x=%s\text{ is not}",
    r"\text{reciprocal of }x=%s", r"\text{Reciprocal}=%s", r"\text{Half of }x=%s", r"\text{twice the answer}=%s",
    r"\text{negative }x=%s", r"\text{the square root of }x=%s", r"\text{A multiple of }x=%s", "neg x=%s",
    r"\operatorname{inv}(x)=%s", r"\text{one less than }x=%s", r"\text{minus the answer}=%s", r"\text{zork}=%s",
    r"\text{smaller}=%s", r"\text{dozens of }x=%s", "reciprocal=%s",
    r"%s\approx 3\text{ is false}", r"\text{approximately }%s", r"%s\text{ approximately}", r"%s\text{ below zero}",
    # what is not shown, or struck out
    r"\phantom{%s}", r"\hphantom{%s}", r"\vphantom{%s}", r"\text{\phantom{%s}}", r"\mathrm{\phantom{%s}}",
    r"\color{white}{%s}", r"\color{white}%s", r"{\color{white} %s}", r"\textcolor{white}{%s}", r"\cancel{%s}",
    r"\bcancel{%s}", r"\xcancel{%s}", r"\boldsymbol{\cancel{%s}}", r"\sout{%s}", r"\st{%s}", r"\not %s", r"\not{%s}",
    r"\rlap{/}%s", r"\enclose{horizontalstrike}{%s}", r"\unknowncommand{%s}", r"%s\unknowncommand", r"%s\footnote{no}",
    r"%s\tag{wrong}", r"\tag{%s}", r"\begin{comment}%s\end{comment}", r"\iffalse %s\fi", "%s\u0338", "%s\u200b",
    # exponents, subscripts, operators and signs
    "%s^T", "%s^{T}", r"%s^{\,T}", "(%s)^T", "%s^c", r"%s^{\mathrm{T}}", r"%s^\top", r"%s^\dagger", "%s^*", "%s^{-}",
    r"%s^{\text{wrong}}", r"%s_{\text{wrong}}", "%s^{th}", "%s|_{0}", "%s+", "%s-", r"%s\times", "%s/", r"%s\to",
    r"%s\bot", r"\neg %s", r"\sim %s", r"\pm\pm %s", r"\neq %s", "≠%s", "¬%s", "❌%s", "%s✗", r"%s\notin S", "%s@",
    "%s#",
    r"%s\cap\emptyset", r"%s\iff\text{false}", r"\text{false}\implies %s", r"x\overset{?}{=}%s", r"%s\land\bot",
    # dots
    r"%s\ldots", r"%s\dots", r"%s\cdots", "%s...", "%s. .", "%s…", r"%s\ldots.",
)  # fmt: skip
"""Answers that hold a gold answer and take it back, hide it, or make something else of it."""

HONEST = [
    ("204", answer) for answer in (
        "204.", "$204$", r"\(204\)", " 204 ", "204.0", r"\$204", r"204\text{ dollars}", r"204\text{ cm}", "204 cm",
        r"204\,\mathrm{cm}", r"204\ \mathrm{m^{2}}", r"204\text{ cm}^2", r"204\text{ cm}^{2}", r"204^\circ", "204°",
        r"204\text{ degrees}", r"204\text{ miles per hour}", r"204\text{ square units}", r"204\text{ sq. units}",
        r"204\text{ units}^2", r"204\text{ apples}", r"204\text{ students}", r"204\text{ ways}", r"204\text{ minutes}",
        r"204\text{ cents}", r"204 \text{ km/h}", r"204\text{ m/s}", r"204\text{ people in total}", r"204\text{ more}",
        r"\text{Area}=204", r"x=204\text{ cm}", r"m+n=204", r"\dfrac{408}{2}", r"\mathrm{204}", r"\mathbf{204}",
        r"\left(204\right)", r"\displaystyle 204", r"200+4", r"2\cdot 102", r"2\times 102", r"\sqrt{41616}",
        r"\text{Number of ways}=204", r"\text{Tom's age}=204", r"\text{Alice}=204", "ABCD=204", "xyz=204", "AB+BC=204",
        r"\text{The sum of the digits of }n=204", r"\text{area of the square}=204", r"\text{Remaining eggs}=204",
        r"\text{Largest prime factor of }x=204", r"\text{Average speed}=204\text{ km/h}", r"\text{Profit}=\$204",
        r"17\text{ dozen}=204", r"\text{Total cost}=\$100+\$104=\$204", r"x\text{ and }y=204",
        r"\text{Perimeter of }\triangle ABC=204", r"2x=408\implies x=204", r"x=1+2+\cdots=204", r"\lfloor 204.7\rfloor",
        r"\sum_{n=1}^{3} 68", r"\gcd(204,408)", r"204\text{ hours}.", r"204\,", r"204\;\text{kg}", r"{204}",
    )
] + [
    ("1234", "1,234"), ("1234", r"1{,}234"), ("1234", r"1\,234"), ("1234", r"1,\!234\text{ cm}"), ("-5", "−5"),
    (r"\frac{1}{2}", r"\dfrac12"), (r"\frac{1}{2}", r"0.5\text{ cm}"), (r"\frac{1}{2}", r"P(X>2)=\tfrac{1}{2}"),
    (r"\frac{\pi}{2}", r"\pi/2\text{ radians}"), (r"2\sqrt{3}", r"2\sqrt3\approx 3.46"), ("3.14", r"\approx 3.14"),
    (r"2\sqrt{3}", r"2\sqrt3\approx 3.464\ldots"), (r"2\sqrt{3}", r"\sqrt{12}\text{ units}"),
    (r"16\pi", r"16\pi\text{ square inches}"),
    (r"336^\circ", r"336\text{ deg}"), (r"50\%", r"50\%"), ("C", r"\text{(C)}"),
    ("x^2+1", "1+x^2"), ("x^2+1", "y=x^2+1"), ("x^2+1", r"f(x)=1+x^{2}"), ("x^{n+1}", r"x\cdot x^{n}"),
    ("1,-2", r"x=1\text{ or }x=-2"), ("1,-2", r"1\text{ and }-2"), ("1,-2", "x_1=1, x_2=-2"), ("(1,2)", "(x,y)=(1,2)"),
    ("(1,2)", r"\left( 1,\, 2\right)"), ("x<3", r"(-\infty,3)"), ("x<3", "x < 3"), (r"\text{Evelyn}", r"\text{Evelyn}"),
    (r"(-\infty,2)\cup(5,\infty)", r"(5,\infty)\cup(-\infty,2)"), (r"\text{odd}", "odd"), ("5", r"5\text{ cm.}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"), ("3", r"x\equiv 3\pmod{10}"),
    (r"1,2,\ldots,9", r"1, 2, \ldots, 9"), ("a^T b", r"a^{T} b"),
]  # fmt: skip
"""Right answers as people and models write them."""


@pytest.fixture(scope="module")
def verifier() -> Iterator[Verifier]:
    with Verifier(RewardParams(timeout=20.0)) as shared:
        yield shared


def test_what_takes_an_answer_back_is_credited_for_no_gold(verifier: Verifier) -> None:
    pairs = [(gold, form.replace("%s", gold)) for gold in GOLDS for form in DENIED]
    verdicts = verifier.score([rf"\boxed{{{answer}}}" for _, answer in pairs], [gold for gold, _ in pairs],
                              [False] * len(pairs))  # fmt: skip
    credited = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.status is not Status.WRONG]
    assert credited == []


def test_honest_answers_are_credited(verifier: Verifier) -> None:
    outcomes = verifier.outcomes(HONEST)
    refused = [(*pair, outcome.reason) for pair, outcome in zip(HONEST, outcomes, strict=True)
               if outcome.status is not Status.CORRECT]  # fmt: skip
    assert refused == []


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (r"5\text{ quuxes}", r"5\text{ zorks}", False),
        (r"5\text{ quuxes}", r"5\ \text{quuxes}", True),
        (r"\text{no solution}", r"\text{there is no solution}", True),
        (r"a\oplus b", r"a\, \oplus\, b", True),
    ],
)
def test_what_a_gold_answer_holds_may_stand_in_an_answer(
    gold: str, answer: str, right: bool, verifier: Verifier
) -> None:
    assert (verifier.compare([(gold, answer)]) == [Status.CORRECT]) is right


def test_no_word_is_both_a_denial_and_a_unit() -> None:
    assert not DENIALS & (WORDS | NAMES)
    assert not CHANGES & (WORDS | NAMES)
