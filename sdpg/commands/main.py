"""Reads which subcommand is meant, and calls it in the project's folder; nothing heavy is imported before."""

from collections.abc import Sequence
from difflib import get_close_matches
import importlib
from importlib.metadata import PackageNotFoundError, version
import os
from pathlib import Path
import sys

from sdpg import paths
from sdpg.commands.project import find_project, shipped_files
from sdpg.commands.table import COMMANDS, overview
from sdpg.errors import UserError, entry_point

OURS = ("sdpg", "pipelines", "app", "benchmarks")
FIXED = {
    "TOKENIZERS_PARALLELISM": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "true",
}
"""The environment of every command and of the stages that DVC runs: nothing is reported to anybody."""


def main() -> None:
    """Runs ``sdpg COMMAND …``; user errors are one message and exit code 2, and Ctrl+C ends with 130."""
    try:
        entry_point(lambda: call(sys.argv[1:]))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def call(arguments: Sequence[str]) -> None:
    """Calls a subcommand with its arguments.

    Raises:
        UserError: if there is no such subcommand, it needs a project and there is none, or a package is missing.
    """
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return
    name, *rest = arguments
    if name == "--version":
        print(f"sdpg {_version()}")
        return
    if (command := COMMANDS.get(name)) is None:
        near = get_close_matches(name, COMMANDS, 1, 0.5)
        raise UserError(f"sdpg has no command {name!r}{f': did you mean {near[0]}?' if near else ''} (sdpg --help "
                        "lists all)")  # fmt: skip
    set_environment()
    project = find_project(Path.cwd())
    if project is None and not command.anywhere and not {"-h", "--help"} & set(rest):
        raise UserError(
            f"sdpg {name} needs a project, and {Path.cwd()} is in none (a folder with dvc.yaml and pipelines/): go to "
            "one, or make one with sdpg new my-project"
        )
    # Modules of the project come first, as they do for `python -m` in its folder; so do those of the working folder.
    sys.path[:0] = [str(project)] if project else [str(shipped_files()), str(Path.cwd())]
    if project is not None:
        paths.enter(project)
    sys.argv = [f"sdpg {name}", *rest]
    try:
        importlib.import_module(f"pipelines.{command.module}").main()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in OURS:
            raise
        raise UserError(f"sdpg {name} needs the package {error.name}, which is not installed here: the workbench's "
                        "packages come with pip install 'sdpg[workbench]'") from None  # fmt: skip


def set_environment() -> None:
    """Sets what commands and the stages that they start read from the environment.

    Stage commands call ``python``, which must be this one. Small models are slower with more than one thread.
    """
    os.environ |= FIXED
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    own, known = str(Path(sys.executable).parent), os.environ.get("PATH", "").split(os.pathsep)
    if known[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, *filter(None, known)])


def _version() -> str:
    try:
        return version("sdpg")
    except PackageNotFoundError:
        return "of a checkout that is not installed"
