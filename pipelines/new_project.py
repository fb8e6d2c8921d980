"""Sets a project up for problems and a model of your own, and says what it measured of them; see docs/own_data.md.

With FOLDER, a new project is made there: its stages, profiles and small model, in a git repository with DVC. What no
option names is asked for on a terminal; with FOLDER alone, the project is that of the tiny world.
"""

import argparse
from pathlib import Path
import shlex
import sys

from pipelines.column_options import column_map
from pipelines.command_line import command_parser, whole_number
from sdpg import paths
from sdpg.commands.new_folder import commit_all, made_project
from sdpg.errors import UserError, entry_point

OWN = ("problems", "model", "benchmarks")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser(
        "new", __doc__, "my-project --problems mine.csv --model tiny-base --benchmarks exam.csv", "[FOLDER] [options]"
    )
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help="the new project; otherwise the one you are in")
    parser.add_argument("--problems", help="a file of problems to train on: .jsonl, .json, .csv or .parquet")
    parser.add_argument("--columns", type=column_map, help="where a row's parts stand: problem=question,answer=gold")
    parser.add_argument("--model", help="a model folder, or an id of the hub as owner/name@revision")
    parser.add_argument("--benchmarks", help="names of catalogue.yaml, or files, separated by spaces")
    parser.add_argument("--profile", help="a profile to start from; otherwise params.yaml as it is")
    parser.add_argument("--methods", help="'all', or names separated by spaces")
    for name, what in (
        ("validation", "problems held back"), ("max-prompt", "tokens of a student's prompt"),
        ("max-teacher", "tokens of a teacher's prompt"), ("max-response", "tokens of a response"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=whole_number, help=f"{what}; otherwise from what is measured")
    return parser


def main() -> None:
    """Runs ``sdpg new``."""
    options = parser().parse_args()
    if options.folder is not None:
        folder = paths.given_path(options.folder)
        with made_project(folder):
            print(set_up(options, ask=any(getattr(options, name) for name in OWN)))
            unsaid = commit_all("A new project")
        print("\n".join([*unsaid, f"Next: cd {shlex.quote(options.folder)} && sdpg repro"]))
        return
    if not Path("params.yaml").is_file():
        raise UserError("there is no project here: name the folder of a new one, as in sdpg new my-project")
    print(set_up(options, ask=True))
    print("Next: sdpg repro")


def set_up(options: argparse.Namespace, ask: bool) -> str:
    """Writes params.yaml and returns what is to be printed; ``ask`` says whether problems and model are one's own."""
    if not ask:
        # Importing this takes time, which --help need not wait for.
        from sdpg.params.configure import configure

        return configure(profile=options.profile, methods=options.methods) or "params.yaml is that of the tiny world."
    from pipelines.own_problems import write_params

    options.problems = _asked(options.problems, "--problems", "the file of problems to train on")
    options.model = _asked(options.model, "--model", "the model's folder, or owner/name@revision of the hub")
    options.benchmarks = _asked(options.benchmarks, "--benchmarks", "benchmarks: files, or names of catalogue.yaml")
    return write_params(options)


def _asked(given: str | None, option: str, question: str) -> str:
    """Returns an option's value, or what a person on a terminal answers."""
    if given:
        return given
    if not sys.stdin.isatty():
        raise UserError(f"{option} is missing: {question}")
    while not (answer := input(f"{question}: ").strip()):
        pass
    return answer


if __name__ == "__main__":
    entry_point(main)
