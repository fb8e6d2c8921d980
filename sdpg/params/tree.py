"""The typed tree behind params.yaml: every choice that changes a result, frozen, unknown keys refused.

Defaults are the paper's values (arXiv 2606.04036, section 4.1) where the paper gives one. Lengths of schedules are
fractions of ``train.steps``, so that one preset serves runs of any length: the paper's T_warm = 50 of 400 is 0.125.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sdpg.errors import UserError
from sdpg.files import check_within
from sdpg.params.base import BaseParams, HubModel, LocalModel, ScratchModel, StudyParams
from sdpg.params.data import DataParams, HubSource, PromptParams, ReasoningGymSource, SyntheticSource
from sdpg.params.method import MethodParams, check_training
from sdpg.params.reward import RewardParams, VerifierName
from sdpg.params.section import Name, Positive, Section, hide_secrets, holds_secret
from sdpg.params.train import TrainParams
from sdpg.params.tune import VALIDATION, TuneParams
from sdpg.params.vllm import VllmParams
from sdpg.params.watch import WatchParams

PARAMS_FILE = Path("params.yaml")
DEEPEST, MOST_VALUES = 40, 100_000
"""The deepest nesting and the most values of a YAML file that is read."""


class RunParams(Section):
    """The methods and seeds that the pipeline trains."""

    methods: Annotated[list[Name], Field(min_length=1)]
    """The names under ``methods`` that are trained, once per seed."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_repeats(self) -> "RunParams":
        for field in ("methods", "seeds"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ValueError(f"{field} holds a value twice: {values}; name each once")
        return self


class RolloutParams(Section):
    """The sampling of responses in training."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """The engine of training and of all evaluations. transformers' generate works on the trained module itself; vLLM
    has a copy of the weights, which is updated after each step; see docs/vllm.md."""
    vllm: VllmParams | None = None
    """The settings of vLLM; ``None`` with another engine."""
    max_tokens: Positive = 4096
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Must be 1 in params.yaml: the losses are those of the whole distribution."""
    batch: Positive = 128
    """The number of sequences that are generated at once."""
    lag: Literal[0, 1] = 0
    """The updates between the policy that samples a batch and the one that learns from it. 1 draws each batch ahead of
    the update before it, and a method's outcome must be corrected for that: see ``train.sampler_correction``."""

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


PORTIONS = 8
"""The largest number of portions into which the evaluation of a finished policy is divided, as many as a usual machine
has GPUs. Each portion ends with its longest response alone, so that more of them would take longer on fewer GPUs."""


class EvaluationParams(Section):
    """The sampling on benchmarks and on the validation set."""

    samples: Positive = 32
    """The number of answers per problem, during training."""
    final_samples: Positive = 32
    """The number of answers per problem, from the final policy and from the base."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_tokens: Positive = 4096
    batch: Positive = 256
    seed: int = 0


class TrackingParams(Section):
    """The place where MLflow keeps runs."""

    uri: str = "sqlite:///mlflow.db"
    """A server's address, or a sqlite file; a relative path starts at the project's folder."""
    experiment: str = "sdpg"
    system_metrics: bool = True

    @model_validator(mode="after")
    def _no_secret(self) -> "TrackingParams":
        if holds_secret(self.uri):
            raise ValueError(
                "uri holds a password or a token, and params.yaml is in git and in each run's config.yaml: leave it "
                "out, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) for a "
                "server, or PGPASSWORD or ~/.pgpass for PostgreSQL"
            )
        return self


class ReportParams(Section):
    """The statistics of the tables."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Positive = 10_000
    """The number of resamples of each bootstrap and permutation."""
    seed: int = 0


class Params(Section):
    """The whole of params.yaml."""

    profile: str
    preset: str
    """The overlays from which params.yaml was written; they are recorded with each run and never read by the code."""
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
    study: StudyParams = Field(default_factory=StudyParams)

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        for name in self.methods:
            if name.split("-")[0] == "base" or name.endswith("-teacher"):
                raise ValueError(
                    f"methods.{name}: names like this mark the base policy or a teacher's answers; rename it"
                )
        for name in self.run.methods:
            method = self.method(name)
            for template in method.templates:
                if template not in self.prompts.teacher:
                    raise ValueError(
                        f"methods.{name} has hint {method.hint} and contrast_hint {method.contrast_hint}, but "
                        f"prompts.teacher has no template {template}: add prompts.teacher.{template}"
                    )
        for name in {"validation", "step"} & self.data.benchmarks.keys():
            raise ValueError(f"data.benchmarks.{name}: this is a column of the curves already; rename the benchmark")
        metric = self.tune.objective.metric
        if metric in self.data.benchmarks:
            raise ValueError(
                f"tune.objective.metric is {metric!r}, a benchmark: what is selected on a benchmark cannot be reported "
                f"on it; use {VALIDATION}, whose problems data.validation_size holds back"
            )
        if metric != VALIDATION:
            raise ValueError(f"tune.objective.metric is {metric!r}: there is {VALIDATION} to tune on")
        if self.train.prompts_per_step % self.train.distributed.processes:
            raise ValueError(
                f"train.distributed.processes is {self.train.distributed.processes}, which does not divide "
                f"train.prompts_per_step ({self.train.prompts_per_step}): use a divisor"
            )
        self._check_paths()
        # A reader of old runs needs less than all, and leaves the section as it is.
        lag = 0
        if isinstance(self.rollout, RolloutParams):
            lag = self.rollout.lag
            if self.rollout.top_p < 1:
                raise ValueError(
                    f"rollout.top_p is {self.rollout.top_p:g}: tokens outside it would never be sampled, while ratio, "
                    "KL and gradient are those of the whole distribution: set it to 1 (evaluation.top_p may be less)"
                )
        for name in self.run.methods:
            check_training(name, self.methods[name], self.train_of(self.methods[name]), lag)
        model = self.base.model
        if isinstance(model, ScratchModel) and not isinstance(self.data.train, SyntheticSource):
            raise ValueError(
                "base.model.kind is scratch, which learns from the synthetic world, but "
                f"data.train.kind is {self.data.train.kind}: use a hub or folder model"
            )
        sources = [self.data.train, *(row.source for row in self.data.benchmarks.values())]
        posed = any(isinstance(source, ReasoningGymSource) for source in sources)
        if posed and self.reward.verifier in {*get_args(VerifierName)} - {"reasoning_gym"}:
            raise ValueError(
                f"reward.verifier is {self.reward.verifier}, which cannot judge the problems of a source of kind "
                "reasoning_gym: set it to reasoning_gym, which judges all others as math_verify does"
            )
        if self.tune.training_seed in self.run.seeds:
            raise ValueError(
                f"tune.training_seed is {self.tune.training_seed}, which is in run.seeds: tuning on a seed that is "
                "reported later favours it; use another"
            )
        return self

    def _check_paths(self) -> None:
        """Refuses a name of something in a folder of inputs that could lead out of that folder."""
        try:
            match self.base.model:
                case LocalModel(path=path) if PurePosixPath(path).is_absolute():
                    raise UserError(
                        f"base.model.path is {path!r}, an absolute path, but base.folder ({self.base.folder}) alone is "
                        "watched for changes: move the model's folder there and give its name, or set base.folder to "
                        "the folder that holds it"
                    )
                case LocalModel(path=path):
                    check_within(path, "base.model.path")
                case HubModel(id=id):
                    check_within(id, "base.model.id")
            sources = {f"data.benchmarks.{name}": each.source for name, each in self.data.benchmarks.items()}
            for field, source in {"data.train": self.data.train, **sources}.items():
                if isinstance(source, HubSource):
                    check_within(source.id, f"{field}.id")
        except UserError as error:
            raise ValueError(str(error)) from None

    def train_of(self, method: MethodParams) -> TrainParams:
        """Returns the section ``train`` as it holds for a method."""
        given = method.train.model_fields_set
        return self.train.model_copy(update={name: getattr(method.train, name) for name in given})

    def for_method(self, name: str) -> "Params":
        """Returns the parameters as they hold for a method's runs: with its own values of ``train`` and ``reward``."""
        method, reward = self.methods[name], self.reward
        if method.length is not None:
            reward = reward.model_copy(update={"length": method.length})
        return self.model_copy(update={"train": self.train_of(method), "reward": reward})

    def method(self, name: str) -> MethodParams:
        """Returns the method called ``name``; an unknown one is a ValueError that lists those there are."""
        if name not in self.methods:
            raise ValueError(
                f"run.methods names {name!r}, which is not under methods; there are: {', '.join(self.methods)}"
            )
        return self.methods[name]


def parse_params(tree: Any, source: str = str(PARAMS_FILE), kind: type[Params] = Params) -> Params:
    """Checks a plain tree (as YAML gives it) and freezes it.

    Args:
        tree: the tree to check.
        source: the tree's name in errors.
        kind: the class of the tree, where a reader needs less than all of it.

    Raises:
        UserError: if a field is wrong; the message names each, its value and what is allowed.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source} is not valid ({error.error_count()} problem(s)):"]
        for problem in error.errors():
            where = ".".join(part for part in map(str, problem["loc"]) if part[:1] != "(") or "(top level)"
            if problem["type"] == "extra_forbidden":
                lines.append(f"  {where}: unknown key; remove it or correct its spelling")
            elif problem["type"] == "value_error":
                lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')}")
            else:
                value = "" if problem["type"] == "missing" else f" (got {hide_secrets(repr(problem['input']))})"
                lines.append(f"  {where}: {problem['msg']}{value}")
        raise UserError("\n".join(lines)) from None


def read_yaml(path: Path) -> Any:
    """Reads a YAML file into plain containers; a missing or malformed file raises a UserError that names it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run from the project's folder, or restore it from git") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Returns the plain containers of a YAML text.

    Args:
        text: the text.
        source: its name in errors: a file or an option.

    Raises:
        UserError: if the text is malformed, deep or large.
    """
    try:
        if reason := why_too_large(YAML(typ="safe").parse(text)):
            raise UserError(f"{source} {reason}: no parameters do; mend it, or restore it from git")
        return YAML(typ="safe").load(text)
    # Beside YAML's own errors: a date such as 2026-02-31, a key that is itself a list, `!!bool` of another word.
    except (YAMLError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{source} is not valid YAML: {error}") from None


def why_too_large(events: Iterable[Any]) -> str | None:
    """Returns why YAML that is deep, or that unfolds to many values by aliases, is not read; ``None`` where it may be.

    Args:
        events: the events of its parser, ruamel's or PyYAML's, from which nothing has been made yet.
    """
    sizes: dict[str, int] = {}
    opened: list[tuple[str | None, int]] = []
    values = 0
    for event in events:
        name = getattr(event, "anchor", None)
        match type(event).__name__:
            case "SequenceStartEvent" | "MappingStartEvent":
                opened.append((name, values))
            case "SequenceEndEvent" | "MappingEndEvent":
                anchor, before = opened.pop()
                if anchor:
                    sizes[anchor] = values - before
            case "AliasEvent":
                if name not in sizes:
                    return f"has an alias *{name} within what it names, or before it"
                values += sizes[name]
            case "ScalarEvent":
                sizes |= {name: 1} if name else {}
                values += 1
        if len(opened) > DEEPEST:
            return f"has brackets or indents more than {DEEPEST} deep"
        if values > MOST_VALUES:
            return f"unfolds to more than {MOST_VALUES:,} values, by aliases or written out"
    return None


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Reads and checks params.yaml."""
    return parse_params(read_yaml(path), str(path))
