"""What can be known to fail is said before the first stage runs, and each stage's code is digested.

DVC removes a stage's outputs before it runs the stage, so a mistake that the stage itself finds has cost them already.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.no_options import refuse_options
from sdpg import paths
from sdpg.errors import entry_point
from sdpg.files import replaced_folder, write_json, write_text

if TYPE_CHECKING:
    from sdpg.params import Params

CHECKED = Path("data/check.json")
CODE = Path("data/code")
LAST_GOOD = paths.STATE / "checked"
"""Fingerprint of the inputs that were read through last, so that they are not read again while they stay the same."""


def check_inputs(params: "Params") -> None:
    """Reads every input once as ``prepare`` will, and creates the tracking database before stages run in parallel.

    Raises:
        UserError: naming the parameter or file, what is wrong with it, and the remedy.
    """
    # Importing these takes seconds, which --help need not wait for.
    from sdpg.models.launching import check_launch
    from sdpg.models.weight_files import check_digest, check_model, check_weights
    from sdpg.params import LocalModel, ScratchModel
    from sdpg.params.imported import imported_parts, load_part
    from sdpg.planning.fits import check_device, check_gpus, check_memory
    from sdpg.problems.context import check_context
    from sdpg.problems.inputs import check_at_hand
    from sdpg.records.mlflow_store import check_store
    from sdpg.records.provenance import fingerprint, hash_files
    from sdpg.records.run_inputs import stage_code
    from sdpg.rewards.own import check_verifier

    for field, part in imported_parts(params):
        load_part(part, field)
    check_verifier(params.reward)
    for name, method in params.methods.items():
        if any(imported_parts(method)):
            # Importing torch takes a second, which methods without own parts need not wait for.
            from sdpg.objective.own import check_own_parts

            check_own_parts(method, f"methods.{name}")
    # What a machine lacks comes before what would have to be fetched for it.
    check_launch(params.train.distributed)
    check_device(params)
    check_gpus(params)
    if params.rollout.vllm is not None:
        # Engines import torch, which takes seconds.
        from sdpg.rollouts.vllm_start import check_vllm

        check_vllm(params)
    check_at_hand(params)
    tree = params.model_dump(mode="json", include={"data", "prompts", "base", "rollout", "evaluation"})
    folders = [Path(params.data.folder), Path(params.base.folder)]
    code = stage_code("prepare", params).digest
    tree["line_tokens"] = params.train.line_tokens
    identity = fingerprint(tree, [hash_files([folder], folder) for folder in folders], code)
    unchanged = LAST_GOOD.is_file() and LAST_GOOD.read_text(encoding="utf-8") == identity
    if (folder := params.base.local_folder) is not None:
        check_digest(params.base)
        field = "base.model.path" if isinstance(params.base.model, LocalModel) else "base.model.id"
        # Reading all weights takes seconds, which those that were read before need not wait for.
        (check_weights if unchanged else check_model)(folder, field)
    if params.train.lora is not None:
        # Importing transformers takes seconds, which other runs need not wait for.
        from sdpg.models.adapters import check_adapter

        check_adapter(params)
    check_memory(params)
    check_context(params)
    if not unchanged:
        # Importing transformers takes seconds, which an unchanged input need not wait for.
        from sdpg.problems.prepare import prepare

        if not isinstance(params.base.model, ScratchModel):
            from sdpg.models.loading import check_policy

            check_policy(params)
        prepare(params)
        write_text(LAST_GOOD, identity)
    check_store(params.tracking)
    write_json(CHECKED, {"valid": True})


def write_code(params: "Params") -> None:
    """Writes the modules that each stage runs, with their digests; dvc.yaml names these files in place of modules."""
    from sdpg.records.run_inputs import stage_code

    found = {stage: stage_code(stage, params) for stage in ("prepare", "base", "evaluate", "tabulate")}
    found |= {f"train-{method}": stage_code("train", params, method) for method in params.methods}
    with replaced_folder(CODE) as folder:
        for name, code in found.items():
            write_json(folder / f"{name}.json", {"digest": code.digest, "modules": code.modules})


def main() -> None:
    """Runs always and first; a mistake stops the pipeline here, with earlier outputs as they were."""
    from sdpg.locks import exclusive
    from sdpg.params import load_params

    params = load_params()
    with exclusive(CODE):
        check_inputs(params)
        write_code(params)


if __name__ == "__main__":
    refuse_options(__doc__)
    entry_point(main)
