"""Tests whether two runs are matched: every kind of difference, and what has no effect."""

import copy
import json
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML

from sdpg.errors import UserError
from sdpg.params import load_params
from sdpg.results.matched import (
    ABSENT,
    UNREAD,
    WITHOUT_EFFECT,
    Budget,
    Comparison,
    Difference,
    Record,
    compare_runs,
    comparison_text,
    matched_to_baseline,
    read_record,
)
from sdpg.results.runs import read_results
from sdpg.training.run import train_sections
from tests.helpers.fabricated import params_with, write_base, write_run

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")


def config(method: str = "sdpg-ufkl", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A run's record; ``changes`` name leaves, ``train__lr=1`` for params.train.lr, ``_code="x"`` outside params."""
    tree: dict[str, Any] = {
        "run": f"{method}-{seed}",
        "method": method,
        "seed": seed,
        "fingerprint": "0" * 16,
        "params": PARAMS.model_dump(mode="json"),
        "inputs": {"data/prepared": "aa", "models/base": "bb", "models/base-evaluations": "cc"},
        "git": {"commit": "abc", "dirty": False},
        "code": "dd",
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "hardware": {"machine": "x86_64", "cores": 2, "gpus": []},
        "command": f"dvc repro train@{method}-{seed}",
    }
    for path, value in changes.items():
        *parents, last = path.removeprefix("_").split("__")
        node = tree if path.startswith("_") else tree["params"]
        for parent in parents:
            node = node[parent]
        node[last] = value
    return tree


def record(*arguments: Any, tokens: list[float] | None = None, **changes: Any) -> Record:
    tokens = tokens or [100.0, 120.0]
    steps = [float(step) for step in range(1, len(tokens) + 1)]
    recorded = config(*arguments, **changes)
    return Record(recorded["run"], recorded, {"step": steps, "response_tokens": tokens})


def paths(differences: list[Difference]) -> list[str]:
    return [difference.path for difference in differences]


def test_two_methods_are_compared_by_the_fields_that_they_read() -> None:
    found = compare_runs(record("grpo"), record("sdpg-ufkl"))
    assert found.matched and found.rest == [] and (found.a, found.b) == ("grpo-0", "sdpg-ufkl-0")
    compared = {d.path: (d.a, d.b) for d in found.compared}
    assert compared.pop("method") == ("grpo", "sdpg-ufkl")
    assert compared == {
        "method.outcome": ("ppo_clip", "reinforce"),
        "method.clip_low": (0.2, UNREAD),
        "method.clip_high": (0.2, UNREAD),
        "method.dual_clip": (None, UNREAD),
        "method.distillation": ("none", "kl_student_teacher"),
        "method.teacher": (UNREAD, "current"),
        "method.hint": (UNREAD, "prompts"),
        "method.gate": (UNREAD, "positive"),
        "method.token_gate": (UNREAD, []),
        "method.exclude_eos": (UNREAD, False),
        "method.outcome_rows": (UNREAD, "all"),
        "method.top_k": (UNREAD, None),
        "method.entry_clip": (UNREAD, None),
        "method.beta": (UNREAD, 1.0),
        "method.beta_warmup": (UNREAD, 0.125),
        "method.beta_decay": (UNREAD, 0.875),
        "method.beta_shape": (UNREAD, "linear"),
        "method.kl_clamp": (UNREAD, None),
        "method.reference": ("k3", "ufkl"),
    }, "alpha and reference_in are equal in both"
    assert "method.title" in paths(found.without_effect)


def test_equal_runs_are_matched_and_nothing_is_compared() -> None:
    found = compare_runs(record(), record())
    assert found.matched and not (found.compared or found.rest or found.without_effect or found.caveats)
    assert "Compared: nothing." in comparison_text(found)


@pytest.mark.parametrize(
    ("changes", "kind", "path", "a", "b"),
    [
        ({"train__lr": 1e-3}, "parameters", "train.lr", 3e-4, 1e-3),
        ({"train__betas": [0.9, 0.99]}, "parameters", "train.betas", [0.9, 0.999], [0.9, 0.99]),
        ({"train__steps": 61}, "parameters", "train.steps", 60, 61),
        ({"rollout__max_tokens": 64}, "parameters", "rollout.max_tokens", 32, 64),
        ({"reward__wrong": 0.0}, "parameters", "reward.wrong", -1.0, 0.0),
        ({"evaluation__samples": 4}, "parameters", "evaluation.samples", 8, 4),
        ({"new_section": {"depth": 1}}, "parameters", "new_section.depth", ABSENT, 1),
        ({"_seed": 1}, "seed", "seed", 0, 1),
        ({"_inputs": {"data/prepared": "zz", "models/base": "bb", "models/base-evaluations": "cc"}},
         "data", "inputs.data/prepared", "aa", "zz"),
        ({"_versions__torch": "2.12"}, "versions", "versions.torch", "2.13.0", "2.12"),
        ({"_versions__numpy": "2.1"}, "versions", "versions.numpy", ABSENT, "2.1"),
        ({"_hardware__gpus": ["H100"]}, "hardware", "hardware.gpus", [], ["H100"]),
        ({"_code": "ee"}, "code", "code", "dd", "ee"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["grpo", "sdpg-ufkl"])
def test_every_other_difference_is_the_rest(
    changes: dict[str, Any], kind: Any, path: str, a: Any, b: Any, method: str
) -> None:
    found = compare_runs(record(method), record("sdpg-ufkl", **changes))
    assert not found.matched
    assert found.rest == [Difference(kind, path, a, b)]
    assert "WARNING: not matched" in comparison_text(found)
    # The other way round, and declared.
    assert compare_runs(record("sdpg-ufkl", **changes), record(method)).rest == [Difference(kind, path, b, a)]
    declared = compare_runs(record(method), record("sdpg-ufkl", **changes), [path])
    assert declared.matched and path in paths(declared.compared)


def test_of_one_method_a_changed_value_is_the_rest_until_it_is_declared() -> None:
    a, b = record(), record()
    b.config["params"]["methods"]["sdpg-ufkl"]["beta"] = 0.5
    assert paths(compare_runs(a, b).rest) == ["methods.sdpg-ufkl.beta"]
    for name in ("methods.sdpg-ufkl.beta", "methods.sdpg-ufkl", "methods"):
        found = compare_runs(a, b, [name])
        assert found.matched and found.compared == [Difference("parameters", "methods.sdpg-ufkl.beta", 1.0, 0.5)]
    # jsd_beta is read only by jsd.
    b.config["params"]["methods"]["sdpg-ufkl"] |= {"beta": 1.0, "jsd_beta": 0.9}
    assert compare_runs(a, b).matched


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "other"},
        {"preset": "other"},
        {"run__methods": ["grpo"]},
        {"run__seeds": [0, 1]},
        {"tracking__uri": "http://127.0.0.1:5000"},
        {"report__resamples": 1},
        {"watch__window": 9},
        {"evaluation__final_samples": 1},
        {"train__record_rows": 0},
        {"train__record_every": 1},
        {"train__gradients_every": 0},
        {"train__checkpoint_every": 1},
        # Of the same digests of the inputs, and of the code.
        {"data__ngram": 13},
        {"prompts__max_student_tokens": 95},
        {"base__folder": "elsewhere"},
        {"_git": {"commit": "xyz", "dirty": True}},
    ],
)
def test_what_cannot_change_a_result_is_listed_apart(changes: dict[str, Any]) -> None:
    found = compare_runs(record("grpo"), record("sdpg-ufkl", **changes))
    assert found.matched and not found.caveats
    (name,) = changes
    path = name.removeprefix("_").replace("__", ".")
    assert any(other.startswith(path) for other in paths(found.without_effect))


def test_entries_of_other_methods_have_no_effect() -> None:
    a, b = record("grpo"), record("sdpg-ufkl")
    b.config["params"]["methods"]["opcd"]["beta"] = 9.0
    # GRPO's entry in the record of the other run had no effect on that run.
    b.config["params"]["methods"]["grpo"]["alpha"] = 9.0
    found = compare_runs(a, b)
    assert found.matched
    assert set(paths(found.without_effect)) == {"method.title", "methods.opcd.beta", "methods.grpo.alpha"}
    a.config["params"]["methods"]["grpo"]["alpha"] = 5.0
    assert Difference("parameters", "method.alpha", 5.0, 1e-3) in compare_runs(a, b).compared


def test_parameters_of_the_data_count_where_the_inputs_differ() -> None:
    inputs = {"data/prepared": "zz", "models/base": "bb", "models/base-evaluations": "cc"}
    found = compare_runs(record(), record(prompts__hint="answer", _inputs=inputs))
    assert paths(found.rest) == ["inputs.data/prepared", "prompts.hint"]
    assert compare_runs(record(), record(prompts__hint="answer", _inputs=inputs), ["prompts.hint", "inputs"]).matched


def test_without_a_digest_of_the_code_the_commit_decides() -> None:
    a, b = record(), record(_git={"commit": "xyz", "dirty": False})
    del a.config["code"]  # pyright: ignore[reportIndexIssue]
    found = compare_runs(a, b)
    assert paths(found.rest) == ["git.commit"]
    dirty = record(_git={"commit": "abc", "dirty": True})
    del dirty.config["code"]  # pyright: ignore[reportIndexIssue]
    same = compare_runs(dirty, dirty)
    assert same.matched and "uncommitted changes" in same.caveats[0]
    assert "Caveat: uncommitted changes" in comparison_text(same)


def test_a_declared_path_must_exist_and_may_be_equal() -> None:
    with pytest.raises(
        UserError, match=r"--compare train.learning_rate: neither grpo-0 nor sdpg-ufkl-0 has such a path"
    ):
        compare_runs(record("grpo"), record(), ["train.learning_rate"])
    found = compare_runs(record("grpo"), record(), ["train.lr", "train"])
    assert found.matched and found.equal == ["train.lr", "train"]
    # A path is not a prefix of letters: train.lr is not train.lr_warmup.
    assert not compare_runs(record(), record(train__lr_warmup=0.5), ["train.lr"]).matched


def test_budgets_stand_side_by_side() -> None:
    found = compare_runs(record("grpo", tokens=[10.0, 20.0]), record(tokens=[5.0, 6.0, 7.0]))
    assert found.budgets == (Budget(2, 2 * 16 * 8, 30), Budget(3, 3 * 16 * 8, 18))
    said = comparison_text(found).splitlines()
    assert [line.split() for line in said if line.startswith("  rollouts")] == [["rollouts", "256", "384"]]
    assert [line.split()[-2:] for line in said if line.startswith("  response tokens")] == [["30", "18"]]


def test_the_sections_of_a_runs_fingerprint_have_an_effect_and_names_are_real() -> None:
    sections = train_sections(PARAMS, "grpo")
    tree = PARAMS.model_dump(mode="json")
    for path in WITHOUT_EFFECT:
        node = tree
        for part in path.split("."):
            node = node[part]
    # The watch has columns in metrics.csv, but no say in the policy.
    assert {name for name in sections if name in WITHOUT_EFFECT} == {"watch"}


def stored(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    with (folder / "config.yaml").open("w") as file:
        YAML().dump(config(folder.name.rsplit("-", 1)[0], **changes), file)
    (folder / "metrics.csv").write_text("step,response_tokens\n1,10.0\n2,20.0\n")
    (folder / "COMPLETE").write_text("0\n")
    return folder


def test_a_run_is_read_by_its_name_or_its_folder(tmp_path: Path) -> None:
    folder = stored(tmp_path / "runs" / "grpo-0")
    metrics = {"step": [1.0, 2.0], "response_tokens": [10.0, 20.0]}
    assert read_record("grpo-0", tmp_path) == Record("grpo-0", config("grpo"), metrics)
    assert read_record(str(folder)) == Record(str(folder), config("grpo"), metrics)


def test_a_field_that_an_older_run_lacks_has_its_default() -> None:
    newer, older, moved = config(), config(), config()
    for one in (newer, older, moved):
        one["params"]["methods"]["grpo"] |= {"terms": {}}
        one["params"]["methods"]["sdpg-ufkl"] |= {"terms": {}, "entropy_bonus": 0.0}
    for name in ("terms", "entropy_bonus"):
        del older["params"]["methods"]["sdpg-ufkl"][name]
    del older["params"]["methods"]["grpo"]["terms"]
    moved["params"]["methods"]["sdpg-ufkl"]["entropy_bonus"] = 0.1
    empty = {"step": [], "response_tokens": []}
    found = compare_runs(Record("new", newer, empty), Record("old", older, empty))
    assert (found.rest, found.compared, found.without_effect) == ([], [], [])
    found = compare_runs(Record("moved", moved, empty), Record("old", older, empty))
    assert paths(found.rest) == ["methods.sdpg-ufkl.entropy_bonus"]


def test_what_an_older_run_does_not_say_differs(tmp_path: Path) -> None:
    stored(tmp_path / "runs" / "grpo-0")
    text = (stored(tmp_path / "elsewhere" / "grpo-0") / "config.yaml").read_text()
    tree = {key: value for key, value in YAML(typ="safe").load(text).items() if key not in ("versions", "hardware")}
    with (tmp_path / "elsewhere" / "grpo-0" / "config.yaml").open("w") as file:
        YAML().dump(tree | {"weather": "fair"}, file)
    found = compare_runs(read_record("grpo-0", tmp_path), read_record("elsewhere/grpo-0", tmp_path))
    assert {one.path for one in found.rest + found.without_effect if one.b == ABSENT} >= {"versions.torch"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "COMPLETE").unlink(), "has no file COMPLETE"),
        (lambda folder: (folder / "config.yaml").unlink(), "has no config.yaml"),
        (lambda folder: (folder / "config.yaml").write_text("a: [1"), "is not valid YAML"),
        (lambda folder: (folder / "config.yaml").write_text(""), "does not say method, seed, params"),
        (lambda folder: (folder / "config.yaml").write_text("- 1"), "does not say method, seed, params"),
        (lambda folder: (folder / "metrics.csv").unlink(), "metrics.csv does not exist"),
        (lambda folder: (folder / "metrics.csv").write_text("step\nx\n"), "metrics.csv is damaged"),
        (lambda folder: (folder / "metrics.csv").write_text("reward\n1\n"), "has no column step"),
    ],
)
def test_a_damaged_run_is_one_clear_message(damage: Any, message: str, tmp_path: Path) -> None:
    damage(stored(tmp_path / "runs" / "grpo-0"))
    with pytest.raises(UserError, match=message):
        read_record("grpo-0", tmp_path)


def test_a_missing_run_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run 'grpo-1'.*there are: none"):
        read_record("grpo-1", tmp_path)
    stored(tmp_path / "runs" / "grpo-0")
    with pytest.raises(UserError, match=r"no run 'grpo-1'.*there are: grpo-0"):
        read_record("grpo-1", tmp_path)
    text = (tmp_path / "runs/grpo-0/config.yaml").read_text().replace("method: grpo", "method: gone")
    (tmp_path / "runs/grpo-0/config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"does not say params.methods.gone"):
        read_record("grpo-0", tmp_path)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.compare", *arguments], cwd=folder, capture_output=True, text=True,
        check=False, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_command_says_it_in_text_in_json_and_by_its_exit_code(tmp_path: Path) -> None:
    stored(tmp_path / "runs" / "grpo-0")
    stored(tmp_path / "runs" / "sdpg-ufkl-0")
    stored(tmp_path / "elsewhere" / "sdpg-ufkl-0", train__lr=1e-3)
    equal = command(tmp_path, "grpo-0", "sdpg-ufkl-0")
    assert equal.returncode == 0 and "Matched: everything else" in equal.stdout
    other = command(tmp_path, "grpo-0", "elsewhere/sdpg-ufkl-0")
    assert other.returncode == 1
    assert ["parameters", "train.lr", "0.0003", "0.001"] in [line.split() for line in other.stdout.splitlines()]
    declared = command(tmp_path, "sdpg-ufkl-0", "elsewhere/sdpg-ufkl-0", "--compare", "train.lr", "--json")
    assert declared.returncode == 0
    tree = json.loads(declared.stdout)
    assert tree["matched"] is True and tree["rest"] == []
    assert tree["compared"] == [{"kind": "parameters", "path": "train.lr", "a": 0.0003, "b": 0.001}]
    assert tree["budgets"][0] == {"steps": 2, "rollouts": 256, "response_tokens": 30}
    missing = command(tmp_path, "grpo-0", "nope")
    assert missing.returncode == 2 and "error: there is no run 'nope'" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_the_module_imports_no_torch() -> None:
    code = (
        "import sys, sdpg.results.matched, sdpg.records.watch; "
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_the_report_gets_each_run_against_the_baseline_of_its_seed(tmp_path: Path) -> None:
    methods, seeds = ["grpo", "opcd", "sdpg-ufkl"], [0, 1]
    write_base(tmp_path)
    for method in methods:
        for seed in seeds:
            recorded = config(method, seed)
            if (method, seed) == ("opcd", 1):
                recorded["versions"]["torch"] = "2.12"
            write_run(tmp_path, method, seed, lambda *_: 1, config=copy.deepcopy(recorded))
    found = matched_to_baseline(read_results(params_with(methods, seeds), tmp_path))
    assert [(c.a, c.b, c.matched) for c in found] == [
        ("grpo-0", "opcd-0", True),
        ("grpo-1", "opcd-1", False),
        ("grpo-0", "sdpg-ufkl-0", True),
        ("grpo-1", "sdpg-ufkl-1", True),
    ]
    assert found[0].budgets[0] == Budget(40, 40 * 16 * 8, None)
    assert matched_to_baseline(read_results(params_with(["opcd"], [0]), tmp_path)) == []
    assert isinstance(found[0], Comparison)
