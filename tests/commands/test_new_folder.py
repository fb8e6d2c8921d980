"""Tests that a new project is made whole or not at all."""

import os
from pathlib import Path
import subprocess

import pytest

from sdpg import paths
from sdpg.commands import new_folder
from sdpg.commands.new_folder import commit_all, made_project
from sdpg.commands.project import find_project
from sdpg.errors import UserError
from tests.helpers.clones import run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without a project, where git knows nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(paths, "_given_from", None)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")
    return tmp_path


def test_it_is_a_repository_of_git_and_dvc_that_keeps_own_data_out(here: Path) -> None:
    with made_project(Path("a b")):
        assert Path.cwd() == here / "a b" == find_project(Path.cwd())
        assert paths.given_name("mine.csv") == "mine.csv"
        (here / "mine.csv").touch()
        assert paths.given_name("mine.csv") == "../mine.csv", "named where the command was given"
        Path("inputs/problems/mine.csv").touch()
        (said,) = commit_all("A new project")
    project = here / "a b"
    # Nobody is named in a commit without being asked: git's reason is passed on, with what to do.
    assert "git did not commit it (fatal: no email was given" in said and "git commit" in said
    staged = run(project, "git", "diff", "--cached", "--name-only").stdout.splitlines()
    assert {
        "params.yaml",
        "dvc.yaml",
        ".dvc/config",
        "pipelines/train.py",
        "inputs/models/tiny-base/model.safetensors",
    } <= {*staged}
    assert "inputs/problems/mine.csv" not in staged and not any("__pycache__" in name for name in staged)
    assert "analytics = false" in (project / ".dvc/config").read_text()
    identity = {
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@t",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@t",
    }
    command = said.split("do it before: ")[1]
    subprocess.run(["sh", "-c", command], cwd=project, env={**os.environ, **identity}, check=True)
    assert not run(project, "git", "status", "--porcelain").stdout


def test_what_fails_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_folder, "_run", lambda folder, *command: None)
    with pytest.raises(UserError, match="wrong"), made_project(here / "new"):
        raise UserError("wrong")
    assert Path.cwd() == here and not any(here.iterdir())
    monkeypatch.setattr(new_folder, "COPIED", ("params.yaml", "gone.yaml"))
    with pytest.raises(FileNotFoundError), made_project(here / "new"):
        pass
    assert not any(here.iterdir())


def test_a_folder_that_holds_something_stays_as_it_is(here: Path) -> None:
    (here / "full").mkdir()
    (here / "full" / "kept").touch()
    (here / "file").touch()
    (here / "link").symlink_to(here / "nowhere")
    for name in ("full", "file", "link"):
        with pytest.raises(UserError, match=f"{name} is there already"), made_project(here / name):
            pass
    assert {path.name for path in here.rglob("*")} == {"full", "kept", "file", "link"}


def test_without_git_it_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(UserError, match="git is not installed"), made_project(here / "new"):
        pass
    assert not any(here.iterdir())
