"""Tests what is missing: runs that are gone, and records in which every column that may be null is null."""

from pathlib import Path
import shutil

import pytest

from app import selection, sources, store
from app.sources import SAMPLE
from sdpg.records.schemas import (
    EVALUATION_REQUIRED,
    EVALUATION_SCHEMA,
    ROLLOUT_REQUIRED,
    ROLLOUT_SCHEMA,
    read_evaluations,
    read_rollouts,
    write_evaluations,
    write_rollouts,
)
from tests.helpers import pages

RUN = "sdpg-ufkl-0"
NULLABLE = {*ROLLOUT_SCHEMA.names, *EVALUATION_SCHEMA.names} - {*ROLLOUT_REQUIRED, *EVALUATION_REQUIRED}
OF_A_RUN = ("rollouts", "rollout", "gating", "diff", "provenance")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's runs; every second row of each record is null wherever it may be, and the last step's rows all."""
    root = tmp_path_factory.mktemp("missing") / "project"
    shutil.copytree(SAMPLE, root)
    for path in sorted(root.rglob("*.parquet")):
        of_rollouts = path.parent.name == "rollouts"
        rows = (read_rollouts if of_rollouts else read_evaluations)(path).to_pylist()
        for at, row in enumerate(rows):
            if at % 2 or "000060" in path.name:
                row |= dict.fromkeys(NULLABLE & set(row))
                row["status"] = "truncated" if row["status"] != "correct" else "correct"
        (write_rollouts if of_rollouts else write_evaluations)(path, rows)
    return root


@pytest.mark.parametrize("page", list(selection.PAGES))
@pytest.mark.parametrize("step", ["40", "60"])
def test_every_page_shows_records_that_are_null_wherever_they_may_be(
    page: str, step: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = pages.opened(page, root, monkeypatch, run=RUN, step=step, group="3", sibling="1", scope="whole run")
    assert not at.exception and not at.error
    shown = {value for each in at.dataframe for name in each.value for value in each.value[name] if type(value) is str}
    assert not {"nan", "NaN", "None", "<NA>"} & shown or page == "provenance", "which shows parameters"


def test_an_answer_that_was_not_found_is_not_counted_as_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = pages.opened("problems", root, monkeypatch, benchmark="chain-4")
    votes = next(each.value for each in at.dataframe if "answer" in each.value)
    assert "(truncated)" in set(votes["answer"]) and not {"nan", "None"} & set(votes["answer"])


@pytest.mark.parametrize("page", list(selection.PAGES))
def test_a_run_that_is_gone_is_named_and_nothing_takes_its_place(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = pages.opened(page, tmp_path, monkeypatch, run="gone-7", step="20")
    said = [*at.error, *at.warning]
    assert not at.exception and any("gone" in each.value and "7" in each.value for each in said)
    assert dict(at.query_params)["run"] in ("gone-7", ["gone-7"])
    links = [link.proto.query_string for link in at.get("page_link")]
    assert links and all("run=gone-7" in link for link in links), "the links keep what the address names"
    if page in OF_A_RUN:
        assert at.selectbox(key="run").value is None and len(at.selectbox) == 1 and not at.dataframe
        run = list(sources.discover(tmp_path).runs.values())[1]
        at.selectbox(key="run").set_value(run.id).run()
        assert not at.error and dict(at.query_params)["run"] in (run.id, [run.id])
        assert "20" in map(str, store.rollout_steps(run)) and dict(at.query_params)["step"] in ("20", ["20"])
