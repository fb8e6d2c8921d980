"""Checks all inputs before the first stage runs.

DVC removes a stage's outputs before it runs the stage, so a mistake that the stage itself finds has cost them already.
"""

from pathlib import Path

from sdpg import paths
from sdpg.files import write_json, write_text
from sdpg.models.launching import check_launch
from sdpg.models.weight_files import check_weights
from sdpg.params import LocalModel, Params
from sdpg.planning.fits import check_gpus, check_memory
from sdpg.problems.context import check_context
from sdpg.problems.inputs import check_at_hand
from sdpg.records.provenance import fingerprint, hash_files, loaded_code
from sdpg.records.tracking import connect
from sdpg.rollouts.vllm_start import check_vllm

CHECKED = Path("data/check.json")
LAST_GOOD = paths.STATE / "checked"
"""The fingerprint of the inputs that were read last, so that they are not read again while they stay the same."""


def check_inputs(params: Params) -> None:
    """Reads every input once as ``prepare`` will, and creates the tracking database before stages run in parallel.

    Raises:
        UserError: if an input is wrong; the message names the parameter or file, what is wrong with it, and the remedy.
    """
    # Errors of a machine that lacks something come before those of inputs that would have to be fetched for it.
    check_launch(params.train.distributed)
    check_gpus(params)
    check_vllm(params)
    check_at_hand(params)
    if params.train.lora is not None:
        # Importing transformers takes seconds, which other runs do not need.
        from sdpg.models.adapter_check import check_adapter

        check_adapter(params)
    check_memory(params)
    check_context(params)
    if (folder := params.base.local_folder) is not None:
        check_weights(folder, "base.model.path" if isinstance(params.base.model, LocalModel) else "base.model.id")
    tree = params.model_dump(mode="json", include={"data", "prompts", "base", "rollout", "evaluation"})
    folders = [Path(params.data.folder), Path(params.base.folder)]
    identity = fingerprint(tree, [hash_files([folder], folder) for folder in folders], loaded_code())
    if not (LAST_GOOD.is_file() and LAST_GOOD.read_text(encoding="utf-8") == identity):
        # Importing transformers takes seconds, which an unchanged input does not need.
        from sdpg.problems.prepare import prepare

        prepare(params)
        write_text(LAST_GOOD, identity)
    connect(params.tracking)
    write_json(CHECKED, {"valid": True})
