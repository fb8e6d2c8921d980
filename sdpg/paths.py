"""Where the stages' outputs lie, relative to the project's folder; dvc.yaml declares the same paths."""

import os
from pathlib import Path

TOKENIZER = Path("data/tokenizer")
PREPARED = Path("data/prepared")
BASE_MODEL = Path("models/base")
BASE_EVALUATIONS = Path("models/base-evaluations")
BASE_METRICS = Path("models/base.json")
STATE = Path(".state")
REPORTS = Path("reports")
EXPORTED, IMPORTED = Path("exported"), Path("imported")
"""The archives of ``sdpg export``, and what ``sdpg import`` unpacks."""
BENCHMARKED = Path("benchmarked")
"""The results of ``sdpg evaluate``; no stage of dvc.yaml reads or writes there."""
_given_from: Path | None = None
"""The folder in which a command was given, where that is not the project's."""


def run_folder(method: str, seed: int) -> Path:
    """The outputs of ``train@<method>-<seed>``."""
    return Path("runs") / f"{method}-{seed}"


def evaluation_folder(method: str, seed: int) -> Path:
    """The outputs of ``evaluate@<method>-<seed>``."""
    return Path("evaluations") / f"{method}-{seed}"


def project_root(folder: Path | None = None) -> Path:
    """The project's folder; in the temporary copy of a queued DVC experiment, that of the original."""
    folder = (folder or Path.cwd()).resolve()
    for parent in (folder, *folder.parents):
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return folder


def enter(project: Path) -> None:
    """Makes the project's folder the working folder; what the command line names is looked for where it was given."""
    global _given_from
    here = Path.cwd()
    if project.resolve() != here.resolve():
        _given_from = _given_from or here
        os.chdir(project)


def given_path(text: str) -> Path:
    """The path that an option names, as one from the working folder."""
    path = Path(text)
    return path if _given_from is None or path.is_absolute() else Path(os.path.relpath(_given_from / path))


def given_name(text: str) -> str:
    """What an option names that may be a path or another name, such as a run's: a path if there is such a file."""
    return str(given_path(text)) if _given_from is not None and (_given_from / text).exists() else text
