"""Writes the base that `sdpg repro` trained from scratch to a folder of inputs/models, with a card: the tiny base.

The profile tiny starts from that folder, so that every machine starts from the same weights. `make bundle` trains the
base of the profile tiny-scratch first.
"""

import argparse
from pathlib import Path
import shutil
from typing import Any

from sdpg import paths
from sdpg.errors import UserError, entry_point
from sdpg.files import read_json, replaced_folder, write_text
from sdpg.models.weight_files import folder_digest, model_files
from sdpg.params import Params, ScratchModel, load_params
from sdpg.records.provenance import git_state, versions

NAME = "tiny-base"
CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [qwen3, synthetic, sdpg]
---

# {name}

A Qwen3-architecture model of {parameters:.2f}M parameters that does arithmetic of a made-up world, and makes two kinds
of mistakes in it; docs/tiny_world.md of the repository describes both. It is the initial policy and the reference of
the profile `tiny`. It knows no language and is of no use elsewhere.

**Data**: texts that `sdpg/problems/synthetic.py` draws from the families
{families}; problems of the validation set and of the benchmarks are never
among them.

**Training**: from scratch, {steps} steps of {batch} texts, seed {seed}, one CPU thread, kernels {kernels}; the
recipe is the profile `tiny-scratch`. Commit {commit}; torch {torch}, transformers {transformers}.

**Made by** `make bundle`, and checked by `python -m pipelines.check`: `base.model.digest` is `{digest}`.

| problems | samples, temperature {temperature:g} | greedy | as teacher |
|---|---|---|---|
{rows}

Mean accuracies over {samples} samples per problem, and one greedy answer: they describe these weights and compare
nothing, so that they have no interval.
"""


def bundle(params: Params, name: str) -> Path:
    """Copies models/base to ``<base.folder>/<name>`` with its card; returns the folder.

    Raises:
        UserError: if params.yaml describes no base from scratch, or it was not trained yet.
    """
    model = params.base.model
    if not isinstance(model, ScratchModel):
        raise UserError(f"base.model.kind is {model.kind}: only a base from scratch is bundled (profile tiny-scratch)")
    if not paths.BASE_METRICS.is_file():
        raise UserError(f"{paths.BASE_METRICS} does not exist: run dvc repro base first")
    metrics = read_json(paths.BASE_METRICS, "run dvc repro base")
    target = Path(params.base.folder) / name
    with replaced_folder(target) as folder:
        for file in model_files(paths.BASE_MODEL):
            shutil.copy(file, folder / file.name)
            (folder / file.name).chmod(0o644)
        write_text(folder / "README.md", card(params, model, name, metrics, folder_digest(folder)))
    return target


def card(params: Params, model: ScratchModel, name: str, metrics: dict[str, Any], digest: str) -> str:
    """Returns the model card, in the form of the hub's."""
    ways = ("sampled", "greedy", "teacher")
    rows = [
        " | ".join([f"| {name}", *(f"{metrics[way][name]:.3f}" for way in ways)]) + " |" for name in metrics[ways[0]]
    ]
    train: Any = params.data.train
    weights = paths.BASE_MODEL / "model.safetensors"
    known = versions()
    return CARD.format(
        name=name, parameters=weights.stat().st_size / 4e6, families=", ".join(train.families), steps=model.steps,
        batch=model.batch, seed=model.seed, kernels=params.train.cpu_kernels, commit=git_state()["commit"][:10],
        torch=known["torch"], transformers=known["transformers"], digest=digest, rows="\n".join(rows),
        temperature=params.evaluation.temperature, samples=params.evaluation.final_samples,
    )  # fmt: skip


def main() -> None:
    """Runs ``python -m pipelines.bundle [--name tiny-base]``."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.bundle", description=__doc__)
    parser.add_argument("--name", default=NAME, help=f"the folder's name below base.folder; otherwise {NAME}")
    name = parser.parse_args().name
    if name != Path(name).name or name in ("", ".", ".."):
        raise UserError(f"--name {name!r}: give a folder's name without a path")
    folder = bundle(load_params(), name)
    print(f"{folder} holds the base and its card. Its digest is {folder_digest(folder)}.\n"
          f"Next: put `kind: folder`, `path: {name}` and this digest under base.model of a profile.")  # fmt: skip


if __name__ == "__main__":
    entry_point(main)
