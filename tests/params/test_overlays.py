"""Tests profiles and presets, written into params.yaml."""

from pathlib import Path
import shutil
from typing import Any

import pytest

from sdpg.errors import UserError
from sdpg.params import load_params, read_yaml
from sdpg.params.configure import UNSET, configure, read_overlay

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
PRESETS = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for folder in ("profiles", "presets"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {key: value for name in tree for key, value in leaves(tree[name], f"{path}/{name}").items()}


def test_an_overlay_on_another_can_remove_what_that_one_leaves_alone(project: Path) -> None:
    for name, text in {
        "below": "data: {seed: 3}", "above": "based_on: below\ndata: {seed: (unset), ngram: 5}",
        "left": "based_on: right", "right": "based_on: left",
    }.items():  # fmt: skip
        (project / "profiles" / f"{name}.yaml").write_text(text + "\n")
    assert read_overlay("profile", "above", project) == {"data": {"seed": UNSET, "ngram": 5}}
    with pytest.raises(UserError, match="profiles are based on one another: left → right → left"):
        read_overlay("profile", "left", project)


def test_params_yaml_as_committed_is_the_tiny_profile_under_the_papers_preset(project: Path) -> None:
    assert configure(project, profile="tiny", preset="paper") == ""


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_profile_goes_with_every_preset_and_back(project: Path, profile: str, preset: str) -> None:
    before = read_yaml(project / "params.yaml")
    if preset == "refcode" and profile == "micro":
        # 8 updates per batch need 8 prompts; the micro profile has 2.
        with pytest.raises(UserError, match="does not divide"):
            configure(project, profile=profile, preset=preset)
        return
    configure(project, profile=profile, preset=preset)
    params = load_params(project / "params.yaml")
    assert (params.profile, params.preset) == (profile, preset)
    configure(project, profile="tiny", preset="paper")
    assert read_yaml(project / "params.yaml") == before


def test_profiles_and_presets_set_different_keys() -> None:
    # Otherwise the order in which they are written would matter.
    for profile in PROFILES:
        for preset in PRESETS:
            both = (
                leaves(read_overlay("profile", profile, ROOT)).keys()
                & leaves(read_overlay("preset", preset, ROOT)).keys()
            )
            assert not both


def test_the_change_is_shown_and_comments_survive(project: Path) -> None:
    change = configure(project, methods="grpo rlsd", seeds="3")
    assert "+  seeds: [0, 1, 2]" in change and "-  seeds: [0]" in change
    assert sum(line[0] in "+-" for line in change.splitlines()) == 4 + 2, "methods and seeds, below the two file names"
    assert (project / "params.yaml").read_text().startswith("# The effective value of every choice.")
    assert load_params(project / "params.yaml").run.methods[-1] == "rlsd"
    assert configure(project, methods="grpo, sdpg-ufkl") != ""
    assert load_params(project / "params.yaml").run.methods == ["grpo", "sdpg-ufkl"]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"profile": "huge"},
            "there is no profile 'huge'; there are: micro, qwen3-0.6b, qwen3-1.7b, qwen3-4b, rehearsal, tiny",
        ),
        ({"preset": "mine"}, "there is no preset 'mine'; there are: paper, refcode"),
        ({"methods": "grpo ppo"}, "'ppo', which is not under methods"),
        ({"seeds": "many"}, "--seeds many"),
        ({"seeds": "0"}, "--seeds 0"),
    ],
)
def test_a_wrong_choice_changes_nothing(project: Path, choice: dict[str, str], message: str) -> None:
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(UserError, match=message):
        configure(project, **choice)
    assert (project / "params.yaml").read_bytes() == before
