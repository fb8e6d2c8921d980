"""The section ``train`` of params.yaml: Algorithm 1 and its optimiser."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, Strict, model_serializer, model_validator

from sdpg.params.lora import LoraParams
from sdpg.params.section import Fraction, Positive, Section

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


class MethodTraining(Section):
    """What of the training belongs to a method's formulas and its optimiser, so that a method may set it otherwise."""

    updates_per_batch: Positive = 1
    """D5: the number of optimiser updates per rollout batch. 1 is on-policy; the public code has 8. Several need an
    outcome with the ratio (clipped_weight or ppo_clip), or none."""
    old_logprobs: Literal["trainer", "rollout"] = "trainer"
    """D5: the log-probs used as π_old in the ratio ρ: the trainer's at the start of the step, or the sampler's."""
    normaliser: Literal["group", "batch", "sequence", "constant"] = "group"
    """D10: the divisor of a sum over tokens; see :func:`sdpg.objective.losses.normaliser_weights`."""
    advantage_baseline: Literal["group", "leave_one_out", "batch"] = "group"
    """What is subtracted from a reward: the mean of its group, of its siblings (RLOO), or of all rollouts of the step
    (REINFORCE++)."""
    advantage_std: Literal["population", "sample", "none", "batch"] = "population"
    """D16: what the difference is divided by: the group's standard deviation, over G (population) or, as in the public
    code, over G-1 (sample); nothing (Dr. GRPO, RLOO); or, once they are centred, the deviation of the differences of
    all rollouts (REINFORCE++)."""
    advantage_eps: Annotated[float, Field(gt=0)] = 1e-6
    log_ratio_clamp: Annotated[float, Field(gt=0)] | None = None
    """D1: the bound on |log ρ|; the public code has 20."""
    sampler_correction: Annotated[float, Field(ge=1)] | None = None
    """The bound C of truncated importance sampling: the outcome term of a token is multiplied by
    sg[min(π_old/π_sampler, C)], which corrects for a sampler that rounds otherwise than the trainer; None: by 1."""
    refill_rounds: Annotated[int, Field(ge=0)] = 0
    """DAPO's dynamic sampling: the number of further rounds in which groups of equal rewards are replaced by groups of
    other problems; 0: they stay."""
    ratio_on_all_terms: bool = True
    """D5, A.3: whether distillation and reference terms are multiplied by sg[ρ] when a batch feeds several updates."""
    teacher_temperature: Literal["same", "one"] = "same"
    """D12: whether the teacher's logits are divided by the sampling temperature, as the student's are, or by one."""
    lr: Annotated[float, Field(gt=0)] = 1e-6
    lr_warmup: Fraction = 0.025
    """The window of linear warm-up, as a fraction of ``steps``; the rate is constant after it."""
    lr_decay: Fraction = 0.0
    """The window at the end in which the rate falls, as a fraction of ``steps``; 0, as in the paper: it does not."""
    lr_shape: Literal["linear", "cosine"] = "linear"
    """The shape of the learning rate's fall."""
    lr_starts_at_zero: bool = False
    """D19: whether the first optimiser step has learning rate 0, as in the public code."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Strict(False)] = (
        0.9,
        0.999,
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0


class TrainParams(MethodTraining):
    """Algorithm 1 and its optimiser."""

    steps: Positive = 400
    prompts_per_step: Positive = 128
    responses_per_prompt: Annotated[int, Field(ge=2)] = 8
    tokens_per_micro_batch: Positive
    """The number of padded tokens in one forward and backward pass; changes memory and time, never the gradient."""
    line_tokens: Annotated[int, Field(ge=0)] = 0
    """The length, in tokens, of a line that siblings share behind their common prompt; 0: each sibling has its own
    line. Sharing pays where responses are not much longer than prompts; attention's cost grows with the square of a
    line."""
    head_megabytes: Positive = 256
    """The memory for logits, in MiB; changes memory and time, never the gradient."""
    gradients_every: Annotated[int, Field(ge=0)] = 0
    """Steps between measurements of each term's own gradient, which cost one update more per term; 0: never."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type of the forward and backward passes; weights and optimiser state are float32."""
    activation_checkpointing: bool = False
    """Whether only each layer's input is kept for the backward pass and the rest is computed again: less memory, a
    third more operations, the same gradient."""
    lora: LoraParams | None = None
    """The adapter, which alone is trained; the base's weights stay as they are and are the reference too; see
    docs/scaling.md. None: all weights are trained."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """The device of models and their passes, in training and in every stage that loads a model; auto: the GPU where
    there is one. A GPU rounds otherwise than a CPU, so that the same seed gives other numbers on it."""
    threads: Positive = 1
    """The number of CPU threads of one training process."""
    cpu_kernels: Literal["avx2", "native"] = "native"
    """The vector instructions of float32 work on a CPU: ``avx2`` rounds alike on all x86-64 processors that have them,
    ``native`` takes the widest that there are; see docs/results/machines.md."""
    distributed: DistributedParams = DistributedParams()
    eval_every: Positive = 10
    checkpoint_every: Positive = 10
    record_every: Positive = 10
    """Steps between two records of teacher, reference and KL per token."""
    record_rows: Annotated[int, Field(ge=0)] = 16
    """The number of rollouts per recorded step that get those signals; 0 turns the diagnostic pass off."""


class TrainOverrides(MethodTraining):
    """The values of ``train`` that hold for one method alone; its plain tree holds those that were set."""

    @model_serializer(mode="wrap")
    def _set_fields(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if name in self.model_fields_set}
