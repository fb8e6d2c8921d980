"""Runs a small study with the real stages, kills it in the midst of a run, and goes on with it."""

from functools import partial
import json
import os
from pathlib import Path
import shutil
import sys
import time
from typing import Any

import pytest

from pipelines import study
from pipelines.study_stages import Stage, fill, look_up, read_pipeline
from sdpg.errors import UserError, entry_point
from sdpg.files import write_json
from sdpg.params import load_params
from sdpg.params.configure import configure, read_overlay
from sdpg.replication.atlas import atlas_params, atlas_tree, page
from sdpg.replication.measured import read_study
from tests.helpers.clones import ROOT
from tests.helpers.forked import start

METHODS = ["grpo", "sdpg-ufkl"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro profile, but for its base 0, which is the committed one as in the profile tiny."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("profiles", "presets", "inputs"):
        shutil.copytree(ROOT / name, folder / name)
    base = load_params(ROOT / "params.yaml").base.model.model_dump(mode="json")
    recipe = read_overlay("profile", "micro", ROOT)["base"]["model"] | {"steps": 20}
    runs = {"short": {"bases": 2, "seeds": 1, "methods": METHODS}, "long": "(unset)"}
    changes = {"base": {"model": base}, "study": {"recipe": recipe, "runs": runs, "atlas": None}}
    configure(folder, profile="micro", changes=changes)
    return folder


def begin(folder: Path) -> Any:
    (folder / "said").unlink(missing_ok=True)
    command = partial(study.run_study, load_params(folder / "params.yaml"), jobs=2, only_status=False)
    return start(folder, partial(entry_point, command), folder / "said")


def stamps(folder: Path) -> dict[Path, int]:
    """The stages that ended, but for check, which runs whenever a project is set up."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("study/*/*/stages/*.json") if path.stem != "check"}


@pytest.mark.slow
def test_killed_in_a_run_it_goes_on_and_makes_its_tables(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study.import_stages()
    killed = begin(project)
    # A run is under way, and what came before it has ended.
    while not any(path.stat().st_size for path in project.glob("study/short/*/.state/*/metrics.csv")):
        assert killed.exitcode is None, (project / "said").read_text(encoding="utf-8")
        time.sleep(0.01)
    killed.kill()
    killed.join()
    before = stamps(project)
    assert before and not list(project.glob("reports/study/*"))

    resumed = begin(project)
    resumed.join()
    said = (project / "said").read_text(encoding="utf-8")
    assert resumed.exitcode == 0, said
    assert before.items() <= stamps(project).items(), "what had ended is not run again"
    names = [f"stages/{stage}-{method}-{{}}.json" for stage in ("train", "evaluate") for method in METHODS]
    for base in range(2):
        folder = project / f"study/short/base-{base}"
        assert all((folder / name.format(100 * base)).is_file() for name in names)
        assert load_params(folder / "params.yaml").run.seeds == [100 * base]
        # Work in progress is needed no more; the records of all projects are in one database.
        assert not list(folder.glob(".state/*/metrics.csv")) and not (folder / "mlflow.db").exists()
    assert (project / "mlflow.db").is_file()
    weights = "study/short/base-{}/models/base/model.safetensors"
    committed = ROOT / "inputs/models/tiny-base/model.safetensors"
    assert (project / weights.format(0)).read_bytes() == committed.read_bytes()
    assert (project / weights.format(1)).read_bytes() == (
        project / "study/_bases/base-1/models/base/model.safetensors"
    ).read_bytes()

    tree = json.loads((project / "reports/study/study.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in tree["runs"]["short"]["levels"]} == {"base", *METHODS}
    assert all(len(row["by_base"]) == 2 for row in tree["runs"]["short"]["comparisons"])
    assert tree["headline"][0] in said and "sdpg study --publish" in said

    monkeypatch.chdir(project)
    atlas = atlas_tree(load_params(), read_study(load_params())["short"])
    lines = [line for line in page(atlas).splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0].strip("| ") for line in lines[1:4]] == ["Base", "GRPO", "SDPG-UFKL"]
    assert lines[2].split(" | ")[-3] == "1.00" and atlas["methods"]["sdpg-ufkl"]["time_over_grpo"] > 0
    assert all(one["runs"] == 2 and one["tokens"] > 0 for one in atlas["methods"].values())
    with pytest.raises(UserError, match=r"study\.atlas is null"):
        atlas_params(load_params())
    study.run_study(load_params(), jobs=1, only_status=True)
    assert capsys.readouterr().out.startswith("4 of 4 runs are done, in study/.")
    # Other parameters: the run of that method alone is left.
    params = project / "study/short/base-1/params.yaml"
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("gate: positive", "gate: all"), encoding="utf-8")
    study.run_study(load_params(), jobs=1, only_status=True)
    assert "3 of 4 runs are done" in (out := capsys.readouterr().out) and "left: short: base-1 sdpg-ufkl-100" in out


PIPELINE: dict[str, Any] = {"stages": {"train": {
    "params": ["train", "methods.${item.method}"], "deps": ["${data.folder}", "data"],
    "outs": ["runs/${item.method}-${item.seed}/policy"], "plots": [{"curves.csv": {"x": "step"}}],
}}}  # fmt: skip


def test_a_stage_is_current_until_anything_that_dvc_yaml_names_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"train": {"steps": 4}, "methods": {"grpo": {"alpha": 1}, "rlsd": 2}, "data": {"folder": "inputs"}}

    def write(**changes: Any) -> None:
        write_json(tmp_path / "params.yaml", params | changes)

    write()
    for name in ("inputs", "data", "runs/grpo-0/policy"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/rows").write_text("1")
    runs: list[list[str]] = []

    class Module:
        @staticmethod
        def main() -> None:
            runs.append(sys.argv)
            Path("curves.csv").write_text("step")

    monkeypatch.setattr("importlib.import_module", lambda name: Module)
    monkeypatch.setattr(sys, "argv", [])
    stage = Stage(tmp_path, "train", ("grpo", "0"))
    assert not stage.current(PIPELINE) and stage.seconds() is None
    monkeypatch.chdir(tmp_path)
    stage.run(PIPELINE)
    stage.run(PIPELINE)
    assert runs == [["pipelines.train", "grpo", "0"]]
    assert stage.current(PIPELINE) and stage.seconds() is not None
    write(methods={"grpo": {"alpha": 1}, "rlsd": 3})
    assert stage.current(PIPELINE), "another method's values are not read"
    write(methods={"grpo": {"alpha": 2}, "rlsd": 2})
    assert not stage.current(PIPELINE)
    write()
    (tmp_path / "data/rows").write_text("2")
    assert not stage.current(PIPELINE)
    (tmp_path / "data/rows").write_text("1")
    os.remove("curves.csv")
    assert not stage.current(PIPELINE)


def test_every_stage_of_dvc_yaml_can_be_described() -> None:
    pipeline = read_pipeline(ROOT / "dvc.yaml")
    params = json.loads(load_params(ROOT / "params.yaml").model_dump_json())
    tree = params | {"item": {"method": "grpo", "seed": "0"}}
    for name in ("prepare", "base", "train", "evaluate"):
        stage = pipeline["stages"][name]
        paths = [fill(path, tree) for path in stage["params"]]
        assert all(look_up(params, path) is not None for path in paths if path != "rollout.vllm")
        assert not any("$" in fill(path, tree) or "None" in fill(path, tree) for path in stage["deps"])
    assert pipeline["stages"]["check"]["always_changed"]
