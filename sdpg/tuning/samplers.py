"""Makes Optuna's samplers and pruners as ``tune`` names them."""

from collections.abc import Mapping
import warnings

from optuna import pruners, samplers

from sdpg.params.tune import Distribution, TuneParams
from sdpg.seeds import derive_seed


def make_sampler(tune: TuneParams, space: Mapping[str, Distribution], number: int) -> samplers.BaseSampler:
    """Returns the sampler for the trial of this number.

    Its seed depends on the number: samplers of one seed in several workers, or before and after a restart, would draw
    the same values again. Only the quasi-random sequence and the grid keep one seed, as it decides their order: the
    storage knows how far they are.
    """
    seed = derive_seed(tune.seed, "sampler", number) % 2**32
    with warnings.catch_warnings():
        # "Experimental" of a class means that its arguments may change; the version is pinned.
        warnings.simplefilter("ignore")
        match tune.sampler:
            case "tpe":
                return samplers.TPESampler(seed=seed, n_startup_trials=tune.startup_trials)
            case "gp":
                return samplers.GPSampler(seed=seed, n_startup_trials=tune.startup_trials)
            case "qmc":
                return samplers.QMCSampler(
                    scramble=True, seed=tune.seed, independent_sampler=samplers.RandomSampler(seed=seed),
                    warn_independent_sampling=False,
                )  # fmt: skip
            case "grid":
                return samplers.GridSampler({path: each.grid() or [] for path, each in space.items()}, seed=tune.seed)
            case "random":
                return samplers.RandomSampler(seed=seed)


def make_pruner(tune: TuneParams) -> pruners.BasePruner:
    """Returns the pruner of a study; with two objectives there is none."""
    if tune.second is not None or tune.pruner == "none":
        return pruners.NopPruner()
    if tune.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=tune.pruner_startup, n_warmup_steps=tune.eval_every)
    return pruners.HyperbandPruner(
        min_resource=tune.eval_every, max_resource=tune.steps, reduction_factor=tune.reduction
    )


def pruning_words(tune: TuneParams) -> tuple[str, str]:
    """Returns the pruner as results show it: its name, and its settings or why there is none."""
    if tune.second is not None:
        return "none", (f"pruning is off: with a second objective ({tune.second}) no trial is known to be worse than "
                        "another before its end")  # fmt: skip
    match tune.pruner:
        case "none":
            return "none", "tune.pruner is none"
        case "median":
            return "median", f"from the second look on, once {tune.pruner_startup} trials are complete"
        case _:
            return "hyperband", f"{tune.eval_every} to {tune.steps} steps, one trial in {tune.reduction} goes on"
