"""Runs the train stage: from params.yaml, data and base to a run folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import shutil
from typing import Any

from accelerate import FullyShardedDataParallelPlugin
from ruamel.yaml import YAML
import torch

from sdpg import paths
from sdpg.devices import device_type
from sdpg.errors import UserError
from sdpg.evaluation.evaluation import accuracies, read_problem_sets
from sdpg.files import make_folder, replaced_file, replaced_folder, write_json, write_text
from sdpg.locks import exclusive
from sdpg.models.adapters import WithoutAdapter, add_adapter, full_weights, has_adapter, save_adapter
from sdpg.models.distribution import checkpoint_activations, fill_shards, is_sharded, joined, replicate, shard
from sdpg.models.loading import check_lines, empty_model, load_model, save_model, set_threads, take_over
from sdpg.models.passes import Policies
from sdpg.models.ranks import SOLO, Ranks
from sdpg.models.teachers import TeacherWeights
from sdpg.objective.choices import deviations
from sdpg.objective.coefficients import keeps_teacher_weights, needs_reference_weights
from sdpg.params import Params
from sdpg.problems.prompts import longest_prompt, prompt_ids, read_prepared
from sdpg.problems.tokenizer import load_tokenizer, pad_and_eos
from sdpg.records.manifest import note_folder
from sdpg.records.provenance import described_versions, fingerprint, git_diff, git_state, hardware, versions
from sdpg.records.run_inputs import own_parts, read_parameters, run_inputs, stage_code, train_sections
from sdpg.records.schemas import VALIDATION, read_evaluations, read_rollouts
from sdpg.records.tables import DIGESTS
from sdpg.records.tracking import Parent, StageRun, stage_run
from sdpg.records.watch import read_history, watch_summary
from sdpg.rewards.own import make_verifier
from sdpg.rewards.verifiers import Scorer
from sdpg.rollouts.canary import EXAMPLES
from sdpg.rollouts.engines import make_engine
from sdpg.rollouts.shared import SharedEngine, SharedVerifier
from sdpg.rollouts.vllm_in_process import close_engine
from sdpg.training.checkpoints import load_checkpoint
from sdpg.training.trainer import DTYPES, Trainer

SHOWN_OF_ROLLOUTS = [
    "step", "problem_id", "sibling", "student_prompt", "teacher_prompt", "completion", "status", "extracted_answer",
    "gold", "reward", "advantage", "gate", "length",
]  # fmt: skip
"""The columns of the rollouts that MLflow's pages show; all others are in the run's records."""


@dataclass(frozen=True)
class RunOverrides:
    """The differences of a trial, or of a retraining on fresh seeds, from a run of the pipeline."""

    folder: Path
    """The run folder, instead of ``runs/<method>-<seed>``."""
    name: str
    """The run's name in its records."""
    identity: tuple[Any, ...]
    """The values that tell the run from others of the same parameters, which would share its work in progress."""
    command: str
    """The command that makes the run again."""
    sets: tuple[str, ...]
    """The problem sets that are evaluated in training."""
    parent: Parent
    """The MLflow run under which the run is shown."""
    keep_policy: bool = False
    stop: Callable[[Path, int, bool], bool] = lambda state, step, evaluated: False
    """The function that is called with (work in progress, step, whether that step was evaluated) after each step; if it
    returns True, training ends."""


def describe_run(
    params: Params, method: str, seed: int, identity: str, inputs: dict[str, str], overrides: RunOverrides | None = None
) -> dict[str, Any]:
    """Returns what a run depends on, as stored in its config.yaml."""
    return {
        "run": overrides.name if overrides else f"{method}-{seed}",
        "method": method,
        "seed": seed,
        "fingerprint": identity,
        "params": params.model_dump(mode="json"),
        "inputs": inputs,
        "git": git_state(),
        "diff": git_diff(),
        "code": stage_code("train", params, method).digest,
        "own_parts": own_parts(params, method),
        "deviations": _deviations(params, method),
        "versions": described_versions(),
        "hardware": hardware() | {"device": device_type(params.train.device)},
        "command": overrides.command if overrides else f"dvc repro train@{method}-{seed}",
    }


def _deviations(params: Params, method: str) -> list[dict[str, str]] | None:
    """Returns how the run differs from the presets; None where these are not at hand, or do not fit the parameters."""
    try:
        return [vars(each) for each in deviations(params, method)]
    except UserError:
        return None


def run_identity(
    params: Params, method: str, seed: int, inputs: dict[str, str], overrides: RunOverrides | None = None
) -> str:
    """Returns the fingerprint under which the work in progress of a run lies."""
    code, more = stage_code("train", params, method).digest, overrides.identity if overrides else ()
    # A GPU rounds otherwise than a CPU: where auto finds another device, a run starts anew.
    device = device_type(params.train.device)
    return fingerprint(method, seed, train_sections(params, method), inputs, code, versions(), device, *more)


def train_run(
    params: Params,
    method: str,
    seed: int,
    overrides: RunOverrides | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    until: int | None = None,
) -> Path | None:
    """Trains one method with one seed, resuming an interrupted run of the same fingerprint; returns its folder.

    Every process of ``train.distributed`` calls this. The first alone writes and tracks; on the others the result is
    None.

    Raises:
        Interrupted: if ``interrupted`` returned True, on any process, before the last step, or step ``until`` was not
            the last one.
    """
    if method not in params.methods:
        raise UserError(
            f"method {method!r} is not under methods in params.yaml; there are: {', '.join(params.methods)}"
        )
    set_threads(params.train.threads)
    with joined(params.train.distributed, params.train.device) as ranks, make_verifier(params.reward) as verifier:
        if not ranks.first:
            state = paths.STATE / ranks.from_first(None)
            trainer = make_trainer(params, method, seed, state, verifier, lambda step, metrics: None, ranks)
            trainer.interrupted, trainer.until = interrupted, until
            trainer.train()
            close_engine()
            return None
        inputs = run_inputs()
        identity = run_identity(params, method, seed, inputs, overrides)
        state = paths.STATE / identity
        config = describe_run(params, method, seed, identity, inputs, overrides)
        datasets = {Path(name).name: (Path(name), digest) for name, digest in inputs.items()}
        target = overrides.folder if overrides else paths.run_folder(method, seed)
        with exclusive(state, target), stage_run(
            params, "train", config["run"], identity, datasets, read_parameters(params, method, seed),
            resume=state.exists(), under=overrides.parent if overrides else None, of=(method, seed),
        ) as tracked:  # fmt: skip
            # The others wait for this: the first alone knows that no other command writes this run.
            ranks.from_first(identity)
            trainer = make_trainer(params, method, seed, state, verifier, tracked.log_step, ranks)
            trainer.interrupted, trainer.until = interrupted, until
            if overrides:
                _apply_overrides(trainer, overrides, tracked)
            # The config is written first, so that a run in progress says what it is to anybody who looks at it.
            write_config(state, config)
            trainer.train()
            keep = overrides is None or overrides.keep_policy
            folder = assemble(trainer, config, overrides and overrides.folder, keep_policy=keep)
            for name in ("config.yaml", "metrics.csv", "curves.csv", "timing.csv", "summary.json"):
                tracked.log_artifact(folder / name)
            log_finished(tracked, config["run"], folder)
        close_engine()
    # The state stays until the tables are made: if this process were killed before DVC has put the outputs into its
    # cache, the run would otherwise have to be trained again.
    return folder


def log_finished(tracked: StageRun, name: str, folder: Path) -> None:
    """Logs what a finished run holds beside its metrics: times of its steps, rollouts of the last one, the policy."""
    times = read_history(folder / "timing.csv")
    tracked.log_steps([dict(zip(times, row, strict=True)) for row in zip(*times.values(), strict=True)])
    if last := sorted((folder / "rollouts").glob("*.parquet")):
        tracked.log_table("rollouts", read_rollouts(last[-1], SHOWN_OF_ROLLOUTS).to_pylist(), SHOWN_OF_ROLLOUTS)
    if (folder / "policy").is_dir():
        tracked.log_policy(name, folder / "policy")


def _apply_overrides(trainer: Trainer, overrides: RunOverrides, tracked: StageRun) -> None:
    """Makes the trainer evaluate the overrides' problem sets alone, and end when the overrides say so."""

    def on_step(step: int, metrics: dict[str, float | None]) -> bool:
        tracked.log_step(step, metrics)
        return overrides.stop(trainer.state, step, any(name.startswith("accuracy/") for name in metrics))

    trainer.sets = {name: trainer.sets[name] for name in overrides.sets}
    trainer.on_step = on_step


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes ``config.yaml``, which says what a run depends on, into a folder, and makes the folder if needed."""
    make_folder(folder)
    with replaced_file(folder / "config.yaml") as temporary, temporary.open("w", encoding="utf-8") as file:
        YAML().dump(config, file)


def make_trainer(
    params: Params,
    method: str,
    seed: int,
    state: Path,
    verifier: Scorer,
    on_step: Callable[[int, dict[str, float | None]], bool | None],
    ranks: Ranks = SOLO,
) -> Trainer:
    """Returns the trainer of one run, with base, data and problem sets read from the outputs of the earlier stages."""
    params = params.for_method(method)
    train, settings = params.train, params.methods[method]
    tokenizer = load_tokenizer(paths.BASE_MODEL)
    referred, kept = needs_reference_weights(settings, train), keeps_teacher_weights(settings)
    sharded = train.distributed.strategy == "fsdp2"
    device = torch.device(device_type(train.device))
    # No process ever holds the whole of what is sharded.
    load = empty_model if sharded else partial(load_model, device=device)
    student, at_base = load(paths.BASE_MODEL), base_accuracies()
    # With an adapter, the other policies are the student in another state.
    others = [load(paths.BASE_MODEL).requires_grad_(False) if needed and not train.lora else None
              for needed in (referred, kept)]  # fmt: skip
    reference, teacher = others
    if train.lora:
        add_adapter(student, train.lora, seed)
        reference = WithoutAdapter(student)
    check_lines(student, train.line_tokens)
    if train.activation_checkpointing:
        checkpoint_activations(student)
    sampler, weights = student, None
    if sharded:
        plugin = FullyShardedDataParallelPlugin()
        for model in filter(None, (student, *others)):
            shard(model, device, DTYPES[train.dtype], plugin)
            fill_shards(model, paths.BASE_MODEL)
        if params.rollout.engine == "transformers":
            # transformers' generate cannot run on shards.
            sampler, weights = load_model(paths.BASE_MODEL, device), partial(full_weights, student)
    problems, sets = read_prepared(paths.PREPARED / "train.jsonl"), read_problem_sets(paths.PREPARED, params.data)
    longest = longest_prompt([problems, *sets.values()]) + max(params.rollout.max_tokens, params.evaluation.max_tokens)
    examples = [prompt_ids(tokenizer, row.student_prompt) for row in problems[:EXAMPLES]]
    engine = make_engine(
        params.rollout, sampler, tokenizer, params.rollout.batch, longest, DTYPES[train.dtype], weights, examples
    )
    return Trainer(
        params=params,
        name=method,
        method=settings,
        seed=seed,
        state=state,
        policies=Policies(
            student,
            reference,
            pad_and_eos(tokenizer)[0],
            params.rollout.temperature,
            DTYPES[train.dtype],
            train.head_megabytes << 20,
            train.line_tokens,
            ranks,
            replicate(student) if train.distributed.strategy == "ddp" else None,
            TeacherWeights(settings, student, teacher, at_base[VALIDATION]) if kept else None,
        ),
        tokenizer=tokenizer,
        engine=SharedEngine(engine, ranks),
        verifier=SharedVerifier(verifier, ranks),
        problems=problems,
        sets=sets,
        base_accuracies=at_base,
        on_step=on_step,
    )


def base_accuracies() -> dict[str, float]:
    """Returns the base's sampled accuracy per benchmark and on validation: step 0 of every method's curves."""
    rows = read_evaluations(
        paths.BASE_EVALUATIONS / "sampled.parquet", ["method", "benchmark", "status", "temperature"]
    )
    return accuracies([row for row in rows.to_pylist() if row["method"] == "base" and row["temperature"] > 0])


def save_policy(policy: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a model folder in the form of the base's; an adapter is merged into it, and lies beside it in
    ``adapter/``."""
    if not has_adapter(policy):
        save_model(policy, tokenizer, folder)
        return
    merged = load_model(paths.BASE_MODEL)
    take_over(merged, full_weights(policy))
    save_model(merged, tokenizer, folder)
    save_adapter(policy, folder / "adapter")


def assemble(trainer: Trainer, config: dict[str, Any], target: Path | None = None, keep_policy: bool = True) -> Path:
    """Builds the run folder from finished work in progress and renames it into place; its manifest and COMPLETE are
    written last."""
    state, target = trainer.state, target or paths.run_folder(trainer.name, trainer.seed)
    policy = trainer.policies.student
    if is_sharded(policy):
        # A checkpoint holds whole weights, and this process has only its part of them.
        policy = load_model(paths.BASE_MODEL)
        if lora := trainer.params.train.lora:
            add_adapter(policy, lora, trainer.seed)
    load_checkpoint(state, policy)
    with replaced_folder(target) as folder:
        for name in ("metrics.csv", "curves.csv", DIGESTS, "timing.csv"):
            shutil.copy(state / name, folder / name)
        for name in ("rollouts", "evaluations"):
            shutil.copytree(state / name, folder / name)
        if keep_policy:
            save_policy(policy, trainer.tokenizer, folder / "policy")
        write_config(folder, config)
        last = (state / "curves.csv").read_text(encoding="utf-8").splitlines()
        names, values = last[0].split(","), last[-1].split(",")
        watched = watch_summary(read_history(state / "metrics.csv"), trainer.params.watch)
        write_json(
            folder / "summary.json",
            {"method": trainer.name, "seed": trainer.seed, "steps": int(values[0]),
             "accuracy": {name: float(value) for name, value in zip(names[1:], values[1:], strict=True)},
             "watch": watched.numbers()},
        )  # fmt: skip
        note_folder(folder, target.name, config["fingerprint"], config["inputs"])
        write_text(folder / "COMPLETE", config["fingerprint"] + "\n")
    return target
