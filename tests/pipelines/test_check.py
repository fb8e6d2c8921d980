"""Tests that `check` refuses, before any output is touched, what a stage would refuse when it starts."""

import ast
from collections.abc import Callable, Iterator
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.check import check_inputs
from sdpg.errors import UserError
from sdpg.params import TrackingParams, load_params
from sdpg.records.mlflow_store import connect
from sdpg.records.run_inputs import stage_code
from tests.evaluation.test_base import params, project

__all__ = ["project"]
ROOT = Path(__file__).parents[2]

CHECKED = {
    # Called by `check` itself.
    "sdpg/devices.py": "check_device", "sdpg/models/launching.py": "check_launch",
    "sdpg/models/adapters.py": "check_adapter", "sdpg/models/loading.py:check_logits": "check_policy",
    "sdpg/models/loading.py:check_lines": "check_policy", "sdpg/models/weight_files.py": "check_model",
    "sdpg/objective/gate_choice.py": "check_own_parts", "sdpg/objective/methods.py": "check_own_parts",
    "sdpg/params/imported.py": "load_part", "sdpg/params/tree.py": "load_params",
    "sdpg/problems/context.py": "check_context", "sdpg/records/mlflow_store.py": "check_store",
    "sdpg/records/code.py": "write_code", "sdpg/rewards/own.py": "check_verifier",
    "sdpg/rewards/gym.py": "check_verifier",
    "sdpg/rollouts/vllm_start.py": "check_vllm",
    # Part of `prepare`, which `check` runs as a whole, without writing.
    "sdpg/problems/prepare.py": "prepare", "sdpg/problems/prompts.py:_apply_template": "prepare",
    "sdpg/problems/prompts.py:generation_header": "prepare", "sdpg/problems/prompts.py:lint_alignment": "prepare",
    "sdpg/problems/raw_rows.py": "prepare", "sdpg/problems/rows/files.py": "prepare",
    "sdpg/problems/gym.py": "prepare", "sdpg/problems/sources.py": "prepare", "sdpg/problems/synthetic.py": "prepare",
    "sdpg/problems/tokenizer.py": "prepare",
}  # fmt: skip
"""Module, or module and function, that raises a UserError → what of `check` raises it first."""
LATER = {
    "sdpg/evaluation/base.py:_fetch": "what the hub says to a download, of which check asks whether it is there",
    "sdpg/evaluation/base.py:_copy_model": "the folder that check_model read was removed since",
    "sdpg/files.py": "the disk, or a file that an earlier stage writes",
    "sdpg/models/loading.py:_from_folder": "the files that check_model read were changed since",
    "sdpg/models/distribution.py": "what only the processes that were launched know",
    "sdpg/params/configure.py": "a preset that is laid over the parameters for the deviations, which are left out then",
    "sdpg/problems/prompts.py:PreparedRow": "a file that prepare wrote",
    "sdpg/records/delivery.py": "the store, which was there when check looked",
    "sdpg/records/manifest.py": "a file that a stage wrote",
    "sdpg/records/parquet.py": "a file that a stage wrote",
    "sdpg/records/watch.py": "a file that a stage wrote",
    "sdpg/results/": "runs that were trained before the tables are made",
    "sdpg/rollouts/vllm_engine.py": "log-probs of responses that were drawn",
    "sdpg/rollouts/vllm_in_process.py": "vLLM itself, which takes a GPU and a minute to start",
    "sdpg/rollouts/vllm_server.py": "a server that may be started after check",
    "sdpg/training/run.py:train_run": "an argument of the stage; dvc.yaml gives run.methods, which load_params checks",
    "sdpg/training/trainer.py:Trainer.resume": "checkpoints of an interrupted run",
}
"""Module, function or folder whose UserErrors `check` cannot foresee → why."""


def raised() -> Iterator[str]:
    """Every place in the code of the stages that raises a UserError, as module:function."""
    settings = load_params(ROOT / "params.yaml")
    modules = set(stage_code("train", settings, "sdpg-ufkl").modules)
    for stage in ("prepare", "base", "evaluate", "tabulate"):
        modules |= set(stage_code(stage, settings).modules)

    def walk(node: ast.AST, place: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inner = place
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{place}{'.' if ':' in place else ':'}{child.name}"
            if isinstance(child, ast.Raise) and child.exc is not None and "id='UserError'" in ast.dump(child.exc):
                yield place
            yield from walk(child, inner)

    for module in sorted(modules):
        if module.endswith(".py"):
            yield from walk(ast.parse((ROOT / module).read_text(encoding="utf-8")), module)


def test_every_error_of_a_stage_is_one_of_check_or_has_a_reason() -> None:
    places, entries = set(raised()), CHECKED.keys() | LATER.keys()
    assert len(places) > 80
    covering = {place: [entry for entry in entries if place.startswith(entry)] for place in places}
    assert {place: found for place, found in covering.items() if len(found) != 1} == {}
    assert entries - {entry for found in covering.values() for entry in found} == set()
    check = ast.parse((ROOT / "pipelines/check.py").read_text(encoding="utf-8"))
    called = {node.id for node in ast.walk(check) if isinstance(node, ast.Name)}
    assert set(CHECKED.values()) <= called


def _configure(project: Path, **values: Any) -> None:
    path = project / "inputs/models/tiny/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _delete_experiment(project: Path) -> None:
    client, experiment = connect(TrackingParams(system_metrics=False))
    client.delete_experiment(experiment)


@pytest.mark.parametrize(
    ("spoil", "changes", "said"),
    [
        (lambda project: _configure(project, final_logit_softcapping=30.0), {},
         r"base\.model tiny changes its logits after the head .*'final_logit_softcapping': 30\.0"),
        (lambda project: _configure(project, layer_types=["sliding_attention"], sliding_window=8), {},
         r"train\.line_tokens is 512, but the base's attention is not plain full attention"),
        (lambda project: None, {"base__model": {"kind": "folder", "path": "/somewhere/tiny"}},
         r"base\.model\.path is '/somewhere/tiny', an absolute path, but base\.folder .* alone is watch"),
        (_delete_experiment, {}, r"tracking\.experiment is 'sdpg', which was deleted .*experiments restore -x 1\b"),
        (lambda project: None, {"run__methods": ["gone"]}, r"run\.methods names 'gone', which is not under methods"),
    ],
)  # fmt: skip
def test_check_refuses_what_stages_would(
    project: Path, spoil: Callable[[Path], object], changes: dict[str, Any], said: str
) -> None:
    spoil(project)
    before = sorted(path for path in project.iterdir() if path.name != "mlflow.db")
    with pytest.raises(UserError, match=said):
        check_inputs(params(train__line_tokens=512, **changes))
    after = {path for path in project.iterdir() if path.name not in ("mlflow.db", ".state", "mlruns")}
    assert after == {path for path in before if path.name not in (".state", "mlruns")}


def test_a_change_of_lines_alone_is_looked_at_again(project: Path) -> None:
    _configure(project, layer_types=["sliding_attention"], sliding_window=8)
    check_inputs(params(train__line_tokens=0))
    with pytest.raises(UserError, match=r"train\.line_tokens is 256"):
        check_inputs(params(train__line_tokens=256))
