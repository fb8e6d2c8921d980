"""A study's search space: paths of params.yaml, held against the tree and its validators before the first trial."""

from collections.abc import Mapping
import copy
import difflib
import itertools
import math
import random
from typing import Any

from optuna import distributions

from sdpg.errors import UserError
from sdpg.params import Params, parse_params
from sdpg.params.tune import Choice, Choices, Distribution, FloatRange

SHARED = ("train.", "rollout.temperature", "rollout.top_p", "reward.correct", "reward.wrong")
"""What may be searched beside the method's own entry: what acts while training, and nothing that changes the data, the
base or how answers are judged."""
BUDGET = ("train.steps", "train.prompts_per_step", "train.responses_per_prompt", "train.eval_every")
"""Equal for all methods: the budget of tune.steps, and the sizes of a step."""
NO_EFFECT = (
    "train.tokens_per_micro_batch", "train.line_tokens", "train.head_megabytes", "train.gradients_every",
    "train.threads", "train.checkpoint_every", "train.record_every", "train.record_rows",
)  # fmt: skip
"""Change time or records, never what is learnt."""
MOST_CORNERS = 512
"""Of more, so many are drawn; a trial whose combination is refused all the same fails alone."""

Values = dict[str, Choice]
"""Path → value."""


def method_space(params: Params, method: str) -> dict[str, Distribution]:
    """The part of ``tune.space`` that a study of one method searches: its own paths and the shared ones.

    Raises:
        UserError: if nothing is left, or a path may not be searched; names it and the remedy.
    """
    if method not in params.methods:
        raise UserError(
            f"method {method!r} is not under methods in params.yaml; there are: {', '.join(params.methods)}"
        )
    known = leaves(params.model_dump(mode="json", exclude_unset=True, exclude={"tune"}))
    found = {}
    for path, distribution in params.tune.space.items():
        _allowed(path, known)
        if path.startswith(f"methods.{method}.") or not path.startswith("methods."):
            found[path] = distribution
    if not any(path.startswith("methods.") for path in found):
        raise UserError(f"tune.space has no path below methods.{method}: add what is to be searched, such as "
                        f"methods.{method}.{_some_field(params, method)}")  # fmt: skip
    return found


def _some_field(params: Params, method: str) -> str:
    return next((name for name in ("beta", "alpha", "rlsd_lambda") if params.methods[method].reads(name)), "alpha")


def _allowed(path: str, known: Mapping[str, Any]) -> None:
    if path not in known:
        near = difflib.get_close_matches(path, known, n=3, cutoff=0.6)
        hint = f"; near it: {', '.join(near)}" if near else ": write it as it stands there, such as train.lr"
        raise UserError(f"tune.space.{path}: params.yaml has no such path{hint}")
    if path in BUDGET:
        raise UserError(
            f"tune.space.{path}: this is the budget, which is equal for all trials and methods: set tune.steps, "
            "tune.eval_every or the value itself, and take the path out of the space"
        )
    if path in NO_EFFECT:
        raise UserError(f"tune.space.{path} changes nothing that is learnt: take it out of the space")
    if not path.startswith(("methods.", *SHARED)) or path.endswith(".title"):
        raise UserError(
            f"tune.space.{path} may not be searched, as it would change the data, the base or the measure: a path "
            f"below methods or train, or one of {', '.join(SHARED[1:])}, may be"
        )


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Path → value of every leaf; lists are leaves."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def applied(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a plain tree with values at their paths. A method's name has no dot, so that a path can be split."""
    changed = copy.deepcopy(dict(tree))
    for path, value in values.items():
        *parents, last = path.split(".")
        node = changed
        for key in parents:
            node = node[key]
        node[last] = value
    return changed


def defaults(params: Params, space: Mapping[str, Distribution]) -> Values:
    """The untuned value at each path."""
    known = leaves(params.model_dump(mode="json", exclude_unset=True))
    return {path: known[path] for path in space}


def plain(params: Params) -> dict[str, Any]:
    """The tree as it was given: what a method does not set is not set, as its validators want it."""
    return params.model_dump(mode="json", exclude_unset=True)


def check_corners(params: Params, space: Mapping[str, Distribution]) -> None:
    """Holds the space against the validators of params.yaml: each end of each range alone, and their combinations.

    Raises:
        UserError: naming the path, the value, and what the validator says.
    """
    tree = plain(params)
    for path, distribution in space.items():
        for value in distribution.ends():
            _check(tree, {path: value})
    ends = {path: each.ends() for path, each in space.items()}
    if math.prod(map(len, ends.values())) <= MOST_CORNERS:
        corners = [dict(zip(ends, corner, strict=True)) for corner in itertools.product(*ends.values())]
    else:
        source = random.Random(0)
        corners = [{path: source.choice(values) for path, values in ends.items()} for _ in range(MOST_CORNERS)]
    for corner in corners:
        _check(tree, corner)


def _check(tree: Mapping[str, Any], values: Values) -> None:
    try:
        parse_params(applied(tree, values), "the tree")
    except UserError as error:
        where = ", ".join(f"{path} = {value!r}" for path, value in values.items())
        said = "\n".join(str(error).splitlines()[1:])
        raise UserError(f"tune.space allows {where}, which params.yaml would refuse:\n{said}\n"
                        "  Narrow the range, or take the path out of tune.space") from None  # fmt: skip


def optuna_space(space: Mapping[str, Distribution]) -> dict[str, distributions.BaseDistribution]:
    """As Optuna has it."""
    found: dict[str, distributions.BaseDistribution] = {}
    for path, each in space.items():
        if isinstance(each, Choices):
            found[path] = distributions.CategoricalDistribution(each.choices)
        elif isinstance(each, FloatRange):
            found[path] = distributions.FloatDistribution(each.low, each.high, log=each.log, step=each.step)
        else:
            found[path] = distributions.IntDistribution(each.low, each.high, log=each.log, step=each.step)
    return found


def holds(space: Mapping[str, Distribution], values: Mapping[str, Choice]) -> bool:
    """Whether every value lies within its distribution."""
    found = optuna_space(space)
    for path, value in values.items():
        each = found[path]
        if isinstance(each, distributions.CategoricalDistribution):
            # 0 equals False, and 1.0 equals 1: as values of one list they are the same choice.
            if value not in each.choices:
                return False
        elif not isinstance(value, (int, float)) or isinstance(value, bool) or not each._contains(float(value)):
            return False
    return True


def grid_size(space: Mapping[str, Distribution]) -> int:
    """How many combinations a grid has."""
    size = 1
    for each in space.values():
        size *= len(each.grid() or [])
    return size


def trial_params(params: Params, values: Mapping[str, Choice]) -> Params:
    """params.yaml for one trial: its values, and the budget of the study."""
    tune = params.tune
    tree = applied(plain(params), values)
    tree["train"] |= {
        "steps": tune.steps, "eval_every": tune.eval_every, "checkpoint_every": tune.eval_every,
        # Measured and recorded at the first and last step alone: it cannot change what is learnt, and takes time.
        "record_every": tune.steps, "gradients_every": 0,
    }  # fmt: skip
    tree["evaluation"]["samples"] = tune.samples
    return parse_params(tree, "the trial")
