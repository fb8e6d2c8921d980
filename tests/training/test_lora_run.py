"""Tests a run that trains an adapter, from files to files: sampled, recorded, killed, resumed, written, evaluated."""

from collections.abc import Callable
import csv
import json
import math
from pathlib import Path
from typing import Any

from peft import PeftModel
import pytest
from safetensors.torch import load_file
import torch

from sdpg import paths
from sdpg.evaluation.evaluation import Identity
from sdpg.evaluation.final import evaluate_policy
from sdpg.files import write_json_lines
from sdpg.models.loading import load_model
from sdpg.models.pretraining import pretrain
from sdpg.params import Params
from sdpg.params.lora import LoraParams
from sdpg.planning.adapter import MODULES
from sdpg.planning.plan import planned_params
from sdpg.problems.prepare import prepare, write_prepared
from sdpg.rewards.verifiers import Verifier
from sdpg.training.run import assemble, make_trainer, save_model

ROOT = Path(__file__).parents[2]
METHOD = "sdpg-ufkl"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with its data, and two runs of the same parameters; the second was cut off within step 4."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = settings()
        prepared = prepare(params)
        write_prepared(prepared, Path("data"))
        source = params.data.train
        assert source.kind == "synthetic" and params.base.model.kind == "scratch"
        tokenizer = prepared.tokenizer
        recipe = params.base.model.model_copy(update={"steps": 40})
        base = pretrain(recipe, source.families, params.prompts, tokenizer, frozenset())
        save_model(base, tokenizer, paths.BASE_MODEL)
        patch.setattr(
            "sdpg.training.run.base_accuracies", lambda: dict.fromkeys([*params.data.benchmarks, "validation"], 0.0)
        )
        trained(params, Path("whole"), lambda step, metrics: None)
        with pytest.raises(KeyboardInterrupt):
            trained(params, Path("cut"), cut_off)
        # From its checkpoint alone, as where a process holds parts of the weights.
        patch.setattr("sdpg.training.run.is_sharded", lambda model: True)
        trained(params, Path("cut"), lambda step, metrics: None)
        rows = evaluate_policy(params, Identity("run", METHOD, 0, 4), Path("whole-run/policy"))
        write_json_lines(Path("answers.jsonl"), [{"status": row["status"]} for row in rows])
    return folder


def settings() -> Params:
    params = planned_params("micro", ROOT)
    changes: dict[str, Any] = {"lora": LoraParams(rank=4, alpha=8), "lr": 0.02, "lr_warmup": 0.0, "checkpoint_every": 2}
    method = params.methods[METHOD].model_copy(update={"teacher": "ema", "teacher_rate": 0.25})
    return params.model_copy(
        update={"train": params.train.model_copy(update=changes), "methods": {**params.methods, METHOD: method}}
    )


def trained(params: Params, state: Path, on_step: Callable[..., None]) -> None:
    with Verifier(params.reward) as verifier:
        trainer = make_trainer(params, METHOD, 0, state, verifier, on_step)
        trainer.train()
        assemble(trainer, {"fingerprint": "none", "inputs": {}}, Path(f"{state}-run"))


def cut_off(step: int, metrics: Any) -> None:
    if step == 3:
        raise KeyboardInterrupt


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_sampler_is_the_adapted_policy_at_every_step(project: Path) -> None:
    rows = metrics(project / "whole-run")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert all(float(row["sampler_mismatch_max"]) < 1e-4 for row in rows)
    # Policy and reference are one at first, and the policy moves away.
    assert float(rows[0]["kl_to_reference_k3"]) == 0 < float(rows[-1]["kl_to_reference_k3"])


def test_a_run_that_was_cut_off_ends_in_the_same_bytes(project: Path) -> None:
    files = ["metrics.csv", "curves.csv", *(f"policy/{name}" for name in (
        "model.safetensors", "config.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
    ))]  # fmt: skip
    for name in files:
        assert (project / "whole-run" / name).read_bytes() == (project / "cut-run" / name).read_bytes(), name


def test_a_checkpoint_holds_the_adapter_and_its_moments_alone(project: Path) -> None:
    folder = project / "whole/checkpoint-000004"
    weights = load_file(folder / "model-00000.safetensors")
    assert len(weights) == 2 * 7 and all(".lora_A." in name or ".lora_B." in name for name in weights)
    moments = load_file(folder / "optimizer-00000.safetensors")
    assert len(moments) == 3 * len(weights)
    assert {int(moments[f"{index}.step"]) for index in range(len(weights))} == {4}


def test_the_teachers_average_is_one_of_adapters(project: Path) -> None:
    names = ("model", "teacher")
    student, teacher = (load_file(project / f"whole/checkpoint-000004/{name}-00000.safetensors") for name in names)
    cut = load_file(project / "cut/checkpoint-000004/teacher-00000.safetensors")
    assert teacher.keys() == student.keys() == cut.keys()
    for name, weight in teacher.items():
        assert torch.equal(weight, cut[name]), name
        assert not torch.equal(weight, student[name]), name
    rows = metrics(project / "whole-run")
    assert float(rows[0]["teacher_distance"]) == 0 < float(rows[1]["teacher_distance"])
    assert any(float(row["teacher_rows"]) > 0 for row in rows[1:]) and not any(row["teacher_age"] for row in rows)


def test_where_all_weights_are_trained_only_a_teacher_of_its_own_is_a_third_model(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    params = settings()
    monkeypatch.setattr(
        "sdpg.training.run.base_accuracies", lambda: dict.fromkeys([*params.data.benchmarks, "validation"], 0.25)
    )
    params = params.model_copy(update={"train": params.train.model_copy(update={"lora": None, "record_rows": 0})})
    loaded: list[Path] = []
    monkeypatch.setattr(
        "sdpg.training.run.load_model", lambda folder, device: loaded.append(folder) or load_model(folder, device)
    )
    found = {}
    for teacher in ("ema", "gated", "reference", "current"):
        loaded.clear()
        method = params.methods[METHOD].model_copy(update={"teacher": teacher, "reference": "none"})
        chosen = params.model_copy(update={"methods": {METHOD: method}})
        with Verifier(params.reward) as verifier:
            policies = make_trainer(chosen, METHOD, 0, Path(teacher), verifier, lambda *_: None).policies
        found[teacher] = len(loaded)
        own = policies.teacher_weights
        assert (own is None) == (teacher in ("reference", "current"))
        if own is None:
            assert policies.teacher(method) is {"reference": policies.reference, "current": policies.student}[teacher]
        else:
            assert own.best == 0.25 and policies.teacher(method) is own.model
            assert not any(weight.requires_grad for weight in own.model.parameters())
            shared = {weight.data_ptr() for weight in own.model.parameters()}
            assert not shared & {weight.data_ptr() for weight in policies.student.parameters()}
    assert found == {"ema": 2, "gated": 2, "reference": 2, "current": 1}


def test_the_policy_is_a_model_folder_like_the_base_and_the_adapter_on_the_base_is_the_policy(project: Path) -> None:
    policy, base = load_model(project / "whole-run/policy"), load_model(project / paths.BASE_MODEL)
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        merged, before = policy(input_ids=ids).logits, base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, str(project / "whole-run/policy/adapter"))(input_ids=ids).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-4, atol=1e-4)
    assert (merged - before).abs().max() > 0.05
    targets = json.loads((project / "whole-run/policy/adapter/adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(MODULES), "a set's order would make each run's file another one"
    assert policy.state_dict().keys() == load_model(project / paths.BASE_MODEL).state_dict().keys()


def test_the_policy_answers_the_evaluation(project: Path) -> None:
    params = settings()
    lines = (project / "answers.jsonl").read_text().splitlines()
    problems = sum(source.source.count for source in params.data.benchmarks.values()) + params.data.validation_size  # type: ignore[union-attr]
    assert len(lines) == problems * (params.evaluation.final_samples + 1)
    assert all(math.isfinite(float(row["loss"])) for row in metrics(project / "whole-run"))
