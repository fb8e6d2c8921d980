"""Plans what a run will take in memory, operations, hours and disk, before anything is loaded or downloaded."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.command_line import command_parser
from sdpg import paths
from sdpg.commands.project import settings_file
from sdpg.errors import UserError, entry_point

if TYPE_CHECKING:
    from sdpg.params.lora import LoraParams
    from sdpg.planning.work import Assumptions

CARD_NAMES = ("h100", "h200", "a100", "rtx4090", "rtx3090")
"""The cards that the plan knows, as in sdpg/planning/work.py."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("plan", __doc__, "--profile qwen3-4b --gpus 8 --card h100", "[options]")
    parser.add_argument("--profile", help="a file in profiles/, without .yaml; otherwise params.yaml as it is")
    parser.add_argument(
        "--model", type=paths.given_name, help="a folder whose config.json gives the shape, instead of the profile's"
    )
    parser.add_argument("--lora", help="plan an adapter of this rank on all linear modules, instead of train.lora")
    parser.add_argument("--gpus", help="how many; otherwise those of this machine, or one and several")
    parser.add_argument("--memory", help="GiB of one GPU")
    parser.add_argument(
        "--card", help=f"one of {', '.join(CARD_NAMES)}; otherwise rtx4090 for what fits it, and h100 for what does not"
    )
    parser.add_argument("--peak-flops", help="TFLOP/s of one GPU, dense bfloat16")
    parser.add_argument("--bandwidth", help="TB/s of one GPU's memory")
    parser.add_argument("--link-bandwidth", help="GB/s that one GPU receives from others of the same run")
    parser.add_argument("--gate-rate", help="share of rollouts with a positive advantage; otherwise 0.35")
    parser.add_argument("--mixed-rate", help="share of rollouts with an advantage that is not zero; otherwise 0.7")
    parser.add_argument(
        "--response-share", help="mean length of a response, as a share of its limit, e.g. 0.6 or 0.4-0.9"
    )
    parser.add_argument("--student-prompt", help="mean tokens; otherwise 200")
    parser.add_argument("--teacher-prompt", help="mean tokens; otherwise 900")
    parser.add_argument("--mfu", help="share of the peak that training reaches, e.g. 0.4 or 0.25-0.45")
    return parser


def main() -> None:
    """Runs ``sdpg plan``; outside a project, profiles and params.yaml are those that come with the package."""
    paths.enter(settings_file(Path()).parent)
    options = parser().parse_args()
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.planning.machines import machines
    from sdpg.planning.plan import Plan, assumed_card, planned_run
    from sdpg.planning.report import report

    params, shape = planned_run(options.profile, options.model, _lora(options.lora))
    chosen = machines(
        options.gpus, options.memory, options.card, options.peak_flops, options.bandwidth, options.link_bandwidth,
        params.train.distributed.processes, assumed_card(shape, params),
    )  # fmt: skip
    print(report(Plan(params, shape, chosen, _assumptions(options))))


def _lora(text: str | None) -> "LoraParams | None":
    if text is None:
        return None
    from sdpg.params.lora import LoraParams

    if not text.isdecimal() or not int(text):
        raise UserError(f"--lora {text}: give the adapter's rank, a whole number above 0, such as --lora 32")
    return LoraParams(rank=int(text), alpha=int(text))


def _assumptions(options: argparse.Namespace) -> "Assumptions":
    from sdpg.planning.machines import positive
    from sdpg.planning.work import Assumptions, Range

    changes: dict[str, Any] = {}
    for name in ("gate_rate", "mixed_rate"):
        if (text := getattr(options, name)) is not None:
            changes[name] = _share(name, text)
    for name in ("student_prompt", "teacher_prompt"):
        if (tokens := positive(_option(name), getattr(options, name), "tokens")) is not None:
            changes[name] = int(tokens)
    if options.response_share is not None:
        changes["response_share"] = Range(*sorted(_shares("response_share", options.response_share)))
    if options.mfu is not None:
        changes["training_mfu"] = Range(*sorted(_shares("mfu", options.mfu), reverse=True))
    return Assumptions(**changes)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _shares(name: str, text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    return _share(name, low), _share(name, high or low)


def _share(name: str, text: str) -> float:
    from sdpg.planning.machines import positive

    value = positive(_option(name), text, "a share, between 0 and 1,")
    assert value is not None
    if value > 1:
        raise UserError(f"{_option(name)} {text}: a share lies between 0 and 1")
    return value


if __name__ == "__main__":
    entry_point(main)
