"""Reports all inputs that a run reads and does not find, at once, with the place where each belongs."""

from dataclasses import dataclass
import http.client
from pathlib import Path
import ssl
import urllib.error
import urllib.request

from sdpg.errors import UserError
from sdpg.params import FileSource, HubModel, HubSource, Params, Source

MODEL_FILES = "config.json, *.safetensors (with model.safetensors.index.json where there are several), tokenizer files"
DATASET_FILES = "the dataset's files as they are on the hub, README.md included"
HUB_SECONDS = 10
"""Seconds for which an answer of the hub is awaited."""


@dataclass(frozen=True)
class Missing:
    """An input that is not on this disk.

    Attributes:
        field: its name in params.yaml.
        what: a description of what it is.
        place: the file or folder where it is looked for.
        layout: what must be there.
        command: the command that fetches it on a machine that reaches the hub; None where it is not on the hub.
    """

    field: str
    what: str
    place: Path
    layout: str
    command: str | None = None


def check_at_hand(params: Params) -> None:
    """Refuses to begin where a file is missing, or the hub is needed for something and cannot be reached.

    Raises:
        UserError: one message for all of them, with folder and layout of each.
    """
    files, hub = [], []
    for field, source in _sources(params).items():
        if isinstance(source, FileSource) and not (path := Path(params.data.folder) / source.path).is_file():
            files.append(_missing_file(field, source, path))
        elif isinstance(source, HubSource) and not _dataset_at_hand(source, Path(params.data.folder)):
            hub.append(_missing_dataset(field, source, Path(params.data.folder)))
    model = params.base.model
    if isinstance(model, HubModel) and params.base.local_folder is None and not _model_at_hand(model):
        hub.insert(0, _missing_model(model, Path(params.base.folder)))
    if hub and not _hub_answers():
        raise UserError(_text(
            "the Hugging Face hub cannot be reached, and these inputs are not on this disk. Go online once, or put the "
            "files here and give the same command again:", hub + files,
        ))  # fmt: skip
    if files:
        raise UserError("\n".join(_file_text(one) for one in files))


def _sources(params: Params) -> dict[str, Source]:
    benchmarks = {f"data.benchmarks.{name}.source": row.source for name, row in params.data.benchmarks.items()}
    return {"data.train": params.data.train, **benchmarks}


def _missing_file(field: str, source: FileSource, path: Path) -> Missing:
    named = (source.columns.problem, source.columns.answer, source.columns.solution)
    columns = list(dict.fromkeys(name for name in named if name))
    kind = "one JSON object a line" if path.suffix == ".jsonl" else "rows"
    origin = source.made_from
    what = "" if origin is None else f"made from the problems of {_dataset_name(origin)}"
    return Missing(f"{field}.path", what, path, f"{kind}, with {', '.join(columns)}")


def _dataset_name(source: HubSource) -> str:
    config = f", config {source.config}" if source.config else ""
    return f"{source.id}{config}, split {source.split}, revision {source.revision}"


def _missing_dataset(field: str, source: HubSource, folder: Path) -> Missing:
    place = folder / source.id
    command = f"hf download --repo-type dataset {source.id} --revision {source.revision} --local-dir {place}"
    return Missing(field, _dataset_name(source), place, DATASET_FILES, command)


def _missing_model(model: HubModel, folder: Path) -> Missing:
    place = folder / model.id
    command = f"hf download {model.id} --revision {model.revision} --local-dir {place}"
    return Missing("base.model", f"{model.id}, revision {model.revision}", place, MODEL_FILES, command)


def _text(head: str, missing: list[Missing]) -> str:
    lines = [head]
    for one in missing:
        lines.append(f"  {one.field}{f': {one.what}' if one.what else ''}")
        lines.append(f"    {one.place}{'' if one.command is None else '/'} ({one.layout})")
        if one.command is not None:
            lines.append(f"    where the hub can be reached: {one.command}")
    return "\n".join(lines)


def _file_text(missing: Missing) -> str:
    origin = f" ({missing.what})" if missing.what else ""
    return (
        f"{missing.field}: {missing.place} does not exist{origin}: put the file there ({missing.layout}), or correct "
        "the path"
    )


def _dataset_at_hand(source: HubSource, folder: Path) -> bool:
    if (folder / source.id).is_dir():
        return True
    # Importing these takes a second, which a run without hub data does not need.
    from datasets import config

    # What datasets loaded once, it loads again without the hub.
    cached = Path(config.HF_DATASETS_CACHE) / source.id.replace("/", "___")
    return cached.is_dir() or _snapshot_at_hand(source.id, source.revision, "dataset")


def _model_at_hand(model: HubModel) -> bool:
    return _snapshot_at_hand(model.id, model.revision, "model")


def _snapshot_at_hand(identifier: str, revision: str, kind: str) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(identifier, repo_type=kind, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _hub_answers() -> bool:
    """Returns whether the hub can be reached; its own client would try for half a minute and say no more."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        # A certificate that Python does not know may be known to the hub's client, which will say so if not.
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException):
        return False
    return True
