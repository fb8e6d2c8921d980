"""The section ``base`` of params.yaml: the initial policy, which is also the reference."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sdpg.params.section import Fraction, Positive, Section


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
