"""What a training run reads: its part of params.yaml, and files. Free of torch, so that it is known at once."""

from typing import Any

from sdpg import paths
from sdpg.params import Params
from sdpg.records.provenance import hash_files


def train_sections(params: Params, method: str) -> dict[str, Any]:
    """The parts of params.yaml that a training run's result depends on; dvc.yaml lists the same for ``train``."""
    tree = params.model_dump(mode="json")
    evaluation = {key: value for key, value in tree["evaluation"].items() if key != "final_samples"}
    return {
        "method": tree["methods"][method],
        "data": {"benchmarks": list(tree["data"]["benchmarks"])},
        **{section: tree[section] for section in ("rollout", "reward", "train", "watch")},
        "evaluation": evaluation,
    }


def run_inputs() -> dict[str, str]:
    """Digests of what a training run reads, by path."""
    return {str(path): hash_files([path], path) for path in (paths.PREPARED, paths.BASE_MODEL, paths.BASE_EVALUATIONS)}
