"""Builds the base: the initial policy, which is also π_ref, and its accuracy as student and as teacher."""

from pathlib import Path
import shutil

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from sdpg import paths
from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.evaluation.evaluation import Identity, read_problem_sets
from sdpg.evaluation.final import evaluate_policy, log_answers, summarise
from sdpg.files import replaced_folder, write_json
from sdpg.locks import exclusive
from sdpg.models.distribution import joined
from sdpg.models.launching import on_one_machine
from sdpg.models.loading import load_model, save_model, set_threads
from sdpg.models.pretraining import pretrain
from sdpg.models.ranks import Ranks
from sdpg.models.weight_files import WEIGHTS_AND_TOKENIZER, check_digest, model_files
from sdpg.params import HubModel, LocalModel, Params, ScratchModel, SyntheticSource
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.records.manifest import check_folder, note_folder
from sdpg.records.provenance import fingerprint, hash_files
from sdpg.records.schemas import write_evaluations
from sdpg.records.tracking import stage_run


def build_base(params: Params) -> Path | None:
    """Makes or resolves the base policy, evaluates it, and writes the stage's outputs; returns the policy's folder.

    Every process of ``train.distributed`` calls this. The first alone makes and writes; the others help to evaluate,
    and get None.
    """
    identity = Identity("base", "base", 0, 0)
    with joined(on_one_machine(params.train.distributed), params.train.device) as ranks:
        if not ranks.first:
            # The policy is being made.
            ranks.wait()
            evaluate_policy(params, identity, paths.BASE_MODEL, teacher=True, ranks=ranks)
            return None
        with exclusive(paths.BASE_MODEL):
            _build(params, identity, ranks)
    return paths.BASE_MODEL


def _build(params: Params, identity: Identity, ranks: Ranks) -> None:
    check_folder(paths.PREPARED)
    prepared = hash_files([paths.PREPARED], paths.PREPARED)
    settings = params.base.model_dump(mode="json")
    key = fingerprint("base", settings, params.evaluation.model_dump(mode="json"), prepared)
    inputs = {"prepared": (paths.PREPARED, prepared)}
    with stage_run(params, "base", "base", key, inputs, {"base": settings}) as tracked:
        model = params.base.model
        match model:
            case ScratchModel():
                _from_scratch(params, model)
            case HubModel():
                _copy_model(params.base.local_folder or _fetch(model, params.base.folder))
            case LocalModel():
                check_digest(params.base)
                _copy_model(Path(params.base.folder) / model.path)
        ranks.wait()
        rows = evaluate_policy(params, identity, paths.BASE_MODEL, teacher=True, ranks=ranks)
        with replaced_folder(paths.BASE_EVALUATIONS) as folder:
            write_evaluations(folder / "sampled.parquet", rows)
            origin = {str(path): hash_files([path], path) for path in (paths.PREPARED, paths.BASE_MODEL)}
            note_folder(folder, paths.BASE_EVALUATIONS.name, made_from=origin)
        summary = summarise(rows)
        write_json(paths.BASE_METRICS, summary)
        log_answers(tracked, rows)
        tracked.log_step(
            0, {f"base/{way}/{name}": value for way, shares in summary.items() for name, value in shares.items()}
        )


def _from_scratch(params: Params, recipe: ScratchModel) -> None:
    source = params.data.train
    assert isinstance(source, SyntheticSource), "checked when params.yaml was read"
    set_threads(params.train.threads)
    device = device_type(params.train.device)
    tokenizer = load_tokenizer(paths.TOKENIZER)
    held_out = frozenset(
        row.problem for rows in read_problem_sets(paths.PREPARED, params.data).values() for row in rows
    )
    policy = pretrain(recipe, source.families, params.prompts, tokenizer, held_out, device)
    save_model(policy, tokenizer, paths.BASE_MODEL)


def _fetch(model: HubModel, folder: str) -> Path:
    try:
        return Path(snapshot_download(model.id, revision=model.revision, allow_patterns=WEIGHTS_AND_TOKENIZER))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise UserError(
            f"base.model.id {model.id} at revision {model.revision} is neither cached nor reachable ({error}): check "
            f"id, revision and network, or put its files into {folder}/{model.id}"
        ) from None


def _copy_model(source: Path) -> None:
    if not source.is_dir():
        raise UserError(f"{source} is no folder: base.model.path must name a model folder below base.folder")
    load_tokenizer(source)
    load_model(source)
    with replaced_folder(paths.BASE_MODEL) as folder:
        for file in model_files(source):
            shutil.copy(file, folder / file.name)
