"""What can be known to fail is said before the first stage runs."""

import json
from pathlib import Path

from sdpg.context import check_context
from sdpg.errors import UserError
from sdpg.files import write_json
from sdpg.params import FileSource, LocalModel, Params
from sdpg.synthetic import FAMILIES
from sdpg.tracking import connect

CHECKED = Path("data/check.json")


def check_inputs(params: Params) -> None:
    """Checks that what params.yaml names is there, and creates the tracking database before stages run in parallel.

    Raises:
        UserError: naming the parameter, its value and the remedy.
    """
    sources = {"data.train": params.data.train}
    sources |= {f"data.benchmarks.{name}.source": b.source for name, b in params.data.benchmarks.items()}
    for field, source in sources.items():
        if isinstance(source, FileSource):
            path = Path(params.data.folder) / source.path
            if not path.is_file():
                raise UserError(f"{field}.path: {path} does not exist: put the file there, or correct the path")
        elif source.kind == "synthetic" and (unknown := [name for name in source.families if name not in FAMILIES]):
            raise UserError(f"{field}.families names {', '.join(unknown)}; there are: {', '.join(FAMILIES)}")
    model = params.base.model
    if isinstance(model, LocalModel):
        _check_model_folder(Path(params.base.folder) / model.path)
    check_context(params)
    connect(params.tracking)
    write_json(CHECKED, {"valid": True})


def _check_model_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"base.model.path: {folder} has no config.json: name a model folder below base.folder")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"base.model.path: {folder} has no *.safetensors weights")
    config_file = folder / "tokenizer_config.json"
    if not config_file.is_file():
        raise UserError(
            f"base.model.path: {folder} has no tokenizer: copy tokenizer.json and tokenizer_config.json there"
        )
    template = json.loads(config_file.read_text(encoding="utf-8")).get("chat_template")
    if template is None and not any(folder.glob("chat_template*")):
        raise UserError(
            f"base.model.path: the tokenizer in {folder} has no chat template: use an instruction-tuned model"
        )
