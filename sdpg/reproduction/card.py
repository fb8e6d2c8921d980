"""Writes the model card of an exported run: data, method, deviations from the paper, results, licence and citation."""

from collections.abc import Mapping
from pathlib import Path
import re
from typing import Any

from sdpg.objective.choices import choices_markdown
from sdpg.params import HubModel, LocalModel, Params, ScratchModel, SyntheticSource
from sdpg.results import rendering
from sdpg.results.runs import Results
from sdpg.results.tables import final_rows, main_rows

LICENCE = "apache-2.0"
"""The licence of this project, and of what it makes from nothing."""
CARD = """---
license: {licence}
library_name: transformers
pipeline_tag: text-generation
tags: [sdpg, reinforcement-learning]
{base_model}---

# {title}, seed {seed}

A policy that was trained with {title} from {base}, by the workbench that reproduces *Self-Distilled Policy Gradient*
(arXiv 2606.04036). The run's records lie in `runs/{run}`: parameters, metrics, rollouts and evaluations.

## Data

Training problems: {train}. Benchmarks: {benchmarks}. `runs/{run}/config.yaml` has the digests of the prepared problems
and of the base. {synthetic}

## Method

{steps} steps of {prompts} prompts × {responses} responses, learning rate {lr:g}. The method's values:

{method}

## Deviations

Where the paper and its public code differ, and what this run did.

{deviations}

## Results

{confidence:.0%} intervals by problem, conditional on this one policy: they do not say what another training seed would
give. Best is biased upwards by selection on the test set.

{main}

{final}

## Made by

Commit {commit}{dirty}; {versions}; {processor}. `sdpg import {run}.zip` reads this archive,
`sdpg reproduce {run}.zip` rebuilds what it was made with, and `sdpg verify` compares.

## Licence and citation

{terms} `CITATION.cff` says how to cite.
"""
LARGEST_HEAD = 20_000
"""The characters of a base's card in which its licence is looked for."""


def model_card(results: Results, config: Mapping[str, Any], run: str) -> str:
    """Returns the card of one run.

    Args:
        results: the results of this run alone.
        config: its config.yaml.
        run: its name.
    """
    params, method = results.params, str(config["method"])
    data, train = params.data, params.train
    main, final = main_rows(results), final_rows(results)
    sizes = rendering.shared_sizes(final)
    entry = params.method(method)
    values = entry.model_dump(mode="json", exclude={"title"})
    fields = [(name, str(value)) for name, value in values.items() if entry.reads(name)]
    git, versions = config.get("git") or {}, config.get("versions") or {}
    licence, terms, base_model = _licence(params)
    synthetic = any(isinstance(one.source, SyntheticSource) for one in data.benchmarks.values())
    plain = rendering.escape_markdown
    return CARD.format(
        licence=licence, base_model=base_model, title=plain(results.title(method)), seed=config["seed"], run=run,
        base=_base(params), train=plain(_source(data.train)), steps=train.steps, lr=train.lr,
        prompts=train.prompts_per_step, responses=train.responses_per_prompt,
        benchmarks="; ".join(plain(f"{one.title} ({_source(one.source)})") for one in data.benchmarks.values()),
        synthetic="Synthetic problems of the tiny world are no public benchmark." if synthetic else "",
        method=rendering.markdown_table(("value", "is"), fields),
        deviations=choices_markdown(params).split("\n\n", 3)[-1].strip(),
        confidence=params.report.confidence,
        main=rendering.markdown_table(rendering.MAIN_HEADER, map(rendering.main_cells, main)),
        final=rendering.markdown_table(
            rendering.final_header(final, params.evaluation.temperature),
            [rendering.final_cells(row, sizes) for row in final],
        ),
        commit=plain(str(git.get("commit"))), dirty=" with uncommitted changes" if git.get("dirty") else "",
        versions=plain(", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers")
                                 if name in versions)),
        processor=plain(str((config.get("hardware") or {}).get("processor", "unknown processor"))), terms=terms,
    )  # fmt: skip


def _base(params: Params) -> str:
    """Returns what the policy was trained from, in words."""
    if isinstance(params.base.model, ScratchModel):
        return "a small model that was itself trained from scratch"
    return rendering.escape_markdown(params.base.name)


def _source(source: Any) -> str:
    """Returns where problems come from, in words."""
    values = source.model_dump(mode="json")
    where = values.get("id") or values.get("path") or ", ".join(values.get("families", ()))
    revision = f" at {values['revision']}" if values.get("revision") else ""
    count = f", {values['count']}" if values.get("count") else ""
    return f"{values['kind']}: {where}{revision}{count}"


def _licence(params: Params) -> tuple[str, str, str]:
    """Returns the licence of the weights as the hub names it, a sentence about it, and the line of the base model."""
    match params.base.model:
        case ScratchModel():
            return LICENCE, "Weights, records and code: Apache-2.0.", ""
        case LocalModel(path=path):
            card = Path(params.base.folder) / path / "README.md"
            text = card.read_text(encoding="utf-8", errors="replace")[:LARGEST_HEAD] if card.is_file() else ""
            found = re.search(r"\A---\n(?:.*\n)*?license: ([\w.-]+)\n", text)
            licence = found.group(1) if found else "other"
            said = f"is {licence}" if found else "is not known to this workbench"
            return (
                licence,
                f"The licence of the base {said}, and holds for these weights; the rest: Apache-2.0.",
                "",
            )
        case HubModel(id=name):
            line = f"base_model: {name}\n"
            return "other", f"The licence of {name} holds for these weights; the rest: Apache-2.0.", line
