"""Tests that model folders which cannot be used are refused with a remedy, before any output is touched."""

import json
from pathlib import Path
import shutil
from typing import Any

import pytest

from pipelines.check import check_inputs
from sdpg.errors import UserError
from sdpg.evaluation.base import build_base
from sdpg.files import write_json_lines
from sdpg.models.loading import load_model, save_model, scratch_model
from sdpg.models.weight_files import check_digest, folder_digest
from sdpg.params import LocalModel, Params, ScratchModel, load_params, parse_params
from sdpg.params.configure import read_overlay
from sdpg.problems.prepare import prepare, write_prepared
from sdpg.problems.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
MODEL = ScratchModel(
    kind="scratch", vocab_size=300, hidden_size=32, layers=1, heads=2, kv_heads=1, head_dim=32, intermediate_size=64,
    context=4096, steps=1, batch=1, lr=1e-3, student_share=1, slip_rate=0, misconception_rate=0,
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a local model and local problem files in it."""
    monkeypatch.chdir(tmp_path)
    tokenizer = train_tokenizer(["What is 2+3? Solve step by step."] * 9, 300)
    save_model(scratch_model(MODEL, tokenizer), tokenizer, tmp_path / "inputs/models/tiny")
    rows = [{"problem": f"What is {n}+3?", "answer": str(n + 3), "solution": f"{n}+3={n + 3}"} for n in range(30)]
    write_json_lines(tmp_path / "inputs/problems/train.jsonl", rows[:24])
    write_json_lines(tmp_path / "inputs/problems/test.jsonl", rows[24:])
    return tmp_path


def params(**changes: Any) -> Params:
    tree = load_params(ROOT / "params.yaml").model_dump()
    tree["methods"] = {
        name: method.model_dump(include=method.model_fields_set)
        for name, method in load_params(ROOT / "params.yaml").methods.items()
    }
    columns = {"solution": "solution"}
    tree["data"] |= {"validation_size": 4, "train": {"kind": "file", "path": "train.jsonl", "columns": columns}}
    source = {"kind": "file", "path": "test.jsonl", "columns": columns}
    tree["data"]["benchmarks"] = {"sums": {"title": "Sums", "source": source}}
    tree["base"]["model"] = {"kind": "folder", "path": "tiny"}
    tree["prompts"] |= {"max_student_tokens": 200, "max_teacher_tokens": 300}
    tree["rollout"]["max_tokens"] = tree["evaluation"]["max_tokens"] = 8
    tree["evaluation"]["final_samples"] = 2
    tree["tracking"]["system_metrics"] = False
    for path, value in changes.items():
        section, key = path.split("__")
        tree[section][key] = value
    return parse_params(tree)


def test_a_local_model_and_local_files_go_the_same_way(project: Path) -> None:
    settings = params()
    check_inputs(settings)
    write_prepared(prepare(settings), Path("data"))
    folder = build_base(settings)
    assert folder is not None and load_model(folder).config.hidden_size == 32
    metrics = json.loads((project / "models/base.json").read_text())
    assert set(metrics) == {"sampled", "greedy", "teacher"}
    assert set(metrics["sampled"]) == {"sums", "validation"}


def remove(pattern: str) -> Any:
    def change(project: Path) -> None:
        for path in project.glob(pattern):
            path.unlink()

    return change


def without_template(project: Path) -> None:
    folder = project / "inputs/models/tiny"
    for path in folder.glob("chat_template*"):
        path.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "changes", "message"),
    [
        (remove("inputs/models/tiny/config.json"), {}, r"tiny has no config.json.*base.model.path"),
        (remove("inputs/models/tiny/*.safetensors"), {}, "has no .*safetensors weights"),
        (remove("inputs/models/tiny/tokenizer*"), {}, "tiny has no tokenizer"),
        (without_template, {}, "has no chat template"),
        (remove("inputs/problems/train.jsonl"), {}, "data.train.path: .*train.jsonl does not exist"),
        (remove("inputs/problems/test.jsonl"), {}, "data.benchmarks.sums.source.path: .*test.jsonl does not exist"),
        (lambda project: None, {"prompts__max_teacher_tokens": 9999}, "max_teacher_tokens .9999. .*context is 4096"),
        (lambda project: None, {"tracking__uri": "sqlite:////dev/null/runs.db"}, "tracking.uri .*cannot be used"),
        (lambda project: None, {"tracking__uri": "file:./mlruns"}, "tracking.uri .*cannot be used"),
    ],
)  # fmt: skip
def test_the_check_names_what_is_missing(project: Path, damage: Any, changes: dict[str, Any], message: str) -> None:
    damage(project)
    with pytest.raises(UserError, match=message):
        check_inputs(params(**changes))
    assert not (project / "data").exists()


def other_weight(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize(
    "change",
    [
        other_weight,
        lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
        lambda folder: (folder / "generation_config.json").unlink(),
        lambda folder: (folder / "added_tokens.json").write_text("{}"),
    ],
)
def test_a_folder_with_a_recorded_digest_holds_those_files_and_no_others(project: Path, change: Any) -> None:
    folder = project / "inputs/models/tiny"
    model = {"kind": "folder", "path": "tiny", "digest": folder_digest(folder)}
    check_inputs(params(base__model=model))
    (folder / "README.md").write_text("a card, which no result depends on")
    check_inputs(params(base__model=model))
    change(folder)
    with pytest.raises(UserError, match=rf"base.model.digest is {model['digest']}, but .*git checkout"):
        check_inputs(params(base__model=model))
    check_inputs(params())


def test_the_committed_base_is_the_one_that_params_yaml_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    base = load_params().base
    assert isinstance(base.model, LocalModel) and base.model.digest is not None
    check_digest(base)
    assert base.model.digest in (Path(base.folder) / base.model.path / "README.md").read_text(encoding="utf-8")
    shape = ScratchModel(**read_overlay("profile", "tiny-scratch")["base"]["model"])
    config = load_model(Path(base.folder) / base.model.path).config
    assert (config.hidden_size, config.num_hidden_layers) == (shape.hidden_size, shape.layers)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"problem": "What is 1+1?", "answer": "2", "solution": "2"}\n{"problem": ', "test.jsonl, line 2: not valid"),
        ('{"question": "What is 1+1?", "answer": "2"}\n', "no column 'problem'|problem"),
        ("", "data.benchmarks.sums"),
    ],
)
def test_the_check_reads_files_to_their_end(project: Path, content: str, message: str) -> None:
    (project / "inputs/problems/test.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        check_inputs(params())
    assert not (project / "data").exists()


def test_an_unchanged_input_is_not_read_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_inputs(params())
    monkeypatch.setattr("sdpg.problems.prepare.prepare", lambda params: pytest.fail("read again"))
    check_inputs(params())
    monkeypatch.undo()
    monkeypatch.chdir(project)
    with (project / "inputs/problems/train.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(UserError, match="line 25"):
        check_inputs(params())


def test_code_that_comes_with_a_model_is_never_run(project: Path) -> None:
    folder = project / "inputs/models/tiny"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "architectures": ["Homemade"]}
    config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Homemade"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(project / 'ran')!r}, 'w')")
    with pytest.raises(UserError):
        load_model(folder)
    assert not (project / "ran").exists()


def test_a_damaged_weights_file_is_named(project: Path) -> None:
    weights = project / "inputs/models/tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"tiny/model\.safetensors is damaged .*copy it again"):
        load_model(project / "inputs/models/tiny")


def test_a_hub_model_that_is_not_at_hand_says_where_to_put_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdpg.evaluation.base import _fetch
    from sdpg.params import HubModel

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"neither cached nor reachable .* files into inputs/models/Qwen/Qwen3-1\.7B"):
        _fetch(HubModel(kind="hub", id="Qwen/Qwen3-1.7B", revision="main"), "inputs/models")


def test_a_hub_model_in_the_cache_is_resolved_without_network(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdpg.evaluation.base import _fetch
    from sdpg.params import HubModel

    # The hub's own cache layout: refs name a commit, snapshots hold its files.
    cache = project / "hub/models--lab--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/v1").write_text("0" * 40)
    shutil.copytree("inputs/models/tiny", cache / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = _fetch(HubModel(kind="hub", id="lab/tiny", revision="v1"), "inputs/models")
    assert load_model(folder).config.hidden_size == 32
