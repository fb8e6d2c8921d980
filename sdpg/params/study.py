"""The section ``study`` of params.yaml: several bases × seeds × methods, whose table says what holds elsewhere."""

from typing import Annotated

from pydantic import Field, model_validator

from sdpg.params.base import ScratchModel
from sdpg.params.section import Name, Positive, Section

SEEDS_OF_A_BASE = 100
"""Base b trains with the seeds 100·b, 100·b + 1, …: other bases, other seeds."""


class StudyRuns(Section):
    """Runs of one length: every method on every base with every seed."""

    steps: Positive | None = None
    """The steps of each run; ``None``: ``train.steps``."""
    eval_every: Positive | None = None
    """Steps between evaluations, checkpoints and records; ``None``: as in ``train``."""
    bases: Annotated[int, Field(ge=2, le=10)] = 3
    """The number of bases. Base 0 is that of ``base.model``, the others are trained from scratch."""
    seeds: Annotated[int, Field(ge=1, le=SEEDS_OF_A_BASE)] = 3
    """The number of training seeds of each base."""
    methods: Annotated[list[Name], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> "StudyRuns":
        if len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods holds a value twice: {self.methods}; name each once")
        return self


class StudyParams(Section):
    """The runs of ``make study``; see docs/study.md."""

    recipe: ScratchModel | None = None
    """The recipe of the bases from 1 on, where ``base.model`` is none itself; base b has its seed + b."""
    parents: dict[Name, Name] = Field(default_factory=dict)
    """Method → the method that it is compared with beside GRPO: an ablation's is the whole method."""
    runs: dict[Name, StudyRuns] = Field(default_factory=dict)
    """Name → runs of one length, each with a table of its own."""
