"""Tests that own data below inputs/ can be versioned with DVC, and is seen by clones and experiments."""

from pathlib import Path
import shutil
import subprocess

from dvc.repo import Repo
import pytest

ROOT = Path(__file__).parents[2]
OWN = ("inputs/problems/mine.jsonl", "inputs/models/org/name")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def test_git_has_what_describes_own_data_and_not_the_data(tmp_path: Path) -> None:
    shutil.copy(ROOT / ".gitignore", tmp_path)
    git(tmp_path, "init", "--quiet")
    kept = ["inputs/problems/README.md", "inputs/problems/mine.jsonl.dvc", "inputs/models/org/name.dvc",
            "inputs/models/org/.gitignore", "inputs/models/tiny-base/model.safetensors"]  # fmt: skip
    for name in (*kept, OWN[0], "inputs/models/org/name/model.safetensors", "inputs/solutions/mine/cache.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    git(tmp_path, "add", "--all")
    assert sorted(git(tmp_path, "ls-files").split()) == sorted([".gitignore", *kept])


def test_clones_and_experiments_see_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project, elsewhere, remote = (tmp_path / name for name in ("a project", "elsewhere", "remote"))
    (project / "inputs/models/org/name").mkdir(parents=True)
    (project / "inputs/problems").mkdir()
    for name in (".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    (project / OWN[0]).write_text('{"problem": "1+1", "answer": "2"}\n')
    (project / OWN[1] / "config.json").write_text("{}")
    stage = "{cmd: cp inputs/problems/mine.jsonl seen, deps: [inputs/problems], outs: [seen]}"
    (project / "dvc.yaml").write_text(f"stages: {{look: {stage}}}\n")
    with (project / ".dvc/config").open("a") as file:
        file.write(f"    remote = there\n['remote \"there\"']\n    url = {remote}\n")
    git(project, "init", "--quiet")
    monkeypatch.chdir(project)
    with Repo() as repo:
        repo.add(list(OWN))
        git(project, "add", "--all")
        git(project, "commit", "--quiet", "--message", "own data")
        assert repo.push() == 3
        found = repo.experiments.run(targets="look", tmp_dir=True)
        assert len(found) == 1, "the experiment's copy of the project has the file"
    git(tmp_path, "clone", "--quiet", str(project), str(elsewhere))
    monkeypatch.chdir(elsewhere)
    with Repo() as repo:
        repo.pull(allow_missing=True)
    for name in (OWN[0], f"{OWN[1]}/config.json"):
        assert (elsewhere / name).read_bytes() == (project / name).read_bytes()
