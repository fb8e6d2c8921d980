"""Samples a finished policy generously: the evaluate stage, and the base's own evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
import sys
from typing import Any

import torch

from sdpg import paths
from sdpg.devices import device_type
from sdpg.evaluation.evaluation import Identity, accuracies, read_problem_sets
from sdpg.evaluation.portions import evaluate_in_portions
from sdpg.files import replaced_folder, write_json
from sdpg.locks import exclusive
from sdpg.models.distribution import joined
from sdpg.models.launching import on_one_machine
from sdpg.models.loading import load_model, set_threads
from sdpg.models.ranks import SOLO, Ranks
from sdpg.params import Params, RolloutParams, read_yaml
from sdpg.params.vllm import VllmInProcess
from sdpg.problems.prompts import longest_prompt
from sdpg.problems.tokenizer import load_tokenizer
from sdpg.records.manifest import check_folder, check_origin, note_folder
from sdpg.records.provenance import fingerprint, hash_files, version_differences
from sdpg.records.schemas import write_evaluations
from sdpg.records.tracking import StageRun, stage_run
from sdpg.rewards.own import make_verifier
from sdpg.rollouts.engines import make_engine
from sdpg.rollouts.vllm_in_process import close_engine

SHOWN_OF_ANSWERS = [
    "method", "benchmark", "problem_id", "temperature", "prompt", "completion", "status", "extracted_answer", "gold",
    "reward", "length",
]  # fmt: skip
"""The columns of the answers that MLflow's pages show; all others are in the records."""


def evaluate_policy(
    params: Params,
    identity: Identity,
    folder: Path,
    teacher: bool = False,
    names: Sequence[str] | None = None,
    ranks: Ranks = SOLO,
) -> list[dict[str, Any]]:
    """Samples a policy folder on all problem sets, at the evaluation temperature and greedily.

    All ranks call this, share the work, and get all rows.

    Args:
        params: the parameters; decoding and samples are read.
        identity: the leading columns of the records.
        folder: the policy's folder.
        teacher: whether the policy also answers the privileged prompt, recorded as method ``<method>-teacher``.
        names: the names of the problem sets; None takes all.
        ranks: the processes that evaluate together.
    """
    set_threads(params.train.threads)
    tokenizer = load_tokenizer(folder)
    rollout = _nobody_trains(params.rollout)
    # vLLM rounds the weights in the same way, and needs the memory.
    half = isinstance(rollout.vllm, VllmInProcess) and rollout.vllm.dtype == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    model = load_model(folder).to(device_type(params.train.device), dtype)
    sets = read_problem_sets(paths.PREPARED, params.data)
    sets = sets if names is None else {name: sets[name] for name in names}
    settings = params.evaluation
    with make_verifier(params.reward) as verifier:
        longest = longest_prompt(sets.values(), teacher) + settings.max_tokens
        sampler = make_engine(rollout, model, tokenizer, settings.batch, longest, dtype)
        # All ranks hand their weights over together, also those that no portion is left for.
        sampler.sync_weights()
        arguments = (sampler, tokenizer, verifier, sets, settings)
        rows = evaluate_in_portions(*arguments, identity, settings.final_samples, ranks)
        rows += evaluate_in_portions(*arguments, identity, 1, ranks, temperature=0.0)
        if teacher:
            privileged = Identity(identity.run, f"{identity.method}-teacher", identity.seed, identity.step)
            rows += evaluate_in_portions(*arguments, privileged, settings.final_samples, ranks, as_teacher=True)
    close_engine()
    return rows


def _nobody_trains(rollout: RolloutParams) -> RolloutParams:
    """Returns the settings under which vLLM keeps its memory between two calls."""
    if not isinstance(rollout.vllm, VllmInProcess):
        return rollout
    return rollout.model_copy(update={"vllm": rollout.vllm.model_copy(update={"sleep": False})})


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns accuracies by way of decoding: sampled, greedy, and as teacher where that was sampled."""
    ways = {
        "sampled": [r for r in rows if r["temperature"] > 0 and not r["method"].endswith("-teacher")],
        "greedy": [r for r in rows if r["temperature"] == 0],
        "teacher": [r for r in rows if r["method"].endswith("-teacher")],
    }
    return {way: accuracies(chosen) for way, chosen in ways.items() if chosen}


def log_answers(tracked: StageRun, rows: Sequence[Mapping[str, Any]]) -> None:
    """Logs the first answer to each problem, sampled and greedy, as a table that MLflow's own pages show."""
    first = [row for row in rows if row["sample"] == 0]
    tracked.log_table("answers", sorted(first, key=lambda row: row["temperature"]), SHOWN_OF_ANSWERS)


def _warn_of_environment(run: Path) -> None:
    """Says on stderr in which versions this environment differs from the one that trained a run."""
    if (run / "config.yaml").is_file() and isinstance(config := read_yaml(run / "config.yaml"), dict):
        for line in version_differences(config.get("versions")):
            sys.stderr.write(f"warning: {run}: {line}\n")


def evaluate_run(params: Params, method: str, seed: int) -> Path | None:
    """Samples the final policy of a run generously; returns the evaluation's folder.

    Every process of ``train.distributed`` calls this. The first alone writes; on the others the result is None.
    """
    run, target = paths.run_folder(method, seed), paths.evaluation_folder(method, seed)
    noted = check_folder(run, "policy/*", "config.yaml")
    _warn_of_environment(run)
    check_folder(paths.PREPARED)
    prepared = hash_files([paths.PREPARED], paths.PREPARED)
    check_origin(run, noted, {str(paths.PREPARED): prepared})
    policy = noted.digest("policy/*") if noted else hash_files([run / "policy"], run)
    inputs = {"policy": (run / "policy", policy), "prepared": (paths.PREPARED, prepared)}
    settings = params.evaluation.model_dump(mode="json")
    logged = {"method": method, "seed": seed, "base": params.base.name, "evaluation": settings}
    key = fingerprint("evaluate", method, seed, settings, {name: digest for name, (_, digest) in inputs.items()})
    identity = Identity(f"{method}-{seed}", method, seed, params.train.steps)
    with joined(on_one_machine(params.train.distributed), params.train.device) as ranks:
        if not ranks.first:
            evaluate_policy(params, identity, run / "policy", ranks=ranks)
            return None
        name = f"evaluate {method}-{seed}"
        with exclusive(target), stage_run(params, "evaluate", name, key, inputs, logged, of=(method, seed)) as tracked:
            rows = evaluate_policy(params, identity, run / "policy", ranks=ranks)
            summary = summarise(rows)
            with replaced_folder(target) as folder:
                write_evaluations(folder / "final.parquet", rows)
                write_json(folder / "summary.json", summary)
                note_folder(folder, target.name, made_from={str(paths.PREPARED): prepared, "policy": policy})
            log_answers(tracked, rows)
            tracked.log_step(
                params.train.steps,
                {f"final/{way}/{name}": value for way, shares in summary.items() for name, value in shares.items()},
            )
    return target
