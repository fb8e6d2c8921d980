"""The sections ``data`` and ``prompts``: where problems come from, and how student and teacher see them."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sdpg.params.section import Fraction, Imported, Name, Positive, Section


class ColumnMap(Section):
    """The columns of a file or hub dataset that hold a problem's parts; ``None`` where the set has no such column."""

    problem: str = "problem"
    answer: str = "answer"
    solution: str | None = None
    id: str | None = None
    answer_after: Annotated[str, Field(min_length=1)] | None = None
    """A mark in the answer's column, such as GSM8K's ``####``: the answer stands behind its last occurrence, and what
    stands before it is the solution where ``solution`` names the same column. A row without the mark has no answer."""
    solution_without: str | None = None
    """A regular expression; what it matches is taken out of solutions, such as GSM8K's ``<<48/2=24>>`` for calculators,
    which the student would learn from the teacher."""

    @field_validator("solution_without")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error}): correct it, or set it to null") from None
        return value


class SyntheticSource(Section):
    """Synthetic arithmetic chains; see :mod:`sdpg.problems.synthetic`."""

    kind: Literal["synthetic"]
    families: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Family name → share of the problems."""
    count: Positive
    wrong_hints: Fraction = 0.0
    """Share of the problems whose hint is wrong: its solution has a mistake, and its answer is what that leads to. The
    verifier still asks for the right answer."""


class HubSource(Section):
    """A dataset of the Hugging Face hub, at a fixed revision."""

    kind: Literal["hub"]
    id: str
    revision: str
    config: str | None = None
    split: str = "train"
    columns: ColumnMap = ColumnMap()
    limit: Positive | None = None
    """The number of usable rows to keep, from the first on; ``None`` keeps all."""


class FileSource(Section):
    """A local .jsonl or .parquet file, relative to ``data.folder``."""

    kind: Literal["file"]
    path: str
    columns: ColumnMap = ColumnMap()
    limit: Positive | None = None
    made_from: HubSource | None = None
    """The dataset that the file was made from, for instance by adding solutions; an error names it where the file is
    missing."""


Source = Annotated[SyntheticSource | HubSource | FileSource | Imported, Field(discriminator="kind")]
"""The type of ``data.train`` and of each benchmark's source. An own function that yields problems is called with its
options; see docs/own_parts.md."""


class BenchmarkParams(Section):
    """One held-out problem set: a column of the tables."""

    title: str
    """The benchmark's name in tables and figures."""
    problems: Positive | None = None
    """The number of problems once repeated ones are dropped; any other number stops the pipeline. ``None``: unknown."""
    source: Source


class DataParams(Section):
    """The problems to train on, to select on, and to report on."""

    folder: str = "inputs/problems"
    """The folder of local problem files; the ``prepare`` stage depends on it."""
    seed: int = 0
    train: Source
    validation_size: Positive
    """The number of problems split off the training source; no benchmark overlaps them."""
    benchmarks: Annotated[dict[Name, BenchmarkParams], Field(min_length=1)]
    ngram: Positive = 13
    """The length, in words, of the n-grams by which overlap with the benchmarks is measured."""
    drop_overlap: bool = True
    """Whether training problems whose text equals a benchmark problem's are dropped (n-gram overlap is only
    reported)."""


HINT_PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "answer_and_solution": ("answer", "solution"),
    "answer": ("answer",),
    "sibling": ("response",),
    "wrong_sibling": ("response",),
    "feedback": ("feedback",),
}
"""Hint → the placeholders that its template must have, beside ``{student}``."""


class PromptParams(Section):
    """The prompt templates of figure 4, in which ``{problem}``, ``{answer}``, ``{solution}`` and ``{student}`` are
    filled in; in those of hints from the group also ``{response}``, ``{extracted}`` and ``{feedback}``."""

    student: str
    teacher: dict[Literal["answer_and_solution", "answer", "sibling", "wrong_sibling", "feedback"], str]
    """The teacher's template for each hint; ``{student}`` stands for the whole rendered student text, ``{response}``
    for the sibling's response (in ``feedback`` for the rollout's own), ``{extracted}`` for that response's answer."""
    feedback: dict[Literal["wrong", "no_answer", "truncated"], str] = Field(default_factory=dict)
    """The sentence that ``{feedback}`` stands for, by the verdict on the rollout; ``{extracted}`` is its answer."""
    hint: Literal["answer_and_solution", "answer"] = "answer_and_solution"
    """D6: the content of the privileged context: the paper's answer and solution, or the public code's answer alone."""
    system: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """The arguments for the tokenizer's chat template, such as ``enable_thinking``."""
    max_student_tokens: Positive = 2048
    max_teacher_tokens: Positive = 8192
    """The longest prompt in tokens: a longer one drops its problem and is counted; no prompt is cut (unlike D15)."""

    @model_validator(mode="after")
    def _placeholders(self) -> "PromptParams":
        if "{problem}" not in self.student:
            raise ValueError("student has no {problem}: add it where the question belongs")
        if self.hint not in self.teacher:
            raise ValueError(f"hint is {self.hint!r}, but teacher has no such template: add teacher.{self.hint}")
        for hint, template in self.teacher.items():
            for placeholder in ("student", *HINT_PLACEHOLDERS[hint]):
                if f"{{{placeholder}}}" not in template:
                    raise ValueError(f"teacher.{hint} has no {{{placeholder}}}: add it")
        if "feedback" in self.teacher:
            for verdict in ("wrong", "no_answer", "truncated"):
                if verdict not in self.feedback:
                    raise ValueError(f"teacher.feedback is there, but feedback.{verdict} is not: add its sentence")
            if "{extracted}" not in self.feedback["wrong"]:
                raise ValueError("feedback.wrong has no {extracted}: add it where the wrong answer belongs")
        return self
