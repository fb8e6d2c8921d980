"""Clones the working tree on a small profile, for tests that run the real commands."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "DVC_NO_ANALYTICS": "true",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command in a clone; its output is captured, and shown where it fails."""
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise AssertionError(f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    return result


def commit(folder: Path, message: str) -> None:
    """Commits all that a clone holds."""
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "--message", message)


def clone(folder: Path, methods: str, profile: str = "micro") -> str:
    """Fills a folder with the working tree as it is, committed, and sets it to ``methods`` on a profile.

    Returns:
        What ``pipelines.configure`` said.
    """
    files = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file() and not name.startswith("tests/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run(folder, "git", "init", "--quiet")
    commit(folder, "clone")
    return run(folder, "python", "-m", "pipelines.configure", "--profile", profile, "--methods", methods).stdout
