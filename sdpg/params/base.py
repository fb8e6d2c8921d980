"""The sections ``base`` and ``study`` of params.yaml: the initial policy, which is also the reference, and runs from
several of them."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdpg.params.section import Fraction, Name, Positive, Section


class ScratchModel(Section):
    """A tokenizer and a Qwen3-architecture model trained here, from scratch, on the synthetic world."""

    kind: Literal["scratch"]
    vocab_size: Positive
    hidden_size: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    intermediate_size: Positive
    tie_embeddings: bool = True
    context: Positive
    """Longest sequence (prompt and response) of the model."""
    steps: Positive
    batch: Positive
    """Sequences per pre-training step."""
    lr: Annotated[float, Field(gt=0)]
    student_share: Fraction
    """Share of pre-training sequences in student style (no hint, with slips); the rest is in teacher style."""
    slip_rate: Fraction
    """Chance that a step of a student-style text is off by 1, 2 or 10."""
    misconception_rate: Fraction
    """Chance that doubling a one-digit number forgets the carry in student-style text; :mod:`sdpg.problems.synthetic`
    says what happens to two-digit numbers."""
    seed: int = 0


class HubModel(Section):
    """A model of the Hugging Face hub, at a fixed revision."""

    kind: Literal["hub"]
    id: str
    revision: str


class LocalModel(Section):
    """A local folder with config.json, safetensors weights, and a tokenizer with a chat template."""

    kind: Literal["folder"]
    path: str
    """The path of the folder, relative to ``base.folder``."""
    digest: str | None = None
    """The digest of its weights and tokenizer; other files than those are refused. None: whatever lies there."""


class BaseParams(Section):
    """The initial policy, which is also π_ref."""

    folder: str = "inputs/models"
    """The folder of local model folders; the stages that read them depend on it."""
    model: Annotated[ScratchModel | HubModel | LocalModel, Field(discriminator="kind")]

    @property
    def name(self) -> str:
        """Returns the model's name in reports and messages."""
        match self.model:
            case HubModel(id=name) | LocalModel(path=name):
                return name
        return "from scratch"

    @property
    def local_folder(self) -> Path | None:
        """Returns the model's folder: a local one, or that of a hub model whose files lie in ``<folder>/<id>``."""
        match self.model:
            case LocalModel(path=path):
                return Path(self.folder) / path
            case HubModel(id=path) if (folder := Path(self.folder) / path).is_dir():
                return folder
        return None


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


class AtlasRuns(StudyRuns):
    """The runs of ``sdpg study --atlas``."""

    methods: list[Name] = Field(default_factory=list)
    """The methods; none named: all there are."""


class StudyParams(Section):
    """The runs of ``sdpg study``; see docs/study.md."""

    recipe: ScratchModel | None = None
    """The recipe of the bases from 1 on, where ``base.model`` is none itself; base b has its seed + b."""
    parents: dict[Name, Name] = Field(default_factory=dict)
    """Method → the method that it is compared with beside GRPO: an ablation's is the whole method."""
    runs: dict[Name, StudyRuns] = Field(default_factory=dict)
    """Name → runs of one length, each with a table of its own."""
    atlas: AtlasRuns | None = None
    """Every method in one table; see docs/study.md."""
