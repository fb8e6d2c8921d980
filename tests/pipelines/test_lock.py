"""Tests the lock of the installation: from a report of pip, without an index."""

from pathlib import Path
import re
from typing import Any

import pytest

from pipelines.lock import LOCK, lock_text
from sdpg.errors import UserError

ROOT = Path(__file__).parents[2]


def entry(name: str, version: str, **download: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "version": version}, "download_info": download}


def hashed(digit: str) -> dict[str, Any]:
    return {"url": "https://index/x.whl", "archive_info": {"hashes": {"sha256": digit * 64}}}


def test_each_package_has_version_and_hash_in_order_of_names() -> None:
    ours = entry("sdpg", "0.1", url="file:///here", dir_info={})
    packages = [entry("Ruamel_YAML.x", "0.18", **hashed("b")), ours, entry("numpy", "2.0+cpu", **hashed("a"))]
    head, *lines = lock_text({"install": packages}).splitlines()
    assert head.startswith("# Made by `make lock` for ")
    assert lines == [
        "numpy==2.0+cpu \\", f"    --hash=sha256:{'a' * 64}", "ruamel-yaml-x==0.18 \\", f"    --hash=sha256:{'b' * 64}",
    ]  # fmt: skip


def test_what_has_no_hash_is_refused() -> None:
    with pytest.raises(UserError, match=r"numpy 2 comes from https://x/y\.git and has no SHA-256"):
        lock_text({"install": [entry("numpy", "2", url="https://x/y.git", vcs_info={})]})
    for wrong in ({}, [], {"install": [{}]}, {"install": 3}, None):
        with pytest.raises(UserError, match="no report of pip"):
            lock_text(wrong)


def test_the_lock_pins_what_the_constraints_pin() -> None:
    def pins(path: Path) -> dict[str, str]:
        found = re.findall(r"^([\w.-]+)==([\w.+!-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", name).lower(): version.split("+")[0] for name, version in found}

    locked, constrained = pins(ROOT / LOCK), pins(ROOT / "constraints.txt")
    assert len(locked) > 100 and {"torch", "transformers", "dvc", "mlflow"} <= locked.keys()
    assert {name: version for name, version in locked.items() if constrained.get(name, version) != version} == {}
