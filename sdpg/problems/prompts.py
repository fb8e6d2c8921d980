"""Renders student and teacher prompts: filled templates in the chat template, and a lint that they are aligned.

A *rendered* prompt is the exact text that is tokenized, special tokens included. The student and the teacher score the
same response tokens, so both rendered prompts must end in the same generation header: a response then starts at the
same place, and its tokens are the same ids behind both.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
import re
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from sdpg.errors import UserError
from sdpg.files import read_json_lines
from sdpg.params import PromptParams
from sdpg.problems.raw_rows import json_line_number
from sdpg.problems.sources import MisledProblem, Problem

PROBE = "Step 1: 27 + 5 = 32, so the answer is \\boxed{32}."
"""A response by which the lint compares tokens."""


@dataclass(frozen=True)
class PreparedRow(Problem):
    """A problem with both rendered prompts and their lengths; ``None`` where the problem allows no teacher prompt.

    ``wrong_answer`` is that of a :class:`~sdpg.problems.sources.MisledProblem`.
    """

    student_prompt: str
    teacher_prompt: str | None
    student_tokens: int
    teacher_tokens: int | None
    wrong_answer: str | None = None

    @property
    def hinted_answer(self) -> str:
        """Returns the answer that a hint names."""
        return self.answer if self.wrong_answer is None else self.wrong_answer

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as a plain dictionary, ready for JSON; a wrong answer that is not there is left out."""
        return {name: value for name, value in asdict(self).items() if name != "wrong_answer" or value is not None}

    @classmethod
    def from_dict(cls, row: dict[str, Any], place: str) -> "PreparedRow":
        """Returns the row of a dictionary that :meth:`to_dict` made.

        Raises:
            UserError: if keys are missing, unknown, or of a wrong type; the message names ``place`` and the keys.
        """
        known = {field.name for field in fields(cls)}
        wrong = [f"{key} is missing" for key in sorted(known - row.keys() - {"wrong_answer"})]
        wrong += [f"{key} is unknown" for key in sorted(row.keys() - known)]
        for key, value in row.items():
            kind = int if key.endswith("_tokens") else str
            absent = value is None and key.startswith("teacher_")
            if key in known and not absent and type(value) is not kind:
                wrong.append(f"{key} is {value!r}, not {kind.__name__}")
        if wrong:
            raise UserError(f"{place}: not a prepared problem ({'; '.join(wrong)}): run `dvc repro prepare`")
        return cls(**row)


def read_prepared(path: Path) -> list[PreparedRow]:
    """Reads a file that the ``prepare`` stage wrote.

    Raises:
        UserError: if it is missing, or a row is malformed (named by its line).
    """
    rows = []
    for index, row in enumerate(read_json_lines(path)):
        try:
            rows.append(PreparedRow.from_dict(row, str(path)))
        except UserError:
            # Lines are counted only where they are needed.
            rows.append(PreparedRow.from_dict(row, f"{path}, line {json_line_number(path, index)}"))
    return rows


def longest_prompt(sets: Iterable[Iterable[PreparedRow]], teacher: bool = False) -> int:
    """Returns the tokens of the longest student prompt, or also teacher prompt, of some problem sets."""
    rows = [row for rows in sets for row in rows]
    return max(max(row.student_tokens, (row.teacher_tokens or 0) if teacher else 0) for row in rows)


def fill_template(template: str, values: dict[str, str]) -> str:
    """Replaces ``{name}`` in one pass, so that braces and placeholders inside the values stay as they are."""
    return re.sub("|".join(re.escape(f"{{{name}}}") for name in values), lambda match: values[match[0][1:-1]], template)


def render_student(prompts: PromptParams, problem: Problem) -> str:
    """Returns the student's text: the problem alone."""
    return fill_template(prompts.student, {"problem": problem.problem})


def hint_needs_solution(prompts: PromptParams) -> bool:
    """Returns whether the chosen teacher template shows the worked solution."""
    return "{solution}" in prompts.teacher[prompts.hint]


def render_teacher(prompts: PromptParams, problem: Problem) -> str | None:
    """Returns the teacher's text, the student's and the hint; ``None`` if the hint needs a missing solution."""
    if hint_needs_solution(prompts) and not problem.solution:
        return None
    return fill_teacher(prompts, prompts.hint, problem)


def fill_teacher(prompts: PromptParams, template: str, problem: Problem, **more: str) -> str:
    """Returns a template of ``prompts.teacher`` with the problem, and ``more`` placeholders, filled in."""
    values = {
        "student": render_student(prompts, problem),
        "problem": problem.problem,
        "answer": problem.hinted_answer,
        "solution": problem.solution,
    }
    return fill_template(prompts.teacher[template], values | more)  # pyright: ignore[reportArgumentType]


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, text: str, prompts: PromptParams, add_generation_prompt: bool
) -> str:
    messages = [{"role": "system", "content": prompts.system}] if prompts.system is not None else []
    messages.append({"role": "user", "content": text})
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **prompts.chat_template_kwargs
        )
    except TemplateError as error:
        raise UserError(f"the chat template refuses prompts.system or prompts.chat_template_kwargs: {error}") from None
    assert isinstance(rendered, str), "one conversation, not tokenized"
    return rendered


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str, prompts: PromptParams) -> str:
    """Returns the rendered prompt up to the response: an optional system message, then the text as user message."""
    return _apply_template(tokenizer, text, prompts, add_generation_prompt=True)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, rendered: str) -> list[int]:
    """Returns the token ids of a rendered prompt, which has its special tokens already."""
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]


def generation_header(tokenizer: PreTrainedTokenizerBase, prompts: PromptParams) -> str:
    """Returns what the chat template adds where a response is to start.

    Raises:
        UserError: if it adds nothing.
    """
    bare, headed = (_apply_template(tokenizer, "x", prompts, add_generation_prompt=add) for add in (False, True))
    start = next((i for i, (a, b) in enumerate(zip(bare, headed, strict=False)) if a != b), len(bare))
    header = headed[start:]
    if not header:
        raise UserError(
            "the tokenizer's chat template ignores add_generation_prompt, so no response could start: use the chat "
            "template of an instruction-tuned model"
        )
    return header


def lint_alignment(
    tokenizer: PreTrainedTokenizerBase, student_rendered: str, teacher_rendered: str, prompts: PromptParams
) -> None:
    """Checks that a response would start at the same place, with the same token ids, under both prompts.

    Raises:
        UserError: if a prompt does not end in the generation header, whole and in equal tokens, or if the first token
            of a response would merge into a prompt.
    """
    header = generation_header(tokenizer, prompts)
    header_length = len(prompt_ids(tokenizer, header))
    headers, responses = [], []
    for reader, rendered in (("student", student_rendered), ("teacher", teacher_rendered)):
        if not rendered.endswith(header):
            raise UserError(
                f"the {reader} prompt does not end in the generation header {header!r} but in {rendered[-60:]!r}: it "
                "was cut, or the chat template depends on the text; use a template that ends every prompt alike"
            )
        ids, joined = prompt_ids(tokenizer, rendered), prompt_ids(tokenizer, rendered + PROBE)
        if joined[: len(ids)] != ids:
            raise UserError(
                f"a response merges with the end of the {reader} prompt, {rendered[-20:]!r}, into one token: let the "
                "chat template's generation header end in a special token or a new line"
            )
        headers.append(ids[-header_length:])
        responses.append(joined[len(ids) :])
    for what, (student, teacher) in (("generation header", headers), ("response", responses)):
        if student != teacher:
            raise UserError(
                f"the {what} is tokenized as {student} behind the student prompt and as {teacher} behind the teacher "
                "prompt: let the text before the generation header end in a special token or a new line"
            )


def prepare_row(tokenizer: PreTrainedTokenizerBase, problem: Problem, prompts: PromptParams) -> PreparedRow:
    """Renders, counts and lints the prompts of one problem."""
    student = chat_prompt(tokenizer, render_student(prompts, problem), prompts)
    hinted = render_teacher(prompts, problem)
    teacher = None if hinted is None else chat_prompt(tokenizer, hinted, prompts)
    if teacher is not None:
        lint_alignment(tokenizer, student, teacher, prompts)
    return PreparedRow(
        id=problem.id,
        problem=problem.problem,
        answer=problem.answer,
        solution=problem.solution,
        source=problem.source,
        student_prompt=student,
        teacher_prompt=teacher,
        student_tokens=len(prompt_ids(tokenizer, student)),
        teacher_tokens=None if teacher is None else len(prompt_ids(tokenizer, teacher)),
        wrong_answer=problem.wrong_answer if isinstance(problem, MisledProblem) else None,
    )
