"""Tests other commits and DVC experiments, in a real repository of git and DVC."""

from collections.abc import Iterator
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest
from streamlit.testing.v1 import AppTest

from app.revisions import RevisionFiles, _files, _opened, find_revision, list_revisions, open_revision, open_revisions
from app.sources import discover
from sdpg.errors import UserError

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "app" / "sample"
STAGE = """
import pathlib, shutil, sys
text = pathlib.Path("params.yaml").read_text()
sample = pathlib.Path("sample")
run = pathlib.Path("runs/grpo-0")
(run / "policy").mkdir(parents=True, exist_ok=True)
shutil.copytree(sample / "runs/grpo-0", run, dirs_exist_ok=True)
config = (run / "config.yaml").read_text().replace("profile: tiny", "profile: " + text.split()[1], 1)
(run / "config.yaml").write_text(config)
(run / "policy" / "model.safetensors").write_text("weights " + text)
"""
OUTS = ("COMPLETE", "config.yaml", "policy", "rollouts", "summary.json", "metrics.csv")


def run(root: Path, *command: str) -> str:
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two commits with different runs, and an experiment on the second."""
    root = tmp_path_factory.mktemp("repository")
    environment = {
        # DVC keeps an index of what it has seen outside the repository.
        "DVC_SITE_CACHE_DIR": str(tmp_path_factory.mktemp("site")), "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
           for what, value in (("NAME", "a"), ("EMAIL", "a@b.invalid"))},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        run(root, "git", "init", "--quiet", "--initial-branch=main")
        run(root, "dvc", "init", "--quiet")
        (root / "stage.py").write_text(STAGE)
        (root / "sample").symlink_to(SAMPLE)
        outs = "".join(f"      - runs/grpo-0/{out}\n" for out in OUTS)
        # A stage that was never run has outputs without content.
        never = "  never:\n    cmd: python stage.py\n    outs:\n      - runs/never-0/config.yaml\n"
        (root / "dvc.yaml").write_text(
            f"stages:\n  train:\n    cmd: python stage.py\n    params: [profile]\n    outs:\n{outs}{never}"
        )
        (root / ".gitignore").write_text("/runs/\n/.state/\n/sample\n")
        for profile in ("one", "two"):
            (root / "params.yaml").write_text(f"profile: {profile}\n")
            run(root, "dvc", "repro", "--quiet", "train")
            run(root, "git", "add", "--all")
            run(root, "git", "commit", "--quiet", "--message", f"profile {profile}")
        run(root, "dvc", "exp", "run", "--quiet", "--name", "brave-three", "-S", "profile=three", "train")
        yield root


@pytest.fixture
def clean(repository: Path) -> Path:
    """The repository without what was fetched before."""
    shutil.rmtree(repository / ".state", ignore_errors=True)
    _opened.cache_clear()
    _files.cache_clear()
    return repository


def profiles(root: Path, rev: str) -> set[str]:
    found = discover(root, [], [open_revision(root, rev)])
    return {entry.params["profile"] for entry in found.runs.values() if entry.place.key}


def test_commits_that_touched_the_lock_and_experiments_are_listed_newest_first(clean: Path) -> None:
    found = list_revisions(clean)
    assert [(each.kind, each.title) for each in found[1:]] == [("commit", "profile two"), ("commit", "profile one")]
    assert (found[0].kind, found[0].key) == ("experiment", "brave-three")
    head = run(clean, "git", "rev-parse", "HEAD")
    assert found[1].sha == head and found[1].key == head[:12]
    assert head[:7] in found[0].label


def test_each_revision_shows_its_own_runs(clean: Path) -> None:
    assert profiles(clean, "HEAD") == {"two"}
    assert profiles(clean, "HEAD~1") == {"one"}
    assert profiles(clean, "brave-three") == {"three"}
    # The workspace still is what it was.
    assert {entry.params["profile"] for entry in discover(clean).runs.values()} == {"three"}


def test_runs_have_ids_of_their_own_and_outputs_that_were_never_made_are_no_runs(clean: Path) -> None:
    found = discover(clean, [], [open_revision(clean, "brave-three")])
    assert [id for id in found.runs if "/" in id] == ["brave-three/grpo-0"]
    assert not found.notices


def test_listing_fetches_nothing_and_reading_fetches_that_file_alone(clean: Path) -> None:
    files = open_revision(clean, "HEAD~1").files
    assert files.names("runs") == ["grpo-0", "never-0"] and files.names("runs/never-0") == []
    assert "metrics.csv" in files.names("runs/grpo-0") and files.names("runs/grpo-0/rollouts")
    assert files.exists("runs/grpo-0/policy/model.safetensors") and not files.exists("runs/never-0/config.yaml")
    assert files.names("runs/nothing") == [] and not files.exists("runs/nothing/config.yaml")
    assert not (clean / ".state").exists()
    path = files.path("runs/grpo-0/config.yaml")
    assert "profile: one" in path.read_text()
    sha = run(clean, "git", "rev-parse", "HEAD~1")
    assert path == clean / ".state" / "app" / sha / "runs/grpo-0/config.yaml"
    assert [each for each in (clean / ".state").rglob("*") if each.is_file()] == [path]


def test_a_file_is_fetched_once(clean: Path) -> None:
    files = open_revision(clean, "HEAD").files
    path = files.path("runs/grpo-0/summary.json")
    path.write_text("kept")
    assert files.path("runs/grpo-0/summary.json").read_text() == "kept"


def test_what_a_commit_has_not_is_where_it_would_be(clean: Path) -> None:
    path = open_revision(clean, "HEAD").files.path("evaluations/grpo-0/final.parquet")
    assert not path.exists() and path.is_relative_to(clean / ".state")


def test_weights_are_never_fetched(clean: Path) -> None:
    files = open_revision(clean, "HEAD").files
    with pytest.raises(UserError, match="not fetched"):
        files.path("runs/grpo-0/policy/model.safetensors")
    assert not list(clean.glob(".state/**/*.safetensors"))


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "runs/../../outside"])
def test_a_name_does_not_lead_out(clean: Path, name: str) -> None:
    files = open_revision(clean, "HEAD").files
    with pytest.raises(UserError, match="leads out"):
        files.path(name)
    with pytest.raises(UserError, match="leads out"):
        files.names(name)


@pytest.mark.parametrize(
    "rev", ["", "nothing", "--help", "--since=yesterday", "a\0b", "\ud800", "HEAD:params.yaml", "*" * 9999]
)
def test_garbage_is_a_notice(clean: Path, rev: str) -> None:
    before = sorted(os.listdir(clean))
    places, notices = open_revisions(clean, [rev, "brave-three"])
    assert [place.key for place in places] == ["brave-three"]
    assert len(notices) == 1 and "neither a commit nor a DVC experiment" in notices[0].text
    assert sorted(os.listdir(clean)) == before


def test_any_name_of_a_commit_is_resolved_to_its_digits(clean: Path) -> None:
    assert find_revision(clean, "main") == find_revision(clean, "HEAD")
    assert find_revision(clean, run(clean, "git", "rev-parse", "HEAD~1")).title == "profile one"


def test_without_git_there_is_nothing_to_choose(tmp_path: Path) -> None:
    assert list_revisions(tmp_path) == []


def test_what_is_in_no_cache_is_a_notice_that_names_file_and_remedy(
    clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "another"))
    root = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(clean), str(root))
    found = discover(root, [], open_revisions(root, ["HEAD"])[0])
    key = find_revision(root, "HEAD").key
    assert not [each for each in found.runs if each.startswith(key)]
    notice = next(each for each in found.notices if "grpo-0" in each.path)
    assert notice.path == f"{key}:runs/grpo-0/config.yaml"
    assert "no cache" in notice.text and "dvc pull" in notice.text and not notice.text.startswith(key)
    files = RevisionFiles(root, find_revision(root, "HEAD"))
    with pytest.raises(UserError, match=r"runs/grpo-0/rollouts.*dvc pull"):
        files.names("runs/grpo-0/rollouts")
    assert not list((root / ".state").rglob("*.partial*"))


def test_the_app_offers_them_and_a_link_opens_them(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clean)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    at = AppTest.from_file(str(PROJECT / "app" / "main.py"), default_timeout=60)
    at.query_params["rev"] = ["brave-three", "main", "-garbage"]
    at.run()
    assert not at.exception
    head = find_revision(clean, "HEAD").key
    assert at.multiselect(key="rev").value == ["brave-three", head]
    assert at.query_params["rev"] == ["brave-three", head]
    assert {id.split("/")[0] for id in at.session_state["_found"].runs if "/" in id} == {"brave-three", head}
    assert any("garbage" in each.value for each in at.markdown)
    at.multiselect(key="rev").set_value([]).run()
    assert not at.exception
    assert not [id for id in at.session_state["_found"].runs if "/" in id]
