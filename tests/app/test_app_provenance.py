"""Tests the Provenance page: what a run depends on, the command that makes it again, and MLflow's record of it."""

import os
from pathlib import Path
import shutil
import sqlite3
import sys
from typing import Any

import pytest
from ruamel.yaml import YAML
from streamlit.testing.v1 import AppTest

from app import mlflow_link
from app.sources import SAMPLE, RunEntry, discover
from sdpg.errors import UserError
from sdpg.params import load_params
from sdpg.sqlite_uri import remove_stray_folders, uri_of

PROJECT = Path(__file__).parents[2]
RUN = "sdpg-ufkl-0"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project of 'ü' at 5%41"
    shutil.copytree(SAMPLE, root)
    return root


def app(root: Path, monkeypatch: pytest.MonkeyPatch, **params: str) -> AppTest:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=60)
    at.switch_page("views/provenance.py")
    for name, value in {"run": RUN, **params}.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception
    return at


def entry(root: Path) -> RunEntry:
    return discover(root).runs[RUN]


def edit(root: Path, **changes: object) -> None:
    """Writes top-level keys of the run's config.yaml anew; None removes one."""
    path = root / "runs" / RUN / "config.yaml"
    yaml = YAML()
    config = yaml.load(path)
    for name, value in changes.items():
        config.pop(name, None)
        if value is not None:
            config[name] = value
    with path.open("w") as file:
        yaml.dump(config, file)


def values(at: AppTest, place: int) -> dict[str, str]:
    table = at.dataframe[place].value
    return dict(zip(table["name"], table["value"], strict=True))


def test_what_the_run_hangs_on(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, config = app(project, monkeypatch), entry(project).config
    facts = values(at, 0)
    assert facts["Commit"] == config["git"]["commit"] and facts["Fingerprint"] == config["fingerprint"]
    assert facts["Code"] == config["code"] and facts["Verifier"].split()[0] == config["params"]["reward"]["verifier"]
    assert len(facts["Verifier"].split()) == 2
    assert values(at, 2) == config["versions"] and values(at, 4) == config["inputs"]
    assert values(at, 3)["cores"] == str(config["hardware"]["cores"])
    table = at.dataframe[5].value
    rollouts = table[table["File"] == "rollouts/"].iloc[0]
    files = list((project / "runs" / RUN / "rollouts").iterdir())
    assert rollouts["Files"] == len(files)
    assert rollouts["Kilobytes"] == pytest.approx(sum(file.stat().st_size for file in files) / 1024)


def test_the_recorded_changes_and_the_commands(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project, diff="diff --git a/x b/x\n+<b>new</b>\u202e", git={"commit": "abc123", "dirty": True})
    at = app(project, monkeypatch)
    commands, diff = (each.value for each in at.code)
    assert commands.splitlines()[0] == "git checkout abc123" and "git apply changes.diff" in commands
    assert commands.splitlines()[-1] == f"dvc repro train@{RUN}"
    assert diff == "diff --git a/x b/x\n+<b>new</b>⟨U+202E⟩"
    assert any("uncommitted" in each.value for each in at.markdown)


def test_an_older_run_says_what_was_not_recorded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project, diff=None, git={"commit": "abc123", "dirty": True}, versions=None, code=None)
    at = app(project, monkeypatch)
    assert len(at.code) == 1 and "git apply" not in at.code[0].value
    said = [each.value for each in at.info]
    assert any("what they were was not recorded" in text for text in said) and "Not recorded\\." in said


def test_a_commit_cannot_add_a_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(project, git={"commit": "abc; rm -rf ~", "dirty": False}, diff=None)
    assert app(project, monkeypatch).code[0].value.splitlines()[0] == "git checkout 'abc; rm -rf ~'"


def test_the_recorded_params_are_valid_and_equal(project: Path, tmp_path: Path) -> None:
    from app.provenance_files import params_yaml

    run = entry(project)
    path = tmp_path / "params.yaml"
    path.write_bytes(params_yaml(run))
    assert held(run.params, load_params(path).model_dump(mode="json"))


def held(recorded: Any, loaded: Any) -> bool:
    """Whether everything that was recorded was read back; what this code added since then has its default."""
    if isinstance(recorded, dict):
        return all(key in loaded and held(value, loaded[key]) for key, value in recorded.items())
    return recorded == loaded


def test_parameters_are_searched_by_words_and_other_methods_are_left_out(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = app(project, monkeypatch)
    assert {path.split(".")[1] for path in values(at, 1) if path.startswith("methods.")} == {"sdpg-ufkl"}
    at.text_input(key="param").set_value("beta warm").run()
    assert list(values(at, 1)) == ["methods.sdpg-ufkl.beta_warmup"]
    at.toggle(key="other_methods").set_value(True).run()
    assert "methods.opcd.beta_warmup" in values(at, 1)
    at.text_input(key="param").set_value("no such thing").run()
    assert not at.exception and any("No parameter" in each.value for each in at.info)


def test_a_password_that_an_older_run_recorded_is_not_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.provenance_files import params_yaml

    uri = "postgresql://me:hunter2@10.0.0.5/mlflow?sslmode=require"
    params = {**entry(project).params, "tracking": {"uri": uri, "experiment": "sdpg"}}
    edit(project, params=params, command=f"MLFLOW_TRACKING_URI={uri} dvc repro",
         diff=f"-  uri: sqlite:///mlflow.db\n+  uri: {uri}\n+# token=3 // a@b")  # fmt: skip
    at = app(project, monkeypatch)
    at.text_input(key="param").set_value("tracking.uri").run()
    assert values(at, 1) == {"tracking.uri": "postgresql://…@10.0.0.5/mlflow?sslmode=require"}
    shown = [at.code[0].value, at.code[1].value, params_yaml(entry(project)).decode(), repr(entry(project).config)]
    assert all("10.0.0.5/mlflow" in text and "hunter2" not in text for text in shown)
    assert at.code[1].value.endswith("+# token=3 // a@b"), "what is no address stays as it was"


def store(root: Path, fingerprint: str) -> str:
    """A real store with a run of this fingerprint and one of another; returns the first one's id."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri_of(root / "mlflow.db"))
    remove_stray_folders(root / "mlflow.db")
    experiment = client.create_experiment("sdpg", artifact_location=(root / "mlartifacts").as_uri())
    ids = []
    for tag in (fingerprint, "0000"):
        run = client.create_run(experiment, tags={mlflow_link.FINGERPRINT_TAG: tag}, run_name=f"run of {tag}")
        client.log_metric(run.info.run_id, "system/cpu_utilization_percentage", 40.0, timestamp=5000, step=0)
        client.log_metric(run.info.run_id, "system/cpu_utilization_percentage", 60.0, timestamp=15000, step=1)
        client.log_metric(run.info.run_id, "reward", 0.5, step=1)
        client.set_terminated(run.info.run_id)
        ids.append(run.info.run_id)
    return ids[0]


@pytest.mark.slow
def test_mlflow_is_asked_by_the_fingerprint(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    id = store(project, entry(project).config["fingerprint"])
    found = mlflow_link.lookup(entry(project))
    assert [each.id for each in found] == [id]
    assert found[0].status == "FINISHED" and found[0].metrics["reward"] == 0.5
    assert found[0].system["step"].tolist() == [0, 10] and found[0].system["value"].tolist() == [40, 60]
    at = app(project, monkeypatch, mlflow="true")
    assert f"runs/{id}" in at.code[-1].value and at.code[-1].value.startswith("sdpg mlflow")
    assert len(at.get("vega_lite_chart")) == 1
    assert [path.name for path in project.parent.iterdir()] == [project.name]
    edit(project, fingerprint="ffff")
    assert mlflow_link.lookup(entry(project)) == []
    edit(project, fingerprint="x' or 1=1")
    with pytest.raises(UserError, match="no fingerprint"):
        mlflow_link.lookup(entry(project))


def test_no_store_is_made(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = app(project, monkeypatch, mlflow="true")
    assert r"mlflow\.db does not exist" in at.error[0].value and at.dataframe
    assert not list(project.glob("ml*"))


@pytest.mark.parametrize("content", ["empty", "text", "tables"])
def test_another_database_is_not_filled(project: Path, content: str) -> None:
    path = project / "mlflow.db"
    if content == "tables":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (x)")
        connection.close()
    else:
        path.write_text("" if content == "empty" else "no database " * 500)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"mlflow\.db is no"):
        mlflow_link.lookup(entry(project))
    assert path.read_bytes() == before and sorted(each.name for each in project.glob("ml*")) == ["mlflow.db"]


def test_the_page_asks_mlflow_only_when_told_to(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_link, "lookup", lambda run: pytest.fail("asked"))
    app(project, monkeypatch)


def test_a_run_opens_no_store_outside_its_project(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may come from anywhere; a store elsewhere is opened only if params.yaml here names it too."""
    monkeypatch.chdir(project)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mlflow.db"
    store(elsewhere.parent, entry(project).config["fingerprint"])
    path = project / "runs" / RUN / "config.yaml"
    text = path.read_text()
    relative = os.path.relpath(elsewhere, project)
    for uri in (f"sqlite:///{elsewhere}", f"sqlite:///{relative}", "sqlite:///a\\0b"):
        path.write_text(text.replace("sqlite:///mlflow.db", f'"{uri}"'))
        with pytest.raises(UserError, match=r"tracking\.uri"):
            mlflow_link.store_of(entry(project))
    (project / "params.yaml").write_text(f"tracking: {{uri: 'sqlite:///{elsewhere}'}}\n")
    path.write_text(text.replace("sqlite:///mlflow.db", f"sqlite:///{elsewhere}"))
    assert mlflow_link.store_of(entry(project)) == elsewhere.resolve()


def test_a_server_is_not_called(project: Path) -> None:
    path = project / "runs" / RUN / "config.yaml"
    path.write_text(path.read_text().replace("sqlite:///mlflow.db", "http://example.invalid:5000"))
    with pytest.raises(UserError, match=r"example\.invalid"):
        mlflow_link.store_of(entry(project))
