"""Makes the bundled sample from finished runs: `python -m app.make_sample [--from FOLDER] grpo-0 rlsd-0 sdpg-ufkl-0`.

A sample is a project in small: every number of the runs as it was measured, and the rollouts of a few recorded steps,
whole groups of them. Policies are left out.
"""

from argparse import ArgumentParser
from pathlib import Path
import shutil

import pyarrow.parquet as pq

from app.quick_yaml import parse_yaml
from app.sources import SAMPLE
from sdpg.errors import UserError, entry_point
from sdpg.files import replaced_folder
from sdpg.objective.coefficients import is_recorded
from sdpg.params.stored import train_of

STEPS = 4
"""The number of steps whose rollouts are kept: the first and the last recorded ones, and some evenly between."""
FILES = ("config.yaml", "metrics.csv", "curves.csv", "timing.csv", "summary.json", "COMPLETE")


def _copy(source: Path, target: Path) -> None:
    """Copies a file; Parquet is packed as tightly as possible."""
    if not source.exists():
        raise UserError(f"{source} does not exist: run the stage that writes it")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".parquet":
        pq.write_table(pq.read_table(source), target, compression="zstd", compression_level=22)
    else:
        shutil.copyfile(source, target)


def kept_steps(recorded: list[int], count: int = STEPS) -> list[int]:
    """Returns the first step, the last one, and some evenly between."""
    if len(recorded) <= count:
        return recorded
    return sorted({recorded[round(place * (len(recorded) - 1) / (count - 1))] for place in range(count)})


def make_sample(root: Path, names: list[str], target: Path) -> None:
    """Writes the sample of some of a project's finished runs.

    Raises:
        UserError: if a run is missing, or was made with uncommitted changes, so that its commit would not describe it.
    """
    with replaced_folder(target) as folder:
        for name in names:
            run = root / "runs" / name
            if not (run / "COMPLETE").exists():
                raise UserError(f"{run} is no finished run: run the stage train@{name} (dvc repro train@{name})")
            config = parse_yaml((run / "config.yaml").read_text(encoding="utf-8"))
            if config["git"]["dirty"]:
                raise UserError(f"{run} was made with uncommitted changes: make it again from a clean checkout")
            for file in FILES:
                _copy(run / file, folder / "runs" / name / file)
            steps = sorted({int(path.name[5:11]) for path in (run / "rollouts").glob("step-*.parquet")})
            train = train_of(config["params"])
            for step in kept_steps([step for step in steps if is_recorded(train, step)]):
                for path in (run / "rollouts").glob(f"step-{step:06d}-*.parquet"):
                    _copy(path, folder / "runs" / name / "rollouts" / path.name)
            for path in (run / "evaluations").glob("*.parquet"):
                _copy(path, folder / "runs" / name / "evaluations" / path.name)
            final = Path("evaluations") / name / "final.parquet"
            _copy(root / final, folder / final)
        base = Path("models/base-evaluations/sampled.parquet")
        _copy(root / base, folder / base)


def main() -> None:
    """Reads the command line and makes the sample."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="root", type=Path, default=Path(), help="the project whose runs are taken")
    parser.add_argument("names", nargs="+", help="of finished runs")
    arguments = parser.parse_args()
    make_sample(arguments.root, arguments.names, SAMPLE)
    size = sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file())
    print(f"{SAMPLE}: {len(arguments.names)} runs, {size:,} bytes")


if __name__ == "__main__":
    entry_point(main)
