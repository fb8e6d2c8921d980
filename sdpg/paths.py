"""Where the stages' outputs lie, relative to the project's folder; dvc.yaml declares the same paths."""

from pathlib import Path

TOKENIZER = Path("data/tokenizer")
PREPARED = Path("data/prepared")
BASE_MODEL = Path("models/base")
BASE_EVALUATIONS = Path("models/base-evaluations")
BASE_METRICS = Path("models/base.json")
STATE = Path(".state")
REPORTS = Path("reports")
EXPORTED, IMPORTED = Path("exported"), Path("imported")
"""The archives of ``make export``, and what ``make import`` unpacks."""
BENCHMARKED = Path("benchmarked")
"""The results of `pipelines.benchmarks`; no stage of dvc.yaml reads or writes there."""


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
