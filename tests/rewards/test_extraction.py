"""Tests where a response's answer is found, and its form without packaging."""

import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sdpg.rewards.extraction import (
    balanced,
    extract_answer_line,
    extract_boxed,
    is_integer,
    nesting,
    normalise_answer,
    normalise_string,
)

# Extraction


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"First \boxed{5}. No: \boxed{204}", "204"),
        (r"\boxed{\frac{1}{2}} and more", r"\frac{1}{2}"),
        (r"\boxed{5} then \boxed{204", "5"),
        (r"\boxed{5 then \boxed{204} then", "204"),
        (r"\boxed{5} \boxed{{204}", "5"),
        (r"\boxed{\left\{x\right.} }", r"\left\{x\right."),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed {7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"\[\\\boxed{7}\]", "7"),
        (r"} stray \boxed{7}", "7"),
        (r"<think>\boxed{1}</think> so \boxed{2}", "2"),
        (r"<think>\boxed{1}</think> so 2", None),
        (r"<think>\boxed{1}", "1"),
        (r"<think>\boxed{1}</think> no, <think>\boxed{2}</think> so \boxed{3} <think>", "3"),
        (r"<think>a</think> \boxed{1} <think>\boxed{2}</think> so 3", None),
        (r"</think>\boxed{1}</think></think>", None),
        (r"\boxed{}", ""),
        (r"\boxedtext{5} boxed{5} \boxed format, \boxed70", None),
        (r"So \boxed 70.", "70"),
        (r"\boxed{5}, no: \boxed -1,234.5 then", "-1,234.5"),
        (r"\boxed 5, no: \boxed{70}", "70"),
        (r"So \boxed C.", "C"),
        (r"\boxed 1/2", "1/2"),
        (r"\boxed 2^3", None),
        (r"So \fbox{70}.", "70"),
        (r"\boxed{5} and \fbox{70}", "5"),
        (r"\boxed{\fbox{70}}", r"\fbox{70}"),
        ("", None),
    ],
)
def test_extract_boxed(text: str, answer: str | None) -> None:
    assert extract_boxed(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 5\nAnswer: 6\nthanks", "6"),
        ("**Final answer:** $x$ ", "$x$"),
        ("answer : 7\r\n", "7"),
        ("Answer: 1</think>none", None),
        ("<think></think>\nAnswer: 1\n<think>perhaps</think>\nnone", None),
        ("<think></think>\nAnswer: 1\n<think>perhaps</think>\nAnswer: 2", "2"),
        ("The answer: 5", None),
        ("Answer:\n5", None),
    ],
)
def test_extract_answer_line(text: str, answer: str | None) -> None:
    assert extract_answer_line(text) == answer


@given(st.recursive(st.text("ab1 \n", max_size=5), lambda inner: st.lists(inner).map(lambda p: "{" + "".join(p) + "}")))
def test_extract_boxed_returns_any_balanced_content(content: str) -> None:
    assert extract_boxed(f"{{ \\boxed{{wrong}} x \\boxed{{{content}}} }}") == content.strip()


@given(st.text(r"\{}boxed$ .1,0" + "\n"))
def test_extraction_and_normalisation_take_any_text(text: str) -> None:
    extract_boxed(text)
    extract_answer_line(text)
    normalise_string(text)
    assert normalise_answer(normalise_answer(text)) == normalise_answer(text)


@pytest.mark.parametrize(
    "text",
    [
        (r"\boxed{1}" + "x" * 102) * 900 + r"\boxed{204}",
        r"\boxed{204}" + r"\boxed{" * 14_000,
        r"\boxed{204}" + "{" * 100_000,
        r"\boxed{204}" + r"\boxed" + " " * 100_000,
        "Answer: " + "*" * 50_000 + " " * 50_000 + r"\boxed{204}",
    ],
)
def test_long_texts_take_linear_time(text: str) -> None:
    begin = time.process_time()
    assert extract_boxed(text) == "204"
    extract_answer_line(text)
    assert time.process_time() - begin < 1  # 0.02 s in fact; a quadratic pass takes minutes


# Normalisation


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" $27$. ", "27"), ("027", "27"), ("27.0", "27"), ("27.", "27"), ("000", "0"), ("-0", "0"), ("+5", "5"),
        ("−5", "-5"), ("1,234,567", "1234567"), ("1{,}234", "1234"), (r"1\,234", "1234"), (r"2,\!000", "2000"),
        (r"11,\! 111,\! 100", "11111100"), (r"2,\,000", "2000"), (r"2,\!00", r"2,\!00"), ("2, 000", "2, 000"),
        (r"\$1,000.00", "1000"),
        (r"$\text{42}$.", "42"), (r"\mathrm{ B }", "B"), (r"\(5\)", "5"), (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("12,34", "12,34"), ("1,2", "1,2"), ("27.5", "27.5"), (r" 336^\circ ", r"336^\circ"), ("1/2", "1/2"),
        (r"\frac{1}{2}", r"\frac{1}{2}"), (r"\text{a}\text{b}", r"\text{a}\text{b}"), (r"x\right.", r"x\right."),
        ("٢٧", "٢٧"), ("²", "²"), ("", ""), ("$", ""),
    ],
)  # fmt: skip
def test_normalise_answer(text: str, normal: str) -> None:
    assert normalise_answer(text) == normal


@given(st.integers())
def test_every_way_to_write_an_integer_has_one_normal_form(number: int) -> None:
    sign, digits = ("-" if number < 0 else ""), str(abs(number))
    for text in (f"{number:,}", f"{number}.00", f"{sign}000{digits}", f"${number}$.", f"\\text{{ {number} }}"):
        assert normalise_answer(text) == str(number)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (r"$1{,}234$", "1234"), ("x = 5.", "5"), (r"336^{\circ}", "336"), ("336°", "336"), (r"12\text{ cm}", "12"),
        (r"\left( 1, 2 \right)", "(1,2)"), (r"\dfrac12", r"\frac{1}{2}"), (r"\sqrt3", r"\sqrt{3}"), (r"50\%", "50"),
        (r"\text{ B }", "B"), ("3m", "3m"), (r"a\leftarrow b", r"a\leftarrowb"), ("027", "027"), ("27.0", "27.0"),
    ],
)  # fmt: skip
def test_normalise_string(text: str, normal: str) -> None:
    assert normalise_string(text) == normal


def test_a_group_of_thousands_begins_with_no_zero() -> None:
    assert normalise_answer("0,204") == "0,204"
    assert normalise_answer("1,204") == "1204"
    assert normalise_answer(r"\fbox{204}") == "204"


@pytest.mark.parametrize(
    ("text", "deepest"), [("", 0), ("(1)", 1), (r"\frac{1}{2}", 1), ("([{", 3), ("(()())", 2), (")(", 1)]
)
def test_nesting(text: str, deepest: int) -> None:
    assert nesting(text) == deepest


@pytest.mark.parametrize(
    ("text", "whole"), [("{}", True), ("}{", False), (r"\}{}", True), (r"\{", True), ("{", False), (r"\boxed{1}", True)]
)
def test_balanced(text: str, whole: bool) -> None:
    assert balanced(text) == whole


@pytest.mark.parametrize(("text", "whole"), [("0", True), ("-12", True), ("٢", False), ("1.0", False), ("", False)])
def test_is_integer(text: str, whole: bool) -> None:
    assert is_integer(text) == whole
