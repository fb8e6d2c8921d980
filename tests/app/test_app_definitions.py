"""Tests that pages show a number's definition of docs/metrics.md, and that empty pages say what to run."""

from pathlib import Path
import shutil

import pandas as pd
import pytest

from app import definitions
from app.sources import SAMPLE
from tests.helpers import pages


def test_every_logged_column_has_a_definition() -> None:
    columns = list(pd.read_csv(SAMPLE / "runs/grpo-0/metrics.csv", nrows=1))
    assert [name for name in columns if not definitions.of(name)] == []
    assert definitions.of("clip_fraction_low").startswith("the same by kind") and not definitions.of("nonsense")
    assert definitions.of("status_wrong") == definitions.of("status_timeout") != definitions.of("reward")
    assert "kl_to_reference_k3" not in definitions.of("kl_to_reference_k1")


def test_definitions_stand_beside_what_they_define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    at = pages.opened("compare", tmp_path, monkeypatch, part="Metrics", logged="gate_rate")
    assert definitions.of("gate_rate") in [each.proto.help for each in at.markdown]


@pytest.mark.parametrize(
    ("page", "command"), [("rollouts", "dvc repro train@grpo-0"), ("gating", "dvc repro train@grpo-0")]
)
def test_an_empty_page_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, command: str
) -> None:
    shutil.copytree(SAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs/grpo-0/rollouts")
    at = pages.opened(page, tmp_path, monkeypatch, run="grpo-0")
    assert not at.exception and [each.value for each in at.code] == [command]
