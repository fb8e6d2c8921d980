"""Tests that nothing read from a run's folder, or from a study's storage, names what is deleted."""

from pathlib import Path
import shutil
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines import tabulate
from sdpg.params import load_params
from sdpg.records.work import read_fingerprint, remove_work

PROJECT = Path(__file__).parents[2]
RUN, IDENTITY, OTHER = "grpo-0", "0123456789abcdef", "fedcba9876543210"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a finished run, its work in progress and that of another, in a folder with things of value."""
    monkeypatch.chdir(tmp_path)
    for name, identity in ((RUN, IDENTITY), ("rlsd-3", OTHER)):
        folder = tmp_path / ".state" / identity
        (folder / "checkpoint-000003").mkdir(parents=True)
        with (folder / "config.yaml").open("w") as file:
            YAML().dump({"run": name, "fingerprint": identity}, file)
    (tmp_path / ".state" / "app").mkdir()
    (tmp_path / ".state" / "checked").write_text("kept")
    (tmp_path / "runs" / RUN).mkdir(parents=True)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").write_text("years of work")
    return tmp_path


def everything(project: Path) -> set[str]:
    return {path.relative_to(project).as_posix() for path in project.rglob("*")}


def hostile(project: Path) -> dict[str, bytes]:
    precious = str(project / "precious").encode()
    return {
        "absolute": precious, "empty": b"", "blank": b" \n\n", "dot": b".", "above": b"..", "deep": b"../precious",
        "slash": IDENTITY.encode() + b"/checkpoint-000003", "trailing": IDENTITY.encode() + b"/", "nul": b"\0",
        "nul inside": IDENTITY.encode() + b"\0", "long": b"a" * 100_000, "no text": b"\xff\xfe\x00", "app": b"app",
        "other work": OTHER.encode(), "link": b"abcdefabcdefabcd", "pattern": b"*",
        "several": f"{IDENTITY}\n..".encode(), "upper": IDENTITY.upper().encode(),
        "digits of another script": "٠١٢٣٤٥٦٧٨٩abcdef".encode(),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(hostile(Path("/"))))
def test_a_strange_complete_removes_nothing(project: Path, name: str) -> None:
    (project / ".state" / "abcdefabcdefabcd").symlink_to(project / "precious")
    shutil.copy(project / ".state" / IDENTITY / "config.yaml", project / "precious" / "config.yaml")
    (project / "runs" / RUN / "COMPLETE").write_bytes(hostile(project)[name])
    before = everything(project)
    assert not remove_work(RUN, read_fingerprint(project / "runs" / RUN / "COMPLETE"))
    # A storage of studies gives texts as they are, without a file's reading.
    assert not remove_work(RUN, hostile(project)[name].decode(errors="replace"))
    assert everything(project) == before


def test_the_work_of_the_run_itself_is_removed_and_no_other(project: Path) -> None:
    complete = project / "runs" / RUN / "COMPLETE"
    complete.write_text(IDENTITY + "\n")
    kept = {name for name in everything(project) if IDENTITY not in name}
    assert remove_work(RUN, read_fingerprint(complete))
    assert everything(project) == kept
    assert not remove_work(RUN, read_fingerprint(complete)), "it is gone"


@pytest.mark.parametrize("config", [None, "", "[]", "run: grpo-0", "run: [", "run: grpo-0\nfingerprint: 7"])
def test_work_that_does_not_say_whose_it_is_stays(project: Path, config: str | None) -> None:
    path = project / ".state" / IDENTITY / "config.yaml"
    path.unlink() if config is None else path.write_text(config)
    assert not remove_work(RUN, IDENTITY)
    assert path.parent.is_dir()


def test_a_missing_complete_and_a_folder_in_its_place_name_nothing(project: Path) -> None:
    assert read_fingerprint(project / "runs" / RUN / "COMPLETE") == ""
    (project / "runs" / RUN / "COMPLETE").mkdir()
    assert read_fingerprint(project / "runs" / RUN / "COMPLETE") == ""
    assert not remove_work(RUN, "")


def test_tabulate_leaves_what_a_pulled_run_names(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = load_params(PROJECT / "params.yaml")
    run = params.run.model_copy(update={"methods": ["grpo", "rlsd", "opcd"], "seeds": [0, 3]})
    for name, text in {
        "grpo-0": "", "grpo-3": str(project / "precious"), "rlsd-0": OTHER, "rlsd-3": "../precious",
        "opcd-0": IDENTITY, "opcd-3": "..",
    }.items():  # fmt: skip
        (project / "runs" / name).mkdir(exist_ok=True)
        (project / "runs" / name / "COMPLETE").write_text(text)
    (project / "runs" / "grpo-3" / "COMPLETE").write_text(str(project / "precious"))
    before = everything(project)

    def nothing(*_: Any) -> list[Path]:
        return []

    monkeypatch.setattr("sdpg.params.load_params", lambda: params.model_copy(update={"run": run}))
    for name in (
        "results.report.write_reports",
        "records.tracking.log_pipeline_results",
        "results.report.print_table",
    ):
        monkeypatch.setattr(f"sdpg.{name}", nothing)
    tabulate.main()
    assert everything(project) - {"mlflow.db", ".state/mlflow.lock"} >= before
