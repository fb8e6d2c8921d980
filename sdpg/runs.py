"""The train stage: from params.yaml, data and base to a run folder."""

from pathlib import Path
import shutil
from typing import Any

from ruamel.yaml import YAML

from sdpg import paths
from sdpg.checkpoints import load_checkpoint
from sdpg.errors import UserError
from sdpg.evaluation import accuracies, read_problem_sets
from sdpg.files import replaced_file, replaced_folder, write_json, write_text
from sdpg.models import can_share_lines, load_model, save_model, set_threads
from sdpg.params import Params
from sdpg.policies import Policies
from sdpg.prompts import longest_prompt, read_prepared
from sdpg.provenance import fingerprint, git_diff, git_state, hardware, hash_files, loaded_code, versions
from sdpg.records import read_evaluations
from sdpg.rewards import Verifier
from sdpg.rollouts.engines import make_engine
from sdpg.tokenizer import load_tokenizer, pad_and_eos
from sdpg.tracking import StageRun, stage_run
from sdpg.trainer import DTYPES, Trainer
from sdpg.watch import read_history, watch_summary


def train_sections(params: Params, method: str) -> dict[str, Any]:
    """The parts of params.yaml that a training run's result depends on; dvc.yaml lists the same for ``train``."""
    tree = params.model_dump(mode="json")
    evaluation = {key: value for key, value in tree["evaluation"].items() if key != "final_samples"}
    return {
        "method": tree["methods"][method],
        "data": {"benchmarks": list(tree["data"]["benchmarks"])},
        **{section: tree[section] for section in ("rollout", "reward", "train", "watch")},
        "evaluation": evaluation,
    }


def describe_run(params: Params, method: str, seed: int, identity: str, inputs: dict[str, str]) -> dict[str, Any]:
    """What a run hangs on, as stored in its config.yaml."""
    return {
        "run": f"{method}-{seed}",
        "method": method,
        "seed": seed,
        "fingerprint": identity,
        "params": params.model_dump(mode="json"),
        "inputs": inputs,
        "git": git_state(),
        "diff": git_diff(),
        "code": loaded_code(),
        "versions": versions(),
        "hardware": hardware(),
        "command": f"dvc repro train@{method}-{seed}",
    }


def train_run(params: Params, method: str, seed: int) -> Path:
    """Trains one method with one seed, resuming an interrupted run of the same fingerprint; returns its folder."""
    if method not in params.methods:
        raise UserError(
            f"method {method!r} is not under methods in params.yaml; there are: {', '.join(params.methods)}"
        )
    set_threads(params.train.threads)
    inputs = {
        str(path): hash_files([path], path) for path in (paths.PREPARED, paths.BASE_MODEL, paths.BASE_EVALUATIONS)
    }
    sections = train_sections(params, method)
    identity = fingerprint(method, seed, sections, inputs, loaded_code(), versions())
    state = paths.STATE / identity
    config = describe_run(params, method, seed, identity, inputs)
    with (
        stage_run(
            params, "train", f"{method}-{seed}", identity,
            {Path(name).name: (Path(name), digest) for name, digest in inputs.items()}, sections, resume=state.exists(),
        ) as tracked,
        Verifier(params.reward) as verifier,
    ):  # fmt: skip
        trainer = make_trainer(params, method, seed, state, verifier, tracked)
        # Written first, so that a run in progress says what it is to whoever looks at it.
        write_config(state, config)
        trainer.train()
        folder = assemble(trainer, config)
        for name in ("config.yaml", "metrics.csv", "curves.csv", "timing.csv", "summary.json"):
            tracked.log_artifact(folder / name)
    # The state stays until the tables are made: were this process killed before DVC has taken the outputs into its
    # cache, the run could not be had again without training.
    return folder


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Writes ``config.yaml``, what a run hangs on, into a folder that need not be there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with replaced_file(folder / "config.yaml") as temporary, temporary.open("w", encoding="utf-8") as file:
        YAML().dump(config, file)


def make_trainer(params: Params, method: str, seed: int, state: Path, verifier: Verifier, tracked: StageRun) -> Trainer:
    """The trainer of one run, with base, data and problem sets read from where the stages left them."""
    tokenizer = load_tokenizer(paths.BASE_MODEL)
    pad_id, _ = pad_and_eos(tokenizer)
    student = load_model(paths.BASE_MODEL)
    if params.train.line_tokens and not can_share_lines(student):
        raise UserError(
            f"train.line_tokens is {params.train.line_tokens}, but the base's attention is not plain full attention by "
            "sdpa in every layer, so that siblings on one line would see each other: set it to 0"
        )
    settings = params.methods[method]
    needed = settings.reference != "none" or params.train.record_rows > 0 or settings.teacher == "reference"
    reference = load_model(paths.BASE_MODEL).requires_grad_(False) if needed else None
    problems, sets = read_prepared(paths.PREPARED / "train.jsonl"), read_problem_sets(paths.PREPARED, params.data)
    return Trainer(
        params=params,
        name=method,
        method=settings,
        seed=seed,
        state=state,
        policies=Policies(
            student,
            reference,
            pad_id,
            params.rollout.temperature,
            DTYPES[params.train.dtype],
            params.train.head_megabytes << 20,
            params.train.line_tokens,
        ),
        tokenizer=tokenizer,
        engine=make_engine(
            params.rollout,
            student,
            tokenizer,
            params.rollout.batch,
            longest_prompt([problems, *sets.values()]) + max(params.rollout.max_tokens, params.evaluation.max_tokens),
            DTYPES[params.train.dtype],
        ),
        verifier=verifier,
        problems=problems,
        sets=sets,
        base_accuracies=base_accuracies(),
        on_step=tracked.log_step,
    )


def base_accuracies() -> dict[str, float]:
    """Accuracy of the base per benchmark and on validation, sampled: step 0 of every method's curves."""
    rows = read_evaluations(
        paths.BASE_EVALUATIONS / "sampled.parquet", ["method", "benchmark", "status", "temperature"]
    )
    return accuracies([row for row in rows.to_pylist() if row["method"] == "base" and row["temperature"] > 0])


def assemble(trainer: Trainer, config: dict[str, Any]) -> Path:
    """Builds the run folder from finished work in progress and renames it into place; COMPLETE is written last."""
    state, target = trainer.state, paths.run_folder(trainer.name, trainer.seed)
    load_checkpoint(state, trainer.policies.student, trainer.optimizer)
    with replaced_folder(target) as folder:
        for name in ("metrics.csv", "curves.csv", "timing.csv"):
            shutil.copy(state / name, folder / name)
        for name in ("rollouts", "evaluations"):
            shutil.copytree(state / name, folder / name)
        save_model(trainer.policies.student, trainer.tokenizer, folder / "policy")
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
        write_text(folder / "COMPLETE", config["fingerprint"] + "\n")
    return target
