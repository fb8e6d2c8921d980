"""Rebuilds what a run was made with in a new folder: its commit, uncommitted changes, parameters and inputs.

A run's config.yaml may come from elsewhere. So nothing in it becomes an option of a command or leads out of the folder.
"""

from collections.abc import Mapping
import copy
from pathlib import Path
import re
import subprocess
from typing import Any

from ruamel.yaml import YAML

from sdpg.errors import UserError
from sdpg.files import check_within, replaced_folder, write_text
from sdpg.params import PARAMS_FILE, read_yaml
from sdpg.params.stored import fields_read
from sdpg.params.tree import TrackingParams
from sdpg.records.provenance import CUT, NEW_MODULES

COMMIT = re.compile(r"[0-9a-f]{7,64}")
ENVIRONMENT = "environment.txt"
"""The versions that a run was made with, in the form of pip's constraints."""
MOST_CUT_LINES = 3
"""Empty lines at the end of a recorded diff may have been cut off; a diff ends in at most so many."""


def read_run_config(folder: Path) -> dict[str, Any]:
    """Reads a run's config.yaml.

    Raises:
        UserError: if it is missing, or does not say with what the run was made.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"{folder} has no config.yaml, so that nothing is known of how it was made: name a run's folder"
        )
    config = read_yaml(file)
    wrong = [key for key, kind in (("params", dict), ("method", str), ("seed", int), ("git", dict))
             if not isinstance(config, dict) or not isinstance(config.get(key), kind)]  # fmt: skip
    if wrong:
        raise UserError(f"{file} does not say {', '.join(wrong)}, without which the run cannot be made again")
    return dict(config)


def rebuild(config: Mapping[str, Any], project: Path, folder: Path) -> None:
    """Writes a clone of a project as it was when a run was made; the folder is there whole or not at all.

    Own inputs that git does not have are linked from the project. Tracking goes to a database of the clone's own.

    Args:
        config: the run's config.yaml.
        project: a checkout whose repository has the run's commit.
        folder: the new folder.

    Raises:
        UserError: if the commit is unknown here, the changes were not recorded whole, or they do not apply.
    """
    commit = str(config["git"].get("commit"))
    if not COMMIT.fullmatch(commit):
        raise UserError(f"the run's config.yaml has git.commit {commit[:80]!r}, which is no commit: a run that was "
                        "made outside a git checkout cannot be made again")  # fmt: skip
    project = project.resolve()
    if _git(project, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise UserError(f"commit {commit} is not in {project}: fetch it (git fetch --all), or run this in a checkout "
                        "that has it")  # fmt: skip
    with replaced_folder(folder) as temporary:
        _must(_git(project, "clone", "--quiet", "--no-checkout", str(project), str(temporary.resolve())))
        _must(_git(temporary, "checkout", "--quiet", "--detach", commit))
        _apply(str(config.get("diff") or ""), project, temporary)
        tree = recorded_params(config)
        with (temporary / PARAMS_FILE).open("w", encoding="utf-8") as file:
            YAML().dump(tree, file)
        for section in ("data", "base"):
            _link_inputs(project, temporary, str((tree.get(section) or {}).get("folder", "")))
        write_text(temporary / ENVIRONMENT, constraints(config))


def recorded_params(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters of a run in the form of params.yaml, with tracking in a database of the folder's own."""
    tree = copy.deepcopy(dict(config["params"]))
    tree["methods"] = {name: fields_read(entry) for name, entry in (tree.get("methods") or {}).items()}
    if isinstance(tree.get("tracking"), dict):
        tree["tracking"] |= {"uri": TrackingParams().uri, "system_metrics": False}
    return tree


def constraints(config: Mapping[str, Any]) -> str:
    """Returns the recorded versions as constraints for pip; those of builds, such as +cpu, are left to the index.

    The package itself is none: the commit has it, or the command that installs it names its version.
    """
    recorded = config.get("versions")
    lines = [f"# Python {recorded.get('python')}"] if isinstance(recorded, dict) else ["# not recorded"]
    for name, version in (recorded or {}).items():
        if name in ("python", "sdpg"):
            continue
        if re.fullmatch(r"[\w.-]+", str(name)) and re.fullmatch(r"\d[\w.+!-]*", str(version)):
            lines.append(f"{name}=={str(version).split('+')[0]}")
    return "\n".join(lines) + "\n"


def _apply(diff: str, project: Path, folder: Path) -> None:
    """Applies the uncommitted changes of a run, and copies modules that were not tracked."""
    if CUT in diff:
        raise UserError("the run was made with more uncommitted changes than were recorded, so that its code is not "
                        "known: make it again from a commit")  # fmt: skip
    changed, _, listed = f"\n\n{diff}".partition(NEW_MODULES)
    if changed.strip():
        said = ""
        for empty in range(MOST_CUT_LINES + 1):
            tried = _git(folder, "apply", "--whitespace=nowarn", "-", given=changed + "\n" + " \n" * empty)
            if not tried.returncode:
                break
            said = said or tried.stderr.strip()[:500]
        else:
            raise UserError(f"the run's uncommitted changes do not apply to its commit: {said}")
    for name in filter(None, listed.split("\n")):
        check_within(name, "a module that was not tracked")
        if not (project / name).is_file():
            raise UserError(f"the run was made with {name}, which git did not track and which is not in {project}: put "
                            "it there, or make the run again from a commit that has it")  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((project / name).read_bytes())


def _link_inputs(project: Path, folder: Path, inputs: str) -> None:
    """Links the files of an input folder that the clone lacks, so that large ones are not copied."""
    if not inputs or Path(inputs).is_absolute():
        return
    check_within(inputs, "the folder of inputs")
    for path in sorted((project / inputs).rglob("*")):
        target = folder / path.relative_to(project)
        if path.is_file() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.resolve())


def _git(folder: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, input=given, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise UserError("git is not installed, and runs are made again from their commit: install it") from None


def _must(result: subprocess.CompletedProcess[str]) -> None:
    if result.returncode:
        raise UserError(f"git failed: {result.stderr.strip()[-500:]}")
