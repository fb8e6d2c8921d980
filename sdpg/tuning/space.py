"""Checks a study's search space: paths of params.yaml, held against the tree and its validators before trial one."""

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
from sdpg.params.tune import Choice, Choices, Distribution, FloatRange, own_path

SHARED = ("train.", "rollout.temperature", "rollout.top_p", "reward.correct", "reward.wrong")
"""Paths that may be searched beside the method's own entry: they act while training, and change neither the data nor
the base nor how answers are verified."""
BUDGET = ("train.steps", "train.prompts_per_step", "train.responses_per_prompt", "train.eval_every")
"""Paths that are equal for all methods: the budget of tune.steps, and the sizes of a step."""
NO_EFFECT = (
    "train.tokens_per_micro_batch", "train.line_tokens", "train.head_megabytes", "train.gradients_every",
    "train.threads", "train.checkpoint_every", "train.record_every", "train.record_rows",
)  # fmt: skip
"""Paths that change time or records, never what is learnt."""
MOST_CORNERS = 512
"""If there are more corners, so many of them are drawn; a trial whose combination is refused later fails alone."""

Values = dict[str, Choice]
"""A dictionary of path → value."""


def method_space(params: Params, method: str) -> dict[str, Distribution]:
    """Returns the part of ``tune.space`` that a study of one method searches: its own paths and the shared ones.

    Raises:
        UserError: if nothing is left, or a path may not be searched; it names the path and the remedy.
    """
    if method not in params.methods:
        raise UserError(
            f"method {method!r} is not under methods in params.yaml; there are: {', '.join(params.methods)}"
        )
    known = leaves(params.model_dump(mode="json", exclude_unset=True, exclude={"tune"}))
    searched = {}
    for path, distribution in params.tune.space.items():
        _allowed(path, known)
        if path.startswith(f"methods.{method}.") or not path.startswith("methods."):
            # The shared value would change nothing for a method that has its own.
            own = own_path(path, method)
            searched[own if own in known else path] = distribution
    if not any(path.startswith("methods.") and ".train." not in path for path in searched):
        raise UserError(f"tune.space has no path below methods.{method}: add what is to be searched, such as "
                        f"methods.{method}.{_some_field(params, method)}")  # fmt: skip
    return searched


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
    """Returns path → value of every leaf; lists are leaves."""
    leaf_values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaf_values |= leaves(value, f"{prefix}{key}.")
        else:
            leaf_values[f"{prefix}{key}"] = value
    return leaf_values


def applied(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a plain tree with values at their paths, which are added where they are missing.

    A method's name has no dot, so that a path can be split.
    """
    changed = copy.deepcopy(dict(tree))
    for path, value in values.items():
        *parents, last = path.split(".")
        node = changed
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return changed


def defaults(params: Params, space: Mapping[str, Distribution]) -> Values:
    """Returns the untuned value at each path."""
    known = leaves(params.model_dump(mode="json", exclude_unset=True))
    return {path: known[path] for path in space}


def plain(params: Params) -> dict[str, Any]:
    """Returns the tree as it was given: what a method does not set is left out, as its validators require."""
    return params.model_dump(mode="json", exclude_unset=True)


def check_corners(params: Params, space: Mapping[str, Distribution]) -> None:
    """Checks the space by the validators of params.yaml: each end of each range alone, and their combinations.

    Raises:
        UserError: if a value is refused; it names the path, the value, and what the validator says.
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
    """Returns the space as Optuna's distributions."""
    converted: dict[str, distributions.BaseDistribution] = {}
    for path, given in space.items():
        if isinstance(given, Choices):
            converted[path] = distributions.CategoricalDistribution(given.choices)
        elif isinstance(given, FloatRange):
            converted[path] = distributions.FloatDistribution(given.low, given.high, log=given.log, step=given.step)
        else:
            converted[path] = distributions.IntDistribution(given.low, given.high, log=given.log, step=given.step)
    return converted


def holds(space: Mapping[str, Distribution], values: Mapping[str, Choice]) -> bool:
    """Returns whether every value lies within its distribution."""
    return all(_holds(space[path], value) for path, value in values.items())


def _holds(distribution: Distribution, value: Choice) -> bool:
    if isinstance(distribution, Choices):
        # 0 equals False, and 1.0 equals 1: in one list of choices they are the same choice.
        return value in distribution.choices
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    steps = (value - distribution.low) / (distribution.step or 1)
    on_grid = distribution.step is None or math.isclose(steps, round(steps), abs_tol=1e-8)
    return distribution.low <= value <= distribution.high and on_grid


def grid_size(space: Mapping[str, Distribution]) -> int:
    """Returns the number of combinations of a grid."""
    size = 1
    for each in space.values():
        size *= len(each.grid() or [])
    return size


def trial_params(params: Params, values: Mapping[str, Choice]) -> Params:
    """Returns params.yaml for one trial: its values, and the budget of the study."""
    tune = params.tune
    tree = applied(plain(params), values)
    tree["train"] |= {
        "steps": tune.steps, "eval_every": tune.eval_every, "checkpoint_every": tune.eval_every,
        # Gradients are measured and records written at the first and last step alone: they take time and teach nothing.
        "record_every": tune.steps, "gradients_every": 0,
    }  # fmt: skip
    tree["evaluation"]["samples"] = tune.samples
    return parse_params(tree, "the trial")
