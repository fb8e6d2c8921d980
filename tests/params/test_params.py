"""Tests params.yaml: every key is known and used, and every error is readable."""

import copy
from pathlib import Path
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.params import Params, load_params, parse_params
from sdpg.params.section import without_unknown
from tests.helpers.scratch import scratch_tree

ROOT = Path(__file__).parents[2]
TREE = scratch_tree()


def changed(path: str, value: Any) -> dict[str, Any]:
    tree = copy.deepcopy(TREE)
    node = tree
    *parents, last = path.split("/")
    for key in parents:
        node = node[key]
    node[last] = value
    return tree


def test_the_projects_params_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.run.methods[0] == "grpo"
    assert {"alpha0", "beta0", "nogate"} <= set(params.methods)


def test_every_field_of_the_tree_stands_in_params_yaml() -> None:
    # What is not written there would be a choice that nobody sees; method keys that a method does not use are absent.
    def missing(model: Any, tree: dict[str, Any], where: str) -> list[str]:
        found = []
        for name in type(model).model_fields:
            value = getattr(model, name)
            if name not in tree:
                found.append(f"{where}{name}")
            elif hasattr(type(value), "model_fields"):
                found += missing(value, tree[name], f"{where}{name}.")
        return found

    params: Params = parse_params(TREE)
    optional = {"data.train.limit", "data.train.columns"}
    sections = {name: getattr(params, name) for name in Params.model_fields}
    absent = [
        path
        for name, section in sections.items()
        if hasattr(type(section), "model_fields")
        for path in missing(section, TREE[name], f"{name}.")
    ]
    assert set(absent) <= optional


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trian", {}, "trian: unknown key"),
        ("methods/sdpg-ufkl/gama", 1, "methods.sdpg-ufkl.gama: unknown key"),
        ("run/methods", ["grpo", "ppo"], "run.methods names 'ppo', which is not under methods; there are: grpo"),
        ("run/methods", [], "run.methods: List should have at least 1 item"),
        ("run/seeds", [0, 0], "seeds holds a value twice"),
        ("data/benchmarks", {}, "data.benchmarks: Dictionary should have at least 1 item"),
        ("train/steps", 0, r"train.steps: Input should be greater than 0 \(got 0\)"),
        ("train/lr", float("nan"), "train.lr: "),
        ("train/updates_per_batch", 3, "does not divide"),
        ("reward/wrong", 1.0, "must be larger than wrong"),
        ("methods/grpo/beta", 1.0, "beta would have no effect"),
        ("methods/beta0/gate", "all", "gate would have no effect"),
        ("methods/opcd/length", {"weight": 1.0}, "length would have no effect"),
        ("methods/opcd/distillation", "none", "would have no effect"),
        ("methods/sdpg-ufkl/reference_in", "reward", "takes the estimators k1 and k3"),
        ("methods/grpo/reference", "k1", "zero expected gradient"),
        ("methods/sdpg-ufkl/beta_warmup", 1.5, "less than or equal to 1"),
        ("methods/base", {"title": "x", "outcome": "reinforce"}, "methods.base: names like this"),
        ("methods/ema-teacher", {"title": "x", "outcome": "reinforce"}, "methods.ema-teacher: names like this"),
        ("methods/a.b", {"title": "x", "outcome": "reinforce"}, "String should match pattern"),
        (
            "data/benchmarks/validation",
            TREE["data"]["benchmarks"]["chain-3"],
            "benchmarks.validation: this is a column",
        ),
        ("train/betas", [0.9, 1.0], "less than 1"),
        ("prompts/student", "Solve it.", "student has no {problem}"),
        ("data/train", {"kind": "file", "path": "x.jsonl"}, "use a hub or folder model"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(path: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_params(changed(path, value))


HUB = {"kind": "hub", "revision": "main"}


@pytest.mark.parametrize("name", ["../mine", "/etc", "a/../../b", ""])
def test_an_input_is_named_within_its_folder(name: str) -> None:
    for path, value in (
        ("base/model", {"kind": "folder", "path": name}),
        ("base/model", HUB | {"id": name}),
        ("data/train", HUB | {"id": name}),
    ):
        tree = changed(path, value)
        if path == "data/train":
            tree["base"]["model"] = {"kind": "folder", "path": "mine"}
        with pytest.raises(UserError, match=path.replace("/", r"\.")) as refused:
            parse_params(tree)
        absolute = name == "/etc" and path == "base/model" and value["kind"] == "folder"
        assert ("an absolute path" if absolute else "plain name") in str(refused.value)


def test_keys_that_are_unknown_now_are_left_out_and_nothing_else() -> None:
    tree = copy.deepcopy(TREE)
    more = copy.deepcopy(tree)
    more["sorcery"] = {"level": 3}
    more["train"] |= {"wand": "holly", "lr": -1.0}
    more["base"]["model"]["moon"] = "full"
    tree["train"]["lr"] = -1.0
    assert without_unknown(Params, more) == tree, "a wrong value stays for the validation to name"
    assert more["train"]["wand"] == "holly"


def test_a_file_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_params(tmp_path / "params.yaml")
