"""Makes the micro project that several files of tests go on from."""

from pathlib import Path

from tests.helpers.clones import clone, run
from tests.helpers.forked import run_forked


def make_base(folder: Path) -> None:
    """Fills a folder with a clone on the micro profile and runs check, prepare and base, for DVC too."""
    clone(folder, "grpo sdpg-ufkl")
    for stage in ("check", "prepare", "base"):
        run_forked(folder, f"pipelines.{stage}")
    run(folder, "dvc", "commit", "--force", "--quiet", "check", "prepare", "base")
