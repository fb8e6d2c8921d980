"""Makes the records in this folder, by the code of the commits that their names give.

    python tests/records/data/make.py

The rows are some of the bundled sample's, the last of each file as if its response had been cut before an answer, which
the sample has none of. The files stay as they are when the schema grows: they are what older code wrote.
"""

from pathlib import Path
import subprocess
from types import ModuleType

from sdpg.records.schemas import read_evaluations, read_rollouts

HERE = Path(__file__).parent
SAMPLE = HERE.parents[2] / "app" / "sample" / "runs" / "sdpg-ufkl-0"
COMMITS = {"e18aed7": ("rollout", "evaluation"), "26823c6": ("rollout",), "2aaa9da": ("rollout", "evaluation")}
"""Version 1; version 2 before rollouts named their verifier; version 2 before readers took columns as they come."""


def code_of(commit: str) -> ModuleType:
    """Loads the module of the records as it was at a commit."""
    command = ["git", "show", f"{commit}:sdpg/records.py"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    module = ModuleType(f"records_{commit}")
    exec(compile(text, f"{commit}:sdpg/records.py", "exec"), module.__dict__)
    return module


def main() -> None:
    """Writes three rollouts and six answers a commit."""
    cut = {"status": "truncated", "extracted_answer": None, "truncated": True}
    rollouts = read_rollouts(SAMPLE / "rollouts/step-000020-rank-0.parquet").to_pylist()
    scored = [row for row in rollouts if row["kl_to_teacher"]][:2]
    answers = read_evaluations(SAMPLE / "evaluations/step-000060.parquet").to_pylist()[:6]
    rows = {"rollout": [*scored, rollouts[-1] | cut], "evaluation": [*answers[:-1], answers[-1] | cut]}
    for commit, kinds in COMMITS.items():
        code = code_of(commit)
        for kind in kinds:
            names = getattr(code, f"{kind.upper()}_SCHEMA").names
            write = getattr(code, f"write_{kind}s")
            write(HERE / f"{kind}-{commit}.parquet", [{name: row[name] for name in names} for row in rows[kind]])


if __name__ == "__main__":
    main()
