"""Writes what the profile `rehearsal` reads: a Qwen3 of random weights, and problems in the hub's layout.

`make rehearsal DIR=…` goes on with the pipeline: the path of qwen3-4b on two processes of a CPU. See docs/scaling.md.
"""

import argparse
from pathlib import Path

from pipelines.rehearsal import write_inputs
from sdpg.errors import entry_point
from sdpg.planning.plan import planned_params


def main() -> None:
    """Runs ``python -m pipelines.rehearse --dir path/to/jsonl``."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.rehearse", description=__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder with aime24.jsonl, aime25.jsonl, amc23.jsonl")
    written = write_inputs(planned_params("rehearsal"), parser.parse_args().dir)
    print("\n".join(["Inputs of the profile rehearsal:", *(f"  {path}" for path in written)]))


if __name__ == "__main__":
    entry_point(main)
