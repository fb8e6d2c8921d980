"""Makes the folder of a new project: the files of the pipeline, in a git repository with DVC."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import shlex
import shutil
import subprocess
import sys

from sdpg import paths
from sdpg.commands.project import shipped_files
from sdpg.errors import UserError

COPIED = (
    ".dvcignore", ".gitignore", "catalogue.yaml", "configs", "constraints.txt", "dvc.yaml", "inputs/models/README.md",
    "inputs/models/tiny-base", "inputs/problems/README.md", "inputs/rehearsal/README.md", "inputs/solutions/README.md",
    "params.yaml", "pipelines", "presets", "profiles",
)  # fmt: skip
"""What a project holds of its own; the app is run from where the package is installed."""
PLOTS = ".dvc/plots"
"""Where DVC looks for the templates that dvc.yaml names."""
README = """# {name}

A project of the SDPG workbench. params.yaml holds every choice, dvc.yaml the stages, and inputs/ problems and models.

    sdpg repro     # runs what has changed, prints the table
    sdpg app       # compares runs, opens any rollout
    sdpg doctor    # what is installed here, and what stands in the way

Own problems are left to DVC: `dvc add inputs/problems/mine.csv`.
"""


@contextmanager
def made_project(folder: Path) -> Iterator[None]:
    """Makes a project and stays in its folder for the block; where that fails, nothing is left of it.

    Raises:
        UserError: if the folder holds something already, or git is missing.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError(f"{folder} is there already: name a new folder, or go there and leave FOLDER out")
    before, folder = Path.cwd(), folder.resolve()
    try:
        _fill(folder)
        paths.enter(folder)
        yield
    except BaseException:  # Ctrl+C too leaves nothing half made; it goes on up from here
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _fill(folder: Path) -> None:
    source = shipped_files()
    for name in COPIED:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source / name, target)
    (folder / "README.md").write_text(README.format(name=folder.name), encoding="utf-8")
    _run(folder, "git", "init", "--quiet")
    _run(folder, sys.executable, "-m", "dvc", "init", "--quiet")
    _run(folder, sys.executable, "-m", "dvc", "config", "core.analytics", "false")
    if (source / PLOTS).is_dir():
        shutil.copytree(source / PLOTS, folder / PLOTS, dirs_exist_ok=True)


def commit_all(message: str) -> list[str]:
    """Commits all that git does not ignore, in the working folder; returns what is to be said if git does not."""
    here = Path.cwd()
    _run(here, "git", "add", "--all")
    command = ["git", "commit", "--quiet", "--message", message]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return []
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
    return [f"git did not commit it ({reason}). Runs record the commit that they were made from, so do it before: "
            f"{shlex.join(command)}"]  # fmt: skip


def _run(folder: Path, *command: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed, and a project is a git repository: install it") from None
    if done.returncode:
        raise UserError(f"{' '.join(command[-3:])} failed in {folder}: {done.stderr.strip()[-500:]}")
