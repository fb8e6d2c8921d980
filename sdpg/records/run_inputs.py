"""Says what a stage depends on: its part of params.yaml, files and code. The module imports no torch, to load fast."""

from typing import Any

from sdpg import paths
from sdpg.params import Params
from sdpg.params.imported import imported_parts
from sdpg.records.code import Code, read_code, source_digest
from sdpg.records.manifest import check_folder, check_origin
from sdpg.records.provenance import hash_files

NO_EFFECT = (
    "tokens_per_micro_batch", "line_tokens", "head_megabytes", "gradients_every", "threads", "activation_checkpointing",
    "checkpoint_every", "record_every", "record_rows",
)  # fmt: skip
"""Fields of ``train`` that change time, memory or records, and never what is learnt."""


def train_sections(params: Params, method: str) -> dict[str, Any]:
    """Returns the parts of params.yaml that a training run depends on; dvc.yaml lists the same for ``train``."""
    tree = params.model_dump(mode="json")
    evaluation = {key: value for key, value in tree["evaluation"].items() if key != "final_samples"}
    return {
        "method": tree["methods"][method],
        "data": {"benchmarks": list(tree["data"]["benchmarks"])},
        **{section: tree[section] for section in ("prompts", "rollout", "reward", "train", "watch")},
        "evaluation": evaluation,
    }


def read_parameters(params: Params, method: str, seed: int) -> dict[str, Any]:
    """Returns what a training run's method reads, by flat names, for lists in which runs are searched and compared.

    Fields of the method and of ``train`` have their own names, such as ``beta`` and ``lr``; those of other sections
    have the section's before it. What is off, and what changes time, memory or records alone, is left out, as are texts
    of prompts and alarms; config.yaml has all.
    """
    tree = params.for_method(method).model_dump(mode="json")
    reads = params.methods[method].reads
    own = {name: value for name, value in tree["methods"][method].items() if name not in ("title", "train")}
    shared = _shared(params, tree)
    del shared["evaluation"]["final_samples"]
    return _switched_on(
        {"method": method, "seed": seed, **{name: value for name, value in own.items() if reads(name)}, **shared}
    )


def pipeline_parameters(params: Params) -> dict[str, Any]:
    """Returns what a whole pipeline was run with, as :func:`read_parameters`, without what single methods read."""
    tree = params.model_dump(mode="json")
    run = {"profile": params.profile, "preset": params.preset, "methods": " ".join(params.run.methods),
           "seeds": " ".join(map(str, params.run.seeds))}  # fmt: skip
    return _switched_on({**run, **_shared(params, tree), "report": tree["report"]})


def _shared(params: Params, tree: dict[str, Any]) -> dict[str, Any]:
    """Returns what all methods of a pipeline read."""
    return {
        **{name: value for name, value in tree["train"].items() if name not in NO_EFFECT},
        "base": params.base.name,
        "data.benchmarks": " ".join(params.data.benchmarks),
        "data.train": params.data.train.kind,
        "prompts.hint": params.prompts.hint,
        **{section: tree[section] for section in ("rollout", "reward", "evaluation")},
    }


def _switched_on(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _switched_on(value) if isinstance(value, dict) else value
        for name, value in tree.items()
        if value is not None and value != {} and value != []
    }


def run_inputs() -> dict[str, str]:
    """Returns the digests of the files that a training run reads, by path.

    Raises:
        UserError: if the problems, or the base or its evaluations, are not what their stages wrote.
    """
    read = (paths.PREPARED, paths.BASE_MODEL, paths.BASE_EVALUATIONS)
    inputs = {str(path): hash_files([path], path) for path in read}
    check_folder(paths.PREPARED)
    evaluated = check_folder(paths.BASE_EVALUATIONS)
    check_origin(paths.BASE_EVALUATIONS, evaluated, {str(path): inputs[str(path)] for path in read[:2]})
    return inputs


def own_parts(params: Params, method: str) -> dict[str, dict[str, str]]:
    """Returns the parts of a user's own behind a training run: path in params.yaml → import path and code's digest."""
    parts = imported_parts(params.model_copy(update={"methods": {method: params.methods[method]}}))
    return {field: {"path": part.path, "digest": source_digest(part.path)} for field, part in parts}


def stage_code(stage: str, params: Params, method: str | None = None) -> Code:
    """Finds the code that a stage of dvc.yaml runs, a user's own parts included.

    Args:
        stage: ``prepare``, ``base``, ``train``, ``evaluate`` or ``tabulate``.
        params: the parameters, which name the own parts.
        method: the method of a training run; without one the own parts of methods are left out.
    """
    read: dict[str, Any] = {"prepare": params.data, "tabulate": None}
    section = read.get(stage, {"reward": params.reward, "method": params.methods[method] if method else None})
    own = {part.path.split(":")[0] for _, part in imported_parts(section)}
    return read_code(f"pipelines.{stage}", *sorted(own))
