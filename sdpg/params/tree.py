"""The typed tree behind params.yaml: every choice that changes a result, frozen, unknown keys refused.

Defaults are the paper's values (arXiv 2606.04036, section 4.1) where the paper gives one. Lengths of schedules are
fractions of ``train.steps``, so that one preset serves runs of any length: the paper's T_warm = 50 of 400 is 0.125.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sdpg.errors import UserError
from sdpg.method_params import Fraction, MethodParams, Name, Positive, Section
from sdpg.train_params import TrainParams
from sdpg.tune_params import VALIDATION, TuneParams
from sdpg.vllm_params import VllmParams
from sdpg.watch_params import WatchParams

PARAMS_FILE = Path("params.yaml")


class RunParams(Section):
    """Which stages the pipeline runs."""

    methods: Annotated[list[Name], Field(min_length=1)]
    """Names under ``methods``; one training run each per seed."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> "RunParams":
        for field in ("methods", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"{field} holds a value twice: {values}; name each once")
        return self


class ColumnMap(Section):
    """Which columns of a file or hub dataset hold a problem's parts. ``None``: the set has no such column."""

    problem: str = "problem"
    answer: str = "answer"
    solution: str | None = None
    id: str | None = None


class SyntheticSource(Section):
    """Arithmetic chains made here; see :mod:`sdpg.synthetic`."""

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


Source = Annotated[SyntheticSource | HubSource | FileSource, Field(discriminator="kind")]


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
    """Chance that doubling a one-digit number forgets the carry in student-style text; of two digits, see the world."""
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
    """Relative to ``base.folder``."""


class BaseParams(Section):
    """The initial policy, which is also π_ref."""

    folder: str = "inputs/models"
    """Where local model folders lie; a dependency of the stages that read them."""
    model: Annotated[ScratchModel | HubModel | LocalModel, Field(discriminator="kind")]

    @property
    def name(self) -> str:
        """How reports and messages call the model."""
        match self.model:
            case HubModel(id=name) | LocalModel(path=name):
                return name
        return "from scratch"

    @property
    def local_folder(self) -> Path | None:
        """The model's folder: a local one, or that of a hub model whose files were put into ``<folder>/<id>``."""
        match self.model:
            case LocalModel(path=path):
                return Path(self.folder) / path
            case HubModel(id=path) if (folder := Path(self.folder) / path).is_dir():
                return folder
        return None


class RolloutParams(Section):
    """How responses are sampled in training."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """Also of all evaluations. transformers' generate works on the trained module itself; vLLM has a copy of the
    weights, which follows after each step's updates; see docs/vllm.md."""
    vllm: VllmParams | None = None
    """Settings of vLLM; ``None`` with another engine."""
    max_tokens: Positive = 4096
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch: Positive = 128
    """Sequences generated at once."""

    @model_validator(mode="after")
    def _settings_of_this_engine(self) -> "RolloutParams":
        if self.engine == "vllm" and self.vllm is None:
            raise ValueError(
                "engine is vllm, but vllm, its settings, is missing: add vllm: {mode: in_process, "
                "kv_cache_megabytes: …}, or {mode: server, url: …}"
            )
        if self.engine != "vllm" and self.vllm is not None:
            raise ValueError(f"vllm holds settings that engine: {self.engine} does not read: set vllm to null")
        return self


class RewardParams(Section):
    """The verifier and what its verdicts are worth."""

    verifier: Literal["math_verify", "math_verify_only", "exact", "string_match"] = "math_verify"
    """D18: exact match and then math-verify on the last balanced \\boxed; either of the two alone; or the public
    code's normalised string match. See docs/verifiers.md."""
    answer_format: Literal["boxed", "answer_line"] = "boxed"
    """D14: \\boxed{…}, or a line ``Answer: …``."""
    correct: float = 1.0
    wrong: float = -1.0
    """D8: -1 as in the runs behind the paper's figures; its text has 0."""
    timeout: Annotated[float, Field(gt=0)] = 5.0
    """Seconds after which verifying one answer is killed."""
    workers: Positive = 1

    @model_validator(mode="after")
    def _ordered(self) -> "RewardParams":
        if not self.correct > self.wrong:
            raise ValueError(f"correct ({self.correct}) must be larger than wrong ({self.wrong})")
        return self


class EvaluationParams(Section):
    """Sampling on benchmarks and validation."""

    samples: Positive = 32
    """Per problem, during training."""
    final_samples: Positive = 32
    """Per problem, of the final policy and of the base."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 4096
    batch: Positive = 256
    seed: int = 0


class TrackingParams(Section):
    """MLflow."""

    uri: str = "sqlite:///mlflow.db"
    """A server's address, or a sqlite file; a relative file is taken from the project's folder."""
    experiment: str = "sdpg"
    system_metrics: bool = True


class ReportParams(Section):
    """The tables."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Positive = 10_000
    """Of each bootstrap and permutation."""
    seed: int = 0


class Params(Section):
    """All of params.yaml."""

    profile: str
    preset: str
    """Which overlays params.yaml was written from; recorded with each run, never read by the code."""
    run: RunParams
    data: DataParams
    prompts: PromptParams
    base: BaseParams
    rollout: RolloutParams
    reward: RewardParams
    train: TrainParams
    evaluation: EvaluationParams
    methods: Annotated[dict[Name, MethodParams], Field(min_length=1)]
    watch: WatchParams
    tracking: TrackingParams
    report: ReportParams
    tune: TuneParams = Field(default_factory=TuneParams)

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for name in self.methods:
            if name.split("-")[0] == "base" or name.endswith("-teacher"):
                raise ValueError(
                    f"methods.{name}: names like this mark the base policy or a teacher's answers; rename it"
                )
        for name in {"validation", "step"} & self.data.benchmarks.keys():
            raise ValueError(f"data.benchmarks.{name}: this is a column of the curves already; rename the benchmark")
        for name in self.run.methods:
            self.method(name)
        metric = self.tune.objective.metric
        if metric in self.data.benchmarks:
            raise ValueError(
                f"tune.objective.metric is {metric!r}, a benchmark: what is selected on a benchmark cannot be reported "
                f"on it; use {VALIDATION}, whose problems data.validation_size holds back"
            )
        if metric != VALIDATION:
            raise ValueError(f"tune.objective.metric is {metric!r}: there is {VALIDATION} to tune on")
        if self.train.prompts_per_step % self.train.updates_per_batch:
            raise ValueError(
                f"train.updates_per_batch is {self.train.updates_per_batch}, which does not divide "
                f"train.prompts_per_step ({self.train.prompts_per_step}): use a divisor"
            )
        if self.train.prompts_per_step % self.train.distributed.processes:
            raise ValueError(
                f"train.distributed.processes is {self.train.distributed.processes}, which does not divide "
                f"train.prompts_per_step ({self.train.prompts_per_step}): use a divisor"
            )
        model = self.base.model
        if isinstance(model, ScratchModel) and not isinstance(self.data.train, SyntheticSource):
            raise ValueError(
                "base.model.kind is scratch, which learns from the synthetic world, but "
                f"data.train.kind is {self.data.train.kind}: use a hub or folder model"
            )
        if self.tune.training_seed in self.run.seeds:
            raise ValueError(
                f"tune.training_seed is {self.tune.training_seed}, which is in run.seeds: tuning on a seed that is "
                "reported later favours it; use another"
            )
        return self

    def method(self, name: str) -> MethodParams:
        """The method called ``name``; an unknown one is a ValueError that lists those there are."""
        if name not in self.methods:
            raise ValueError(
                f"run.methods names {name!r}, which is not under methods; there are: {', '.join(self.methods)}"
            )
        return self.methods[name]


def parse_params(tree: Any, source: str = str(PARAMS_FILE)) -> Params:
    """Checks a plain tree (as YAML gives it) and freezes it.

    Raises:
        UserError: naming each wrong field, its value and what is allowed.
    """
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source} is not valid ({error.error_count()} problem(s)):"]
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "(top level)"
            if problem["type"] == "extra_forbidden":
                lines.append(f"  {where}: unknown key; remove it or correct its spelling")
            elif problem["type"] == "value_error":
                lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')}")
            else:
                value = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
                lines.append(f"  {where}: {problem['msg']}{value}")
        raise UserError("\n".join(lines)) from None


def read_yaml(path: Path) -> Any:
    """Reads a YAML file into plain containers; a missing or malformed file is a UserError that names it."""
    try:
        with path.open(encoding="utf-8") as file:
            return YAML(typ="safe").load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run from the project's folder, or restore it from git") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks params.yaml."""
    return parse_params(read_yaml(path), str(path))
