"""The section ``train.distributed`` of params.yaml: the number of processes of a run, and what each of them holds."""

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from sdpg.params.section import Positive, Section

CONFIGS = Path("configs/accelerate")


class DistributedParams(Section):
    """The processes, one per GPU, that share rollouts, verification and training."""

    processes: Positive = 1
    """The number of processes, which divides ``train.prompts_per_step``."""
    strategy: Literal["none", "ddp", "fsdp2"] = "none"
    """none: one process without a launcher; ddp: each process holds the whole model; fsdp2: each holds its part of
    weights, gradients and optimiser state."""
    config: str | None = None
    """accelerate's configuration file; None: ``configs/accelerate/<strategy>.yaml``. For several machines, a file of
    your own; see docs/distributed.md."""

    @model_validator(mode="after")
    def _one_alone(self) -> "DistributedParams":
        if self.strategy == "none" and self.processes > 1:
            raise ValueError(
                f"processes is {self.processes}, but strategy is none, which is one process: use ddp or fsdp2"
            )
        return self

    @property
    def config_file(self) -> Path:
        """Returns the path of accelerate's configuration."""
        return Path(self.config) if self.config else CONFIGS / f"{self.strategy}.yaml"
