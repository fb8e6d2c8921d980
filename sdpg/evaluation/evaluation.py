"""Samples a policy on problem sets and scores the answers, one record per sampled answer."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sdpg.params import DataParams, EvaluationParams
from sdpg.problems.prompts import PreparedRow, prompt_ids, read_prepared
from sdpg.problems.token_pieces import TokenPieces
from sdpg.records.schemas import VALIDATION
from sdpg.rewards.verifiers import Scorer
from sdpg.rollouts import RolloutEngine, Sampling
from sdpg.seeds import derive_seed


@dataclass(frozen=True)
class Identity:
    """The leading columns of every record, which say whose evaluation it is."""

    run: str
    method: str
    seed: int
    step: int


def read_problem_sets(prepared: Path, data: DataParams) -> dict[str, list[PreparedRow]]:
    """Returns the benchmarks in the order of params.yaml, then the validation set."""
    sets = {name: read_prepared(prepared / "benchmarks" / f"{name}.jsonl") for name in data.benchmarks}
    sets[VALIDATION] = read_prepared(prepared / "validation.jsonl")
    return sets


def evaluate(
    engine: RolloutEngine,
    tokenizer: Any,
    verifier: Scorer,
    sets: dict[str, list[PreparedRow]],
    params: EvaluationParams,
    identity: Identity,
    samples: int,
    temperature: float | None = None,
    as_teacher: bool = False,
    purpose: str = "training",
    show: bool = True,
) -> list[dict[str, Any]]:
    """Samples every problem and verifies each answer.

    Args:
        engine: the engine that holds the policy.
        tokenizer: the policy's tokenizer.
        verifier: the verifier that scores the answers.
        sets: name → problems.
        params: the decoding; its seed and the run's make the samples reproducible.
        identity: the leading columns of the records.
        samples: answers per problem.
        temperature: a temperature instead of ``params.temperature``; 0 is greedy.
        as_teacher: whether the privileged prompt is shown; problems without one are left out.
        purpose: a name; evaluations of equal step but different purpose draw different samples.
        show: whether a progress bar is shown; of several processes that evaluate together, one shows it.

    Returns:
        The rows, of :data:`sdpg.records.schemas.EVALUATION_SCHEMA`.
    """
    temperature = params.temperature if temperature is None else temperature
    asked = [
        (name, row, sample)
        for name, rows in sets.items()
        for row in rows
        for sample in range(samples)
        if not as_teacher or row.teacher_prompt is not None
    ]
    prompts = [row.teacher_prompt if as_teacher else row.student_prompt for _, row, _ in asked]
    ids = {prompt: prompt_ids(tokenizer, prompt) for prompt in set(prompts) if prompt is not None}
    sampling = Sampling(
        temperature=temperature,
        top_p=params.top_p,
        max_tokens=params.max_tokens,
        seed=derive_seed(params.seed, purpose, identity.seed, identity.step, str(temperature), int(as_teacher)),
    )
    with tqdm(total=len(asked), desc=f"evaluate {identity.run}", unit="answer", leave=False, disable=not show) as bar:
        completions = engine.generate([ids[prompt] for prompt in prompts if prompt is not None], sampling, bar.update)
    pieces = TokenPieces(tokenizer)
    texts = [pieces.text(completion.ids) for completion in completions]
    verdicts = verifier.score(
        texts, [row.answer for _, row, _ in asked], [completion.truncated for completion in completions]
    )
    return [
        {
            "run": identity.run,
            "method": identity.method,
            "seed": identity.seed,
            "step": identity.step,
            "benchmark": name,
            "problem_id": row.id,
            "sample": sample,
            "prompt": prompt,
            "completion": text,
            "status": str(verdict.status),
            "reason": verdict.reason or None,
            "reward": verdict.reward,
            "extracted_answer": verdict.extracted_answer,
            "gold": row.answer,
            "length": len(completion.ids),
            "truncated": completion.truncated,
            "temperature": temperature,
            "verifier": verifier.name,
            "verifier_version": verifier.version,
        }
        for (name, row, sample), prompt, text, completion, verdict in zip(
            asked, prompts, texts, completions, verdicts, strict=True
        )
    ]


def accuracies(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns benchmark → share of correct answers; with equal samples per problem it is the mean over problems."""
    asked = Counter(row["benchmark"] for row in rows)
    right = Counter(row["benchmark"] for row in rows if row["status"] == "correct")
    return {name: right[name] / count for name, count in asked.items()}
