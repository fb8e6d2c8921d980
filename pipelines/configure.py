"""Writes a profile, a preset, methods, seeds or benchmarks into params.yaml and shows the change."""

import argparse

from sdpg.errors import entry_point
from sdpg.params.configure import configure


def main() -> None:
    """Runs ``python -m pipelines.configure --profile tiny --preset paper --methods all --seeds 3``, all optional."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.configure", description=__doc__)
    parser.add_argument("--profile", help="a file in profiles/, without .yaml")
    parser.add_argument("--preset", help="a file in presets/, without .yaml")
    parser.add_argument("--methods", help="'all', or names separated by spaces")
    parser.add_argument("--seeds", help="how many seeds, counted from 0")
    parser.add_argument("--benchmarks", help="names separated by spaces, of catalogue.yaml or of params.yaml")
    change = configure(**vars(parser.parse_args()))
    print(change or "params.yaml stays as it is.")


if __name__ == "__main__":
    entry_point(main)
