"""What can be known to fail is said before the first stage runs.

DVC removes a stage's outputs before it runs the stage, so a mistake that the stage itself finds has cost them already.
"""

from pathlib import Path

from sdpg import paths
from sdpg.context import check_context
from sdpg.errors import UserError
from sdpg.files import write_json, write_text
from sdpg.params import FileSource, LocalModel, Params
from sdpg.provenance import fingerprint, hash_files, loaded_code
from sdpg.tracking import connect
from sdpg.vllm_start import check_vllm
from sdpg.weights import check_weights

CHECKED = Path("data/check.json")
LAST_GOOD = paths.STATE / "checked"
"""Fingerprint of the inputs that were read through last, so that they are not read again while they stay the same."""


def check_inputs(params: Params) -> None:
    """Reads every input once as ``prepare`` will, and creates the tracking database before stages run in parallel.

    Raises:
        UserError: naming the parameter or file, what is wrong with it, and the remedy.
    """
    sources = {"data.train": params.data.train}
    sources |= {f"data.benchmarks.{name}.source": b.source for name, b in params.data.benchmarks.items()}
    for field, source in sources.items():
        if isinstance(source, FileSource) and not (path := Path(params.data.folder) / source.path).is_file():
            raise UserError(f"{field}.path: {path} does not exist: put the file there, or correct the path")
    check_vllm(params)
    check_context(params)
    model = params.base.model
    if isinstance(model, LocalModel):
        check_weights(Path(params.base.folder) / model.path, "base.model.path")
    tree = params.model_dump(mode="json", include={"data", "prompts", "base", "rollout", "evaluation"})
    folders = [Path(params.data.folder), Path(params.base.folder)]
    identity = fingerprint(tree, [hash_files([folder], folder) for folder in folders], loaded_code())
    if not (LAST_GOOD.is_file() and LAST_GOOD.read_text(encoding="utf-8") == identity):
        # Importing transformers takes seconds, which an unchanged input need not wait for.
        from sdpg.prepare import prepare

        prepare(params)
        write_text(LAST_GOOD, identity)
    connect(params.tracking)
    write_json(CHECKED, {"valid": True})
