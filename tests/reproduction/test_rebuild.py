"""Tests that a run's commit, uncommitted changes, parameters and inputs are rebuilt, and nothing else."""

from pathlib import Path
import shutil
import subprocess
from typing import Any

import pytest

from pipelines.reproduce import command
from sdpg.errors import UserError
from sdpg.params import load_params, parse_params, read_yaml
from sdpg.records.provenance import git_diff, git_state
from sdpg.reproduction import rebuild as rebuilding
from sdpg.reproduction.rebuild import constraints, rebuild
from tests.helpers.killed import killed_at

ROOT = Path(__file__).parents[2]


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with two commits, changes that are not committed, and inputs that git does not have."""
    folder = tmp_path / "a project, ü"
    (folder / "sdpg").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / ".gitignore").write_text("/inputs/**\n!/inputs/**/\n!/inputs/**/*.dvc\n")
    (folder / "sdpg/code.py").write_text("value = 1\n\n\nother = 2\n\n\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    for name in ("problems/mine.jsonl", "models/org/name/config.json"):
        (folder / "inputs" / name).parent.mkdir(parents=True)
        (folder / "inputs" / name).write_text(name)
    return folder


def config(project: Path, **changes: Any) -> dict[str, Any]:
    params = load_params(project / "params.yaml").model_dump(mode="json")
    recorded = {"method": "grpo", "seed": 0, "params": params, "git": git_state(project), "diff": git_diff(project)}
    return recorded | {"versions": {"python": "3.11.2", "torch": "2.13.0+cpu", "vllm": "not installed"}} | changes


def later(project: Path) -> None:
    """What happens after the run."""
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "later")
    (project / "sdpg/code.py").write_text("quite another\n")


@pytest.mark.parametrize(
    "code",
    ["value = 1\n\n\nother = 2\n\n\n", "value = 2\n\n\nother = 2\n\n\n", "value = 1\n\n\nother = 3\n\n\n", "value = 3",
     "größer = 'ü'\n", "value = 1\n\n\nother = 2\n\n\n\n\n"],
)  # fmt: skip
def test_code_is_as_it_was_with_changes_that_were_not_committed(project: Path, tmp_path: Path, code: str) -> None:
    (project / "sdpg/code.py").write_text(code, encoding="utf-8")
    (project / "own.py").write_text("mine = 1\n")
    recorded = config(project)
    later(project)
    rebuild(recorded, project, tmp_path / "again")
    assert (tmp_path / "again/sdpg/code.py").read_text(encoding="utf-8") == code
    assert (tmp_path / "again/own.py").read_text() == "mine = 1\n"
    assert git_state(tmp_path / "again")["commit"] == recorded["git"]["commit"]
    # Links to the inputs do not count as changes.
    assert "mine.jsonl" not in (git_diff(tmp_path / "again") or "")


def test_parameters_inputs_and_versions_are_those_of_the_run(project: Path, tmp_path: Path) -> None:
    recorded = config(project)
    recorded["params"]["train"]["lr"] = 0.123
    recorded["params"]["tracking"]["uri"] = "http://elsewhere:5000"
    rebuild(recorded, project, tmp_path / "again")
    tree = read_yaml(tmp_path / "again/params.yaml")
    assert tree["train"]["lr"] == 0.123 and tree["tracking"]["uri"] == "sqlite:///mlflow.db"
    ours, theirs = parse_params(tree), load_params(project / "params.yaml")
    assert ours.methods == theirs.methods and ours.data == theirs.data
    assert (tmp_path / "again/inputs/problems/mine.jsonl").read_text() == "problems/mine.jsonl"
    assert (tmp_path / "again/inputs/models/org/name/config.json").is_symlink()
    assert (tmp_path / "again/environment.txt").read_text() == "# Python 3.11.2\ntorch==2.13.0\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"git": {"commit": "0" * 40}}, "is not in"),
        ({"git": {"commit": None}}, "which is no commit"),
        ({"git": {"commit": "--upload-pack=touch gone"}}, "which is no commit"),
        ({"diff": "x\n… 7 more characters were left out"}, "more uncommitted changes than were recorded"),
        ({"diff": "Not tracked:\nelsewhere.py"}, "elsewhere.py, which git did not track"),
        ({"diff": "Not tracked:\n../out.py"}, "plain name"),
        ({"diff": "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b"}, "do not apply"),
        ({"diff": "diff --git a/../x b/../x\nnew file mode 100644\n--- /dev/null\n+++ b/../../x\n@@ -0,0 +1 @@\n+b"},
         "do not apply"),
    ],
)  # fmt: skip
def test_what_cannot_be_rebuilt_is_named_and_leaves_nothing(
    project: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rebuild(config(project, **changes), project, tmp_path / "again")
    assert {path.name for path in tmp_path.iterdir()} == {project.name}


def test_killed_at_any_moment_no_half_of_a_clone_is_taken_for_one(project: Path, tmp_path: Path) -> None:
    (project / "sdpg/code.py").write_text("value = 2\n")
    recorded, again = config(project), tmp_path / "again"
    for name, counts in (("_git", (1, 2, 3)), ("_link_inputs", (0, 1)), ("write_text", (0,))):
        for count in counts:
            assert killed_at(count, rebuilding, name, lambda: rebuild(recorded, project, again)), (name, count)
            assert not again.exists()
    rebuild(recorded, project, again)
    assert (again / "sdpg/code.py").read_text() == "value = 2\n"
    assert {path.name for path in tmp_path.iterdir()} == {project.name, "again"}


def test_the_command_installs_what_the_folder_has(tmp_path: Path) -> None:
    run = {"command": "dvc repro x", "method": "grpo", "seed": 0, "versions": {"sdpg": "0.2.0", "torch": "2.13.0"}}
    wheel = "PIP_CONSTRAINT=environment.txt .venv/bin/pip install 'sdpg[workbench]==0.2.0' && "
    assert f"&& python -m venv .venv; {wheel}" in command(run, tmp_path)
    for odd in ("not installed", "1; rm x"):
        assert "pip install 'sdpg[workbench]' && " in command(run | {"versions": {"sdpg": odd}}, tmp_path)
    (tmp_path / "Makefile").touch()
    assert " && PIP_CONSTRAINT=environment.txt make install && " in command(run, tmp_path)
    assert constraints(run) == "# Python None\ntorch==2.13.0\n"


def test_only_known_commands_are_printed(project: Path) -> None:
    def printed(said: str) -> str:
        return command({"command": said, "method": "grpo", "seed": 0}, Path("a folder")).split(" && ", 2)[2]

    path = 'PATH="$PWD/.venv/bin:$PATH" '
    assert printed("dvc repro train@sdpg-ufkl-0") == path + "dvc repro train@sdpg-ufkl-0"
    assert printed("python -m pipelines.tune grpo --trials 3") == path + "python -m pipelines.tune grpo --trials 3"
    for hostile in ("rm -rf ~", "dvc repro x; rm -rf ~", "dvc repro $(rm x)", "dvc repro x\nrm x", "None"):
        assert printed(hostile) == path + "dvc repro train@grpo-0"
    assert command({"method": "grpo", "seed": 0}, Path("a folder")).startswith("cd 'a folder' && ")
