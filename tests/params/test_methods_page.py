"""Tests that docs/methods.md names every method of params.yaml, and that its examples are valid."""

from pathlib import Path
import re

from ruamel.yaml import YAML

from sdpg.objective.gates import GATES, TOKEN_GATES
from sdpg.objective.outcomes import OUTCOMES
from sdpg.objective.token_credit import CREDITS
from sdpg.params import parse_params, read_yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")


def test_every_method_and_every_part_is_on_the_page() -> None:
    named = set(re.findall(r"`([a-z][a-z0-9_-]*)`", PAGE))
    assert set(read_yaml(ROOT / "params.yaml")["methods"]) <= named
    assert {*GATES, *TOKEN_GATES, *OUTCOMES, *CREDITS} <= named


def test_the_examples_are_valid_and_short() -> None:
    tree = read_yaml(ROOT / "params.yaml")
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 2 and all(len(block.splitlines()) <= 18 for block in blocks)
    for block in blocks:
        tree["methods"] |= YAML(typ="safe").load(block)["methods"]
    assert "my-method" in parse_params(tree).methods
