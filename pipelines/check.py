"""Reads params.yaml and looks at every input before any stage touches an output."""

from pipelines.inspection import check_inputs
from sdpg.errors import entry_point
from sdpg.params import load_params


def main() -> None:
    """Runs always and first; a mistake stops the pipeline here, with earlier outputs as they were."""
    check_inputs(load_params())


if __name__ == "__main__":
    entry_point(main)
