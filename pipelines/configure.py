"""Writes a profile, a preset, methods, seeds or benchmarks into params.yaml and shows the change."""

import argparse

from pipelines.command_line import command_parser
from sdpg.errors import entry_point


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("configure", __doc__, "--profile qwen3-0.6b --methods 'grpo sdpg-ufkl' --seeds 3")
    add_choices(parser)
    return parser


CHOICES = ("profile", "preset", "methods", "seeds", "benchmarks")


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds what is written into params.yaml; all are optional."""
    parser.add_argument("--profile", help="a file in profiles/, without .yaml")
    parser.add_argument("--preset", help="a file in presets/, without .yaml")
    parser.add_argument("--methods", help="'all', or names separated by spaces")
    parser.add_argument("--seeds", help="how many seeds, counted from 0")
    parser.add_argument("--benchmarks", help="names separated by spaces, of catalogue.yaml or of params.yaml")


def write_choices(options: argparse.Namespace) -> None:
    """Writes the options of :func:`add_choices` into params.yaml and prints the change."""
    # Importing this takes time, which --help need not wait for.
    from sdpg.params.configure import configure

    print(configure(**{name: getattr(options, name) for name in CHOICES}) or "params.yaml stays as it is.")


def main() -> None:
    """Runs ``sdpg configure``."""
    write_choices(parser().parse_args())


if __name__ == "__main__":
    entry_point(main)
