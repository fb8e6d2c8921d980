"""Says what a stage depends on: its part of params.yaml, files and code. The module imports no torch, to load fast."""

from typing import Any

from sdpg import paths
from sdpg.params import Params
from sdpg.params.imported import imported_parts
from sdpg.records.code import Code, read_code, source_digest
from sdpg.records.manifest import check_folder, check_origin
from sdpg.records.provenance import hash_files


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
