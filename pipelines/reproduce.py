"""Rebuilds in a new folder what a run was made with, and prints the one command that makes the run again there."""

import argparse
from pathlib import Path
import re
import shlex
import tempfile
from typing import Any

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.errors import UserError, entry_point

REPRODUCED = Path("reproduced")
MLFLOW_ID = re.compile(r"[0-9a-f]{32}")
SAFE_COMMAND = re.compile(r"(dvc repro|python -m pipelines\.\w+)( [\w@./=+-]+)*")
"""The commands of a run's record that are printed; anything else could do anything where it is pasted."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("reproduce", __doc__, "grpo-0 --into ../again")
    parser.add_argument(
        "run", metavar="RUN", type=paths.given_name,
        help="a name below runs/, a folder, an MLflow run id, or an archive",
    )  # fmt: skip
    parser.add_argument(
        "--into", type=paths.given_path, metavar="FOLDER", help=f"the new folder; otherwise {REPRODUCED}/<run>"
    )
    return parser


def main() -> None:
    """Runs ``sdpg reproduce``."""
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.records.provenance import version_differences
    from sdpg.reproduction.rebuild import ENVIRONMENT, rebuild

    config = find_config(options.run)
    name = f"{config['method']}-{config['seed']}"
    folder = options.into or REPRODUCED / re.sub(r"[^\w.-]", "_", name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: remove it, or name another folder (--into)")
    rebuild(config, Path(), folder)
    print("\n".join(version_differences(config.get("versions"))) or "The versions here are those of the run.")
    print(f"{folder} holds commit {config['git']['commit'][:12]}, its uncommitted changes, params.yaml and inputs; "
          f"{ENVIRONMENT} has the run's versions. Make it again:\n\n  {command(config, folder)}")  # fmt: skip


def find_config(run: str) -> dict[str, Any]:
    """Returns the config.yaml of a run that is named by folder, archive or MLflow's id.

    Raises:
        UserError: if there is no such run, or it does not say how it was made.
    """
    from sdpg.reproduction.rebuild import read_run_config

    for folder in (Path("runs") / run, Path(run)):
        if folder.is_dir():
            return read_run_config(folder)
    if Path(run).is_file():
        from sdpg.reproduction.archive import archived_config

        return archived_config(Path(run))
    if not MLFLOW_ID.fullmatch(run):
        raise UserError(f"{run!r} is neither a name below runs/, nor a folder, an archive or an MLflow run id (32 hex "
                        "digits): correct it")  # fmt: skip
    from mlflow.exceptions import MlflowException

    from sdpg.params import load_params
    from sdpg.records.mlflow_store import connect

    client, _ = connect(load_params().tracking)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            client.download_artifacts(run, "config.yaml", scratch)
        except (MlflowException, OSError) as error:
            raise UserError(f"MLflow has no config.yaml of run {run} ({error}): name a training run") from None
        return read_run_config(Path(scratch))


def command(config: dict[str, Any], folder: Path) -> str:
    """Returns the one line that sets the environment up and makes the run.

    A checkout has a Makefile that installs it; a project of an installed package has none, and pip brings its versions.
    """
    from sdpg.reproduction.rebuild import ENVIRONMENT

    recorded = str(config.get("command"))
    if not SAFE_COMMAND.fullmatch(recorded):
        recorded = "dvc repro " + shlex.quote(f"train@{config['method']}-{config['seed']}")
    install = f"PIP_CONSTRAINT={ENVIRONMENT} make install"
    if not (folder / "Makefile").is_file():
        version = str((config.get("versions") or {}).get("sdpg"))
        wanted = f"sdpg[workbench]=={version}" if re.fullmatch(r"\d[\w.+]*", version) else "sdpg[workbench]"
        install = f"python -m venv .venv; PIP_CONSTRAINT={ENVIRONMENT} .venv/bin/pip install '{wanted}'"
    return f'cd {shlex.quote(str(folder))} && {install} && PATH="$PWD/.venv/bin:$PATH" {recorded}'


if __name__ == "__main__":
    entry_point(main)
