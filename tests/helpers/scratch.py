"""The tree of params.yaml with a base that is made from scratch, for tests of such bases or of other sizes."""

from pathlib import Path
from typing import Any

from sdpg.params import read_yaml
from sdpg.params.configure import merge, read_overlay

ROOT = Path(__file__).parents[2]


def scratch_tree() -> dict[str, Any]:
    """A new tree: profile tiny-scratch on top of params.yaml."""
    tree = read_yaml(ROOT / "params.yaml")
    merge(tree, read_overlay("profile", "tiny-scratch", ROOT) | {"profile": "tiny-scratch"})
    return tree
