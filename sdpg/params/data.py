"""Sections ``data`` and ``prompts``: where problems come from, and how they are put to student and teacher."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sdpg.params.section import Imported, Name, Positive, Section


class ColumnMap(Section):
    """Which columns of a file or hub dataset hold a problem's parts. ``None``: the set has no such column."""

    problem: str = "problem"
    answer: str = "answer"
    solution: str | None = None
    id: str | None = None


class SyntheticSource(Section):
    """Arithmetic chains made here; see :mod:`sdpg.problems.synthetic`."""

    kind: Literal["synthetic"]
    families: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)]
    """Family name → share of the problems."""
    count: Positive


class HubSource(Section):
    """A dataset of the Hugging Face hub, at a fixed revision."""

    kind: Literal["hub"]
    id: str
    revision: str
    config: str | None = None
    split: str = "train"
    columns: ColumnMap = ColumnMap()
    limit: Positive | None = None
    """Keep only the first so many usable rows."""


class FileSource(Section):
    """A local .jsonl or .parquet file, relative to ``data.folder``."""

    kind: Literal["file"]
    path: str
    columns: ColumnMap = ColumnMap()
    limit: Positive | None = None
    made_from: HubSource | None = None
    """The dataset whose problems the file holds, for instance with solutions added; named where the file is missing."""


Source = Annotated[SyntheticSource | HubSource | FileSource | Imported, Field(discriminator="kind")]
"""An own function that yields problems is called with its options; see docs/own_parts.md."""


class BenchmarkParams(Section):
    """One held-out problem set: a column of the tables."""

    title: str
    """How tables and figures call it."""
    problems: Positive | None = None
    """How many the set has once repeated ones are dropped; any other number stops the pipeline. ``None``: unknown."""
    source: Source


class DataParams(Section):
    """Problems to train on, to select on, and to report on."""

    folder: str = "inputs/problems"
    """Where local problem files lie; a dependency of the ``prepare`` stage."""
    seed: int = 0
    train: Source
    validation_size: Positive
    """Problems split off the training source; no benchmark overlaps them."""
    benchmarks: Annotated[dict[Name, BenchmarkParams], Field(min_length=1)]
    ngram: Positive = 13
    """Length in words of the n-grams by which overlap with the benchmarks is measured."""
    drop_overlap: bool = True
    """Drop training problems whose text equals a benchmark problem's (n-gram overlap is reported, never dropped)."""


class PromptParams(Section):
    """Templates of figure 4. ``{problem}``, ``{answer}``, ``{solution}`` and ``{student}`` are filled in."""

    student: str
    teacher: dict[Literal["answer_and_solution", "answer"], str]
    """``{student}`` stands for the whole rendered student text."""
    hint: Literal["answer_and_solution", "answer"] = "answer_and_solution"
    """What the privileged context holds (D6): the paper's answer and solution, or the public code's answer alone."""
    system: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to the tokenizer's chat template, e.g. ``enable_thinking``."""
    max_student_tokens: Positive = 2048
    max_teacher_tokens: Positive = 8192
    """A longer prompt drops its problem and is counted; a prompt is never cut (against D15)."""

    @model_validator(mode="after")
    def _placeholders(self) -> "PromptParams":
        if "{problem}" not in self.student:
            raise ValueError("student has no {problem}: add it where the question belongs")
        if self.hint not in self.teacher:
            raise ValueError(f"hint is {self.hint!r}, but teacher has no such template: add teacher.{self.hint}")
        for hint, template in self.teacher.items():
            needed = ["{student}", "{answer}"] + (["{solution}"] if hint == "answer_and_solution" else [])
            for placeholder in needed:
                if placeholder not in template:
                    raise ValueError(f"teacher.{hint} has no {placeholder}: add it")
        return self
