"""From a step's rollouts to Parquet rows, with the teacher's and the reference's view of a sample of them.

Training runs no teacher pass where the gate is closed. So that every kind of rollout can be looked at, a pass without
gradient scores ``record_rows`` sampled rollouts under teacher and reference; it happens before the update, draws from a
random source of its own, and cannot change training.
"""

from collections.abc import Sequence
import random
from typing import Any

import torch

from sdpg.models.experience import Experience, Signals
from sdpg.models.passes import Policies
from sdpg.params import MethodParams
from sdpg.params.train import TrainParams
from sdpg.problems.prompts import PreparedRow
from sdpg.records.schemas import TOKEN_SIGNALS
from sdpg.rewards.verifiers import Verdict

DIAGNOSED = ("logprob", "entropy", "ref_logprob", "teacher_logprob", "kl_to_teacher")
"""What the diagnostic pass finds per token."""


def sample_rows(count: int, wanted: int, seed: int) -> list[int]:
    """Which rollouts of a step get teacher, reference and KL per token."""
    return sorted(random.Random(seed).sample(range(count), min(wanted, count)))


@torch.no_grad()
def diagnose(
    policies: Policies, experience: Experience, rows: Sequence[int], method: MethodParams, train: TrainParams
) -> dict[int, dict[str, list[float]]]:
    """Scores rows under student, reference and teacher: row → signal → one value per response token, on every rank.

    A method without a teacher of its own is shown the current weights with the privileged prompt.
    """
    # Whatever the method distils, what is recorded is D_KL(p‖q).
    method = method.model_copy(update={"distillation": "kl_student_teacher"})
    found: dict[str, dict[int, list[float]]] = {name: {} for name in DIAGNOSED}
    for one in policies.rounds(experience, rows, experience.student_prompts, train.tokens_per_micro_batch):
        places = experience.token_places(one.rows, one.batch.targets.device)
        teacher = policies.privileged(experience, places, one.everyone, method, train)
        _, student = policies.read(policies.student, one.batch, teacher=teacher)
        _, reference = policies.read(policies.reference, one.batch)
        if not one.rows:
            continue
        joined = (student.logprobs, student.entropy, reference.logprobs, student.teacher_logprobs, student.divergence)
        lengths = [len(experience.responses[row]) for row in one.rows]
        for name, values in zip(DIAGNOSED, joined, strict=True):
            parts = values.float().cpu().split(lengths)
            found[name].update((row, part.tolist()) for row, part in zip(one.rows, parts, strict=True))
    # Row by row, from all ranks.
    everyones = {name: policies.ranks.lists(values) for name, values in found.items()}
    return {row: {name: values[row] for name, values in everyones.items()} for row in rows}


def token_spans(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[list[str], list[int], list[int]]:
    """Each token's piece of the completion with its start and end; special tokens are named and have no width.

    A character whose bytes are spread over several tokens belongs to the last of them.
    """
    special = set(tokenizer.all_special_ids)
    tokens, starts, ends, cursor = [], [], [], 0
    for index, token in enumerate(ids):
        piece = tokenizer.decode([token])
        end = cursor
        if token not in special:
            if "�" not in piece and text.startswith(piece, cursor):
                end = cursor + len(piece)
            else:
                whole = tokenizer.decode(list(ids[: index + 1]), skip_special_tokens=True).rstrip("�")
                end = max(cursor, min(len(whole), len(text)))
            piece = text[cursor:end]
        tokens.append(piece)
        starts.append(cursor)
        ends.append(end)
        cursor = end
    if cursor < len(text):
        # The response breaks off inside a character; what decoding shows instead belongs to the last ordinary token.
        last = max(index for index, token in enumerate(ids) if token not in special)
        tokens[last], ends[last] = text[starts[last] :], len(text)
        starts[last + 1 :] = ends[last + 1 :] = [len(text)] * (len(ids) - last - 1)
    return tokens, starts, ends


def rollout_rows(
    identity: dict[str, Any],
    tokenizer: Any,
    prepared: Sequence[PreparedRow],
    experience: Experience,
    texts: Sequence[str],
    verdicts: Sequence[Verdict],
    signals: Signals,
    diagnosed: dict[int, dict[str, list[float]]],
) -> list[dict[str, Any]]:
    """Rows of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`, in the order of the rollouts.

    Args:
        identity: run, method, seed, step, and by which verifier in which version the rollouts were judged.
        tokenizer: of the policy.
        prepared: (P) the step's problems.
        experience: (B) rollouts.
        texts: (B) decoded completions.
        verdicts: (B).
        signals: per-token values of the training passes.
        diagnosed: per-token values of the diagnostic pass; the other rows have null there.
    """
    siblings = len(texts) // len(prepared)
    rows = []
    for index, (text, verdict) in enumerate(zip(texts, verdicts, strict=True)):
        problem = prepared[index // siblings]
        ids = experience.responses[index]
        tokens, starts, ends = token_spans(tokenizer, ids, text)
        per_token: dict[str, Any] = dict.fromkeys(TOKEN_SIGNALS)
        per_token["rollout_logprob"] = experience.rollout_logprobs[index]
        per_token |= diagnosed.get(index, {})
        for name in ("logprob", "entropy", "weight", "loss"):
            # Of the training pass where there was one.
            per_token[name] = getattr(signals, name).get(index, per_token[name])
        rows.append(
            {
                **identity,
                "problem_id": problem.id,
                "group": index // siblings,
                "sibling": index % siblings,
                "student_prompt": problem.student_prompt,
                "teacher_prompt": problem.teacher_prompt,
                "completion": text,
                "completion_ids": ids,
                "tokens": tokens,
                "token_starts": starts,
                "token_ends": ends,
                **per_token,
                "reward": verdict.reward,
                "status": str(verdict.status),
                "extracted_answer": verdict.extracted_answer,
                "gold": problem.answer,
                "advantage": float(experience.advantages[index]),
                "gate": float(experience.gates[index]),
                "length": len(ids),
                "truncated": ids[-1] != tokenizer.eos_token_id,
            }
        )
    return rows
