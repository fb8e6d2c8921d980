"""Makes the finished runs of a small study by hand, as :mod:`tests.helpers.fabricated` makes those of a project."""

from collections.abc import Callable, Mapping
import json
from pathlib import Path
from typing import Any

from sdpg.params import Params, parse_params
from sdpg.replication.design import project_folder, project_tree, seeds_of
from tests.helpers.fabricated import params_with, write_base, write_run

Right = Callable[[int, str, int], int]
"""(base, benchmark, problem) → the number of samples, of four, that are right at the end."""


def study_params(runs: Mapping[str, Any], **study: Any) -> Params:
    """The parameters of the project, with other runs of the study."""
    tree = params_with(["grpo"], [0]).model_dump(mode="json", exclude_unset=True)
    tree["study"] |= {"runs": dict(runs), **study}
    return parse_params(tree)


def write_runs(root: Path, params: Params, right: Mapping[str, Right], problems: int = 10) -> None:
    """The projects of a study below ``root``, every run of a method alike but for its base."""
    for name, runs in params.study.runs.items():
        for base in range(runs.bases):
            folder = root / project_folder(name, base)
            model = {"kind": "folder", "path": f"base-{base}", "digest": "0" * 32}
            folder.mkdir(parents=True)
            # JSON is YAML.
            (folder / "params.yaml").write_text(json.dumps(project_tree(params, name, base, model)), encoding="utf-8")
            write_base(folder, problems=problems)
            for method in runs.methods:
                for seed in seeds_of(runs, base):
                    write_run(folder, method, seed, lambda benchmark, step, problem, method=method, base=base:
                              right[method](base, benchmark, problem) if step else 1, problems=problems,
                              greedy_right=1 + base,
                              metrics={"kl_to_reference_k3": lambda step, method=method:
                                       "" if method == "alpha0" else step / 1000})  # fmt: skip
