"""Tests templates, chat rendering, the alignment lint and prepared rows."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sdpg.errors import UserError
from sdpg.params import PromptParams
from sdpg.problems.prompts import (
    PreparedRow,
    chat_prompt,
    generation_header,
    lint_alignment,
    prepare_row,
    prompt_ids,
    read_prepared,
    render_student,
    render_teacher,
)
from sdpg.problems.sources import Problem
from sdpg.problems.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["Question: Solve it. The answer is 12.\n"] * 5, 300)
TEACHER = {"answer_and_solution": "{student}\nAnswer: {answer}. Solution: {solution}", "answer": "{student}\n={answer}"}
PROMPTS = PromptParams(student="Q: {problem}\nBox it.", teacher=TEACHER)
PROBLEM = Problem("p-0", "What is $\\frac{1}{2}+{answer}$?", "12", "By {student} and {problem}: \\boxed{12}", "hand")


def variant(**changes: object) -> PromptParams:
    return PromptParams.model_validate(PROMPTS.model_dump() | changes)


def test_braces_and_placeholders_in_values_are_left_alone() -> None:
    student = "Q: What is $\\frac{1}{2}+{answer}$?\nBox it."
    assert render_student(PROMPTS, PROBLEM) == student
    assert render_teacher(PROMPTS, PROBLEM) == (
        f"{student}\nAnswer: 12. Solution: By {{student}} and {{problem}}: \\boxed{{12}}"
    )


@given(st.text(), st.text(), st.text(min_size=1))
def test_values_appear_as_they_are(problem: str, answer: str, solution: str) -> None:
    teacher = render_teacher(PROMPTS, Problem("", problem, answer, solution, ""))
    assert teacher == f"Q: {problem}\nBox it.\nAnswer: {answer}. Solution: {solution}"


def test_hints() -> None:
    unsolved = Problem("p", "1+1", "2", "", "hand")
    assert render_teacher(PROMPTS, unsolved) is None
    assert render_teacher(variant(hint="answer"), unsolved) == "Q: 1+1\nBox it.\n=2"


def test_chat_prompt() -> None:
    assert chat_prompt(TOKENIZER, "x", PROMPTS) == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert chat_prompt(TOKENIZER, "x", variant(system="Be brief.")).startswith(
        "<|im_start|>system\nBe brief.<|im_end|>"
    )


def test_special_tokens_are_not_added_twice() -> None:
    ids = prompt_ids(TOKENIZER, chat_prompt(TOKENIZER, "x", PROMPTS))
    assert ids.count(TOKENIZER.convert_tokens_to_ids("<|im_start|>")) == 2
    assert ids.count(TOKENIZER.convert_tokens_to_ids("<|im_end|>")) == 1


def test_a_template_that_refuses_the_conversation_is_named() -> None:
    strict = train_tokenizer([], 259)
    strict.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserError, match=r"prompts\.system .*no system role"):
        chat_prompt(strict, "x", PROMPTS)


@pytest.mark.parametrize("kwargs", [{}, {"enable_thinking": True}, {"enable_thinking": False}])
def test_both_prompts_end_in_the_header(kwargs: dict[str, bool]) -> None:
    prompts = variant(chat_template_kwargs=kwargs)
    header = "<|im_start|>assistant\n" + ("" if kwargs.get("enable_thinking", True) else "<think>\n\n</think>\n\n")
    assert generation_header(TOKENIZER, prompts) == header
    row = prepare_row(TOKENIZER, PROBLEM, prompts)
    assert row.student_prompt.endswith(header)
    assert row.teacher_prompt is not None and row.teacher_prompt.endswith(header)


def rendered(tokenizer: object = TOKENIZER) -> tuple[str, str]:
    texts = render_student(PROMPTS, PROBLEM), render_teacher(PROMPTS, PROBLEM) or ""
    student, teacher = (chat_prompt(tokenizer, text, PROMPTS) for text in texts)  # type: ignore[arg-type]
    return student, teacher


def test_lint_refuses_a_cut_prompt() -> None:
    student, teacher = rendered()
    lint_alignment(TOKENIZER, student, teacher, PROMPTS)
    with pytest.raises(UserError, match=r"the teacher prompt does not end in the generation header '<\|im_start\|>ass"):
        lint_alignment(TOKENIZER, student, teacher[:-12], PROMPTS)
    with pytest.raises(UserError, match="the student prompt does not end"):
        lint_alignment(TOKENIZER, student[:-1], teacher, PROMPTS)


def test_lint_refuses_a_template_that_depends_on_the_text() -> None:
    tokenizer = train_tokenizer([], 259)
    tokenizer.chat_template = (
        "{{ messages[0].content }}"
        "{% if add_generation_prompt %}{{ '<hinted>' if 'Answer' in messages[0].content else '<plain>' }}{% endif %}"
    )
    with pytest.raises(UserError, match=r"the teacher prompt .*'<plain>' but in '.*<hinted>'"):
        lint_alignment(tokenizer, *rendered(tokenizer), PROMPTS)


def test_lint_refuses_a_header_that_merges_with_the_response() -> None:
    # "aStep" is one token of this tokenizer, so a header that ends in "a" would lose that letter to the response.
    tokenizer = train_tokenizer(["aStep "] * 50, 300)
    tokenizer.chat_template = "{{ messages[0].content }}{% if add_generation_prompt %}{{ '\n' + 'a' }}{% endif %}"
    with pytest.raises(UserError, match="a response merges with the end of the student prompt"):
        lint_alignment(tokenizer, *rendered(tokenizer), PROMPTS)


def test_lint_refuses_a_header_that_merges_with_the_text() -> None:
    # The header starts with a space, which is a token of its own behind ":" and part of a longer one behind spaces.
    tokenizer = train_tokenizer(["x" + " " * 8 + "\n"] * 50, 300)
    tokenizer.chat_template = "{{ messages[0].content }}{% if add_generation_prompt %}{{ ' \n' }}{% endif %}"
    with pytest.raises(UserError, match="the generation header is tokenized as"):
        lint_alignment(tokenizer, "Solve: \n", "Solve        \n", PROMPTS)


def test_lint_refuses_a_template_without_header() -> None:
    tokenizer = train_tokenizer([], 259)
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(UserError, match="ignores add_generation_prompt"):
        lint_alignment(tokenizer, "a", "b", PROMPTS)


def test_counts_are_those_of_the_rendered_prompts() -> None:
    row = prepare_row(TOKENIZER, PROBLEM, PROMPTS)
    assert row.student_tokens == len(prompt_ids(TOKENIZER, row.student_prompt))
    assert row.teacher_tokens is not None and row.teacher_tokens > row.student_tokens
    unsolved = prepare_row(TOKENIZER, Problem("p", "1+1", "2", "", "hand"), PROMPTS)
    assert (unsolved.teacher_prompt, unsolved.teacher_tokens) == (None, None)


def test_rows_survive_the_file(tmp_path: Path) -> None:
    rows = [prepare_row(TOKENIZER, PROBLEM, PROMPTS), prepare_row(TOKENIZER, Problem("p", "1", "2", "", "x"), PROMPTS)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows))
    assert read_prepared(path) == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "answer is None, not str"),
        ({"student_tokens": "7"}, "student_tokens is '7', not int"),
        ({"surplus": 1}, "surplus is unknown"),
        ({"answer": ...}, "answer is missing"),
    ],
)
def test_a_malformed_row_is_named_by_its_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    row = prepare_row(TOKENIZER, PROBLEM, PROMPTS).to_dict()
    broken = {key: value for key, value in (row | change).items() if value is not ...}
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(broken)}\n")  # a blank line counts as a line
    with pytest.raises(UserError, match=rf"rows\.jsonl, line 3: .*{message}"):
        read_prepared(path)


def test_a_prepared_row_is_a_problem() -> None:
    assert isinstance(PreparedRow("i", "p", "a", "s", "o", "sp", None, 1, None), Problem)
