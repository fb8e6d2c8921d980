from pathlib import Path
from typing import Any

import pytest

from sdpg.objective.choices import CHOICES, choices_markdown, deviations, resolve
from sdpg.params import Params, parse_params, read_yaml
from tests.helpers.fabricated import params_with

PROJECT = Path(__file__).parents[2]
UNSET = "(unset)"
SIZES = {"steps", "prompts_per_step", "responses_per_prompt", "lr", "beta", "tokens_per_micro_batch"}


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        found |= leaves(value, (*prefix, key)) if isinstance(value, dict) else {(*prefix, key): value}
    return found


def merged(tree: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    result = dict(tree)
    for key, value in overlay.items():
        if value == UNSET:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def preset(name: str) -> dict[str, Any]:
    return read_yaml(PROJECT / "presets" / f"{name}.yaml")


def applied(*names: str) -> Params:
    tree = read_yaml(PROJECT / "params.yaml")
    tree["run"]["methods"] = list(tree["methods"])
    for name in names:
        tree = merged(tree, preset(name))
    return parse_params(tree)


def test_presets_set_the_same_keys_and_no_sizes() -> None:
    paper, refcode = leaves(preset("paper")), leaves(preset("refcode"))
    assert paper.keys() == refcode.keys()
    assert not {path[-1] for path in paper} & SIZES
    # The one coefficient is RLSD's KL, which the public code does not have (D4).
    assert [path for path in paper if path[-1] == "alpha"] == [("methods", "rlsd", "alpha")]


@pytest.mark.parametrize("name", ["paper", "refcode"])
def test_presets_parse_over_params_and_over_each_other(name: str) -> None:
    other = {"paper": "refcode", "refcode": "paper"}[name]
    assert applied(name).preset == name
    assert applied(other, name).model_dump() == applied(name).model_dump()


def test_refcode_by_method() -> None:
    methods = applied("refcode").methods
    sdpg = methods["sdpg-ufkl"]
    assert (sdpg.outcome, sdpg.clip_low, sdpg.clip_high, sdpg.dual_clip) == ("ppo_clip", 0.2, 0.28, 10.0)
    assert (sdpg.gate, sdpg.kl_clamp, sdpg.beta_warmup, sdpg.beta_decay) == ("all", 20.0, 0.0, 0.0)
    assert (methods["grpo"].reference, methods["grpo"].reference_in, methods["grpo"].dual_clip) == ("k1", "reward", 1e3)
    assert (methods["rlsd"].reference, methods["rlsd"].dual_clip) == ("none", 3.0)


def test_paper_by_method() -> None:
    params = applied("paper")
    assert params.methods["sdpg-urkl"].outcome == "reinforce"
    assert params.methods["sdpg-urkl"].gate == "positive"
    assert params.methods["nogate"].gate == "all"
    assert params.train.normaliser == "group"
    assert params.train.updates_per_batch == 1


def test_every_difference_is_listed_once_with_an_option_or_a_reason() -> None:
    assert [choice.id for choice in CHOICES] == [f"D{number}" for number in range(1, 23)]
    assert all(choice.paths or choice.not_offered for choice in CHOICES)


def test_what_a_preset_sets_is_listed() -> None:
    listed = {path for choice in CHOICES for path in choice.paths}
    for path in leaves(preset("refcode")):
        name = ".".join(("methods", "*", path[-1]) if path[0] == "methods" else path)
        assert name in listed | {"preset"}


def test_values_are_resolved_per_method() -> None:
    values = {
        path: value for item in resolve(params_with(["grpo", "opcd", "sdpg-ufkl"], [0])) for path, value in item.values
    }
    assert values["methods.*.gate"] == "not used (grpo); all (opcd); positive (sdpg-ufkl)"
    assert values["methods.*.reference"] == "k3 (grpo); none (opcd); ufkl (sdpg-ufkl)"
    assert values["train.lr_starts_at_zero"] == "no"
    assert values["methods.opcd"] == "offered, run"
    assert values["train.log_ratio_clamp"] == "none"
    only = {path: value for item in resolve(params_with(["grpo"], [0])) for path, value in item.values}
    assert only["methods.*.clip_low"] == "0.2 (all)"


def test_markdown_has_a_line_for_each() -> None:
    text = choices_markdown(params_with(["grpo"], [0]))
    assert "Profile `tiny`, preset `paper`" in text
    rows = [line for line in text.splitlines() if line.startswith("| D")]
    assert len(rows) == 22
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_a_run_deviates_from_what_the_other_preset_sets() -> None:
    found = {each.path: each for each in deviations(applied("paper"), "sdpg-ufkl", PROJECT)}
    gate = found["methods.*.gate"]
    assert (gate.id, gate.value, gate.paper, gate.refcode) == ("D1", "positive", "positive", "all")
    assert found["train.updates_per_batch"].refcode == "8" and "methods.*.reference" not in found
    assert all(each.paper == each.value != each.refcode for each in found.values())
    assert all(each.refcode == each.value for each in deviations(applied("refcode"), "sdpg-ufkl", PROJECT))


def test_a_method_of_its_own_deviates_by_what_it_sets_itself() -> None:
    tree = read_yaml(PROJECT / "params.yaml")
    tree["methods"]["sdpg-ufkl"] |= {"gate": ["positive", "difficulty"], "train": {"normaliser": "sequence"}}
    tree["train"]["lr_starts_at_zero"] = True
    found = {each.path: each for each in deviations(parse_params(tree), "sdpg-ufkl", PROJECT)}
    assert (found["methods.*.gate"].value, found["methods.*.gate"].paper) == ("positive · difficulty", "positive")
    assert found["train.normaliser"].value == "sequence" and "train.normaliser" in found
    assert (found["train.lr_starts_at_zero"].paper, found["train.lr_starts_at_zero"].refcode) == ("no", "yes")
