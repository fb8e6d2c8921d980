"""Measures what single knobs do: one value at a time changed against params.yaml, on fresh seeds, on validation."""

import argparse
from typing import TYPE_CHECKING

from pipelines.command_line import command_parser
from pipelines.workers import bring_base_up_to_date, further_workers
from sdpg.errors import UserError, entry_point
from sdpg.files import check_name, write_json, write_text
from sdpg.paths import REPORTS
from sdpg.records.cpu_kernels import fix_cpu_kernels

if TYPE_CHECKING:
    from sdpg.params import Params


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    parser = command_parser("effects", __doc__, "sdpg-ufkl methods.sdpg-ufkl.beta=0.1,10 --workers 2")
    parser.add_argument("method", help="a name under methods in params.yaml")
    parser.add_argument("knobs", nargs="+", metavar="PATH=VALUE[,VALUE…]", help="values that differ from params.yaml")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine")
    parser.add_argument("--ready", action="store_true", help="take the base as it is, without dvc repro base")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Writes reports/tune/effects-<method>.md and .json, and prints the table."""
    options = parser().parse_args()
    # Importing this takes time, which --help need not wait for.
    from sdpg.params import load_params

    params = load_params()
    fix_cpu_kernels(params.train.cpu_kernels)
    settings = knob_settings(params, options.method, options.knobs)
    from sdpg.tuning.retraining import retrain_all

    if options.worker:
        retrain_all(params, settings, params.tune.retrain.seeds)
        return
    if not options.ready:
        bring_base_up_to_date()
    with further_workers(["pipelines.effects", options.method, *options.knobs, "--worker"], options.workers - 1):
        retrain_all(params, settings, params.tune.retrain.seeds)

    from sdpg.tuning import comparison

    rows = comparison.compare_settings(settings, settings[0], params.tune.retrain.seeds, params.report)
    rows = comparison.adjusted(rows)
    target = REPORTS / "tune" / f"effects-{options.method}"
    text = comparison.as_markdown(rows)
    write_text(target.with_suffix(".md"), text)
    write_json(target.with_suffix(".json"), comparison.as_json(rows))
    print(text)


def knob_settings(params: "Params", method: str, knobs: list[str]) -> list:
    """Returns the untuned setting, and one for each value of each knob; each is checked by the validators."""
    from sdpg.params.tree import parse_yaml
    from sdpg.params.tune import VALIDATION
    from sdpg.tuning.retraining import Setting, setting_params
    from sdpg.tuning.space import leaves

    known = leaves(params.model_dump(mode="json", exclude_unset=True, exclude={"tune"}))
    group = f"effects-{method}"
    settings = [Setting(group, method, "params-yaml", {}, (VALIDATION,))]
    for knob in knobs:
        path, _, values = knob.partition("=")
        if path not in known or not values:
            raise UserError(f"{knob!r}: write PATH=VALUE, with a path of params.yaml such as methods.sdpg-ufkl.beta")
        for text in values.split(","):
            name = f"{path.split('.')[-1]}-{text}".lower().replace("_", "-")
            check_name(name, knob)
            setting = Setting(group, method, name, {path: parse_yaml(text, knob)}, (VALIDATION,))
            setting_params(params, setting)
            settings.append(setting)
    return settings


if __name__ == "__main__":
    entry_point(main)
