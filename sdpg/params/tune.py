"""The ``tune`` section of params.yaml: what a study searches, by which objective, with which budget."""

import math
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdpg.params.section import Positive, Section, holds_secret
from sdpg.params.train import TrainOverrides

VALIDATION = "validation"
"""The one problem set that a study may look at."""

Choice = str | bool | int | float | None
_OWN_TRAINING = re.compile(r"methods\.[^.]+\.train\.")


def own_path(path: str, method: str) -> str:
    """Returns the path at which a value holds for one method alone: ``train.lr`` is ``methods.<method>.train.lr``.

    A path that the method cannot have of its own is returned as it is.
    """
    section, _, field = path.partition(".")
    return f"methods.{method}.{path}" if section == "train" and field in TrainOverrides.model_fields else path


def override(path: str, text: str) -> str:
    """Returns a value as ``dvc exp run -S`` takes it; ++ adds a path that params.yaml need not have."""
    return f"{'++' if _OWN_TRAINING.match(path) else ''}{path}={text}"


class FloatRange(Section):
    """Real numbers from ``low`` to ``high``."""

    kind: Literal["float"]
    low: float
    high: float
    log: bool = False
    """Whether the logarithm is searched, for values that span orders of magnitude."""
    step: Annotated[float, Field(gt=0)] | None = None
    """The distance of the values ``low``, ``low + step``, …; a grid needs it."""

    @model_validator(mode="after")
    def _holds_something(self) -> "FloatRange":
        _check_range(self.low, self.high)
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}: a logarithmic range needs low above 0")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other: name the values with kind: choice instead")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step is {self.step}, wider than from {self.low} to {self.high}: make it smaller")
        return self

    def ends(self) -> list[Choice]:
        """Returns the extreme values."""
        return [self.low, self.high]

    def grid(self) -> list[Choice] | None:
        """Returns all values, or ``None`` for a range that is not divided into steps."""
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [self.low + place * self.step for place in range(count)]


class IntRange(Section):
    """Whole numbers from ``low`` to ``high``, both included."""

    kind: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: Positive = 1

    @model_validator(mode="after")
    def _holds_something(self) -> "IntRange":
        _check_range(self.low, self.high)
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}: a logarithmic range needs low above 0")
        if self.log and self.step != 1:
            raise ValueError("log and step exclude each other: name the values with kind: choice instead")
        return self

    def ends(self) -> list[Choice]:
        """Returns the extreme values."""
        return [self.low, self.high]

    def grid(self) -> list[Choice] | None:
        """Returns all values, or ``None`` for a logarithmic range."""
        return None if self.log else list(range(self.low, self.high + 1, self.step))


class Choices(Section):
    """A few values, without an order."""

    kind: Literal["choice"]
    choices: Annotated[list[Choice], Field(min_length=2)]

    @model_validator(mode="after")
    def _differ(self) -> "Choices":
        if len({repr(value) for value in self.choices}) != len(self.choices):
            raise ValueError(f"choices holds a value twice: {self.choices}; name each once")
        return self

    def ends(self) -> list[Choice]:
        """Returns every value."""
        return list(self.choices)

    def grid(self) -> list[Choice]:
        """Returns every value."""
        return list(self.choices)


Distribution = Annotated[FloatRange | IntRange | Choices, Field(discriminator="kind")]


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"low ({low}) is not below high ({high}): the range is empty; a single value belongs at its "
                         "place in params.yaml, not into the space")  # fmt: skip


class ObjectiveParams(Section):
    """The number that a study maximises."""

    metric: str = VALIDATION
    """The problem set that is sampled. It is never a benchmark: what is selected on a set cannot be reported on it."""
    kind: Literal["last", "area"] = "last"
    """last: mean@k at the end; area: the mean height of the curve from step 0 on, which rewards learning early too."""


class RetrainParams(Section):
    """The default and the best setting trained anew, with seeds that no trial has seen."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default_factory=lambda: [2000])
    steps: Positive | None = None
    """The steps of a new training; ``None``: those of a trial."""

    @model_validator(mode="after")
    def _no_repeats(self) -> "RetrainParams":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds holds a value twice: {self.seeds}; name each once")
        return self


class TuneParams(Section):
    """Studies. One entry serves every method: a study takes the paths of its own method and the paths shared by all."""

    storage: str = "sqlite:///tune.db"
    """The place where Optuna keeps studies: a sqlite file, relative to the project's folder, or the address of a
    PostgreSQL or MySQL server. An address with a password belongs into SDPG_TUNE_STORAGE, as params.yaml is in git."""
    objective: ObjectiveParams = ObjectiveParams()
    second: Literal["tokens", "seconds"] | None = None
    """A cost to keep low as well: the study then has a front of best trials instead of one, and prunes nothing."""
    trials: Positive = 20
    steps: Positive = 30
    """The steps of each trial: with prompts, responses and trials they are the budget, equal for all methods."""
    eval_every: Positive = 5
    """Steps between evaluations on the validation set, at which a trial can be pruned."""
    samples: Positive = 8
    """The number of answers per validation problem."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of the sampler."""
    training_seed: Annotated[int, Field(ge=0)] = 1000
    """The seed of every trial's training, which gives all trials the same prompts. It is none of ``run.seeds``."""
    sampler: Literal["tpe", "gp", "qmc", "grid", "random"] = "tpe"
    startup_trials: Positive = 6
    """The number of trials drawn at random before TPE or GP proposes any."""
    default_first: bool = True
    """Whether the first trial takes the values of params.yaml, so that a study never ends below them on its own
    measure."""
    pruner: Literal["hyperband", "median", "none"] = "hyperband"
    pruner_startup: Positive = 4
    """The number of finished trials before the median pruner acts."""
    reduction: Annotated[int, Field(ge=2)] = 3
    """The number of trials of which Hyperband keeps one at each rung."""
    grace: Annotated[float, Field(gt=0)] = 120.0
    """Seconds without a heartbeat after which a worker of another machine counts as dead."""
    retries: Annotated[int, Field(ge=0)] = 3
    """The number of times in a row that a trial whose worker died is enqueued again."""
    retrain: RetrainParams = Field(default_factory=RetrainParams)
    space: dict[str, Distribution] = Field(default_factory=dict)
    """Path in this file → the values to try."""

    @model_validator(mode="after")
    def _consistent(self) -> "TuneParams":
        if holds_secret(self.storage):
            raise ValueError(
                "storage holds a password, and params.yaml is in git: leave the storage here as it is and give the "
                "address with the password in the environment variable SDPG_TUNE_STORAGE"
            )
        if self.training_seed in self.retrain.seeds:
            raise ValueError(f"retrain.seeds holds {self.training_seed}, the training_seed of the trials: fresh seeds "
                             "are those that no trial has seen")  # fmt: skip
        if self.eval_every > self.steps:
            raise ValueError(f"eval_every ({self.eval_every}) is more than steps ({self.steps}): use at most as many")
        if self.sampler == "grid":
            for path, values in self.space.items():
                if values.grid() is None:
                    raise ValueError(f"sampler is grid, but space.{path} is not divided into values: give it a step, "
                                     "or kind: choice")  # fmt: skip
        return self
