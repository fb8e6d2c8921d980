"""Turns a finished step into the rows of its Parquet file."""

from collections.abc import Sequence
from typing import Any

from sdpg.records.schemas import TOKEN_SIGNALS
from sdpg.training.steps import Step

TRAINED = ("logprob", "entropy", "weight", "loss")
"""The values per token that come from the training pass if there was one, and from the diagnostic pass otherwise."""


def token_spans(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[list[str], list[int], list[int]]:
    """Returns each token's piece of the completion, its start and its end; a special token has a name and zero width.

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
        # The response ends inside a character; the replacement that decoding shows belongs to the last ordinary token.
        last = max(index for index, token in enumerate(ids) if token not in special)
        tokens[last], ends[last] = text[starts[last] :], len(text)
        starts[last + 1 :] = ends[last + 1 :] = [len(text)] * (len(ids) - last - 1)
    return tokens, starts, ends


def rollout_rows(step: Step, identity: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Returns rows of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`, in the order of the rollouts.

    Args:
        step: the finished step, on the first rank.
        identity: run, method, seed, step, and the verifier and version that judged the rollouts.
        tokenizer: the policy's tokenizer.
    """
    experience, siblings = step.experience, step.siblings
    updated, diagnosed = ({name: column.lists() for name, column in columns.items()} for columns in step.columns)
    rows = []
    for index, (text, verdict) in enumerate(zip(step.sampled.texts, step.verdicts, strict=True)):
        problem, ids = step.sampled.problems[index // siblings], experience.responses[index]
        tokens, starts, ends = token_spans(tokenizer, ids, text)
        per_token: dict[str, Any] = {name: diagnosed.get(name, {}).get(index) for name in TOKEN_SIGNALS}
        per_token["rollout_logprob"] = experience.rollout_logprobs[index]
        for name in TRAINED:
            per_token[name] = updated.get(name, {}).get(index, per_token[name])
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
                "truncated": step.sampled.truncated[index],
            }
        )
    return rows
