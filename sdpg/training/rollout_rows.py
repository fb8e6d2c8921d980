"""Turns a finished step into the rows of its Parquet file: values per response, and columns of values per token.

Axes: B rollouts of the step, N response tokens of them all.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pyarrow as pa
import torch

from sdpg.models.columns import TokenColumn, join_columns
from sdpg.problems.prompts import PreparedRow
from sdpg.problems.token_pieces import TokenPieces
from sdpg.records.schemas import TOKEN_SIGNALS, TOP_TOKENS
from sdpg.training.steps import Sampled, Step

TRAINED = ("logprob", "entropy", "weight", "loss")
"""The values per token that come from the training pass if there was one, and from the diagnostic pass otherwise."""


def rollout_rows(step: Step, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the values per response of :data:`sdpg.records.schemas.ROLLOUT_SCHEMA`, in the order of the rollouts.

    Args:
        step: the finished step, on the first rank.
        identity: run, method, seed, step, and the verifier and version that judged the rollouts.
    """
    experience, siblings = step.experience, step.siblings
    advantages, gates = experience.advantages.tolist(), experience.gates.tolist()
    rows = []
    for index, (text, verdict) in enumerate(zip(step.sampled.texts, step.verdicts, strict=True)):
        problem, ids = step.sampled.problems[index // siblings], experience.responses[index]
        rows.append(
            {
                **identity,
                "problem_id": problem.id,
                "group": index // siblings,
                "sibling": index % siblings,
                "student_prompt": problem.student_prompt,
                "completion": text,
                "reward": verdict.reward,
                **{f"reward_{part}": values[index] for part, values in step.parts.items()},
                "status": str(verdict.status),
                "reason": verdict.reason or None,
                "extracted_answer": verdict.extracted_answer,
                "gold": problem.answer,
                "advantage": advantages[index],
                "gate": gates[index],
                "length": len(ids),
                "truncated": step.sampled.truncated[index],
                **_shown(step.sampled, index, problem),
            }
        )
    return rows


def _shown(sampled: Sampled, index: int, problem: PreparedRow) -> dict[str, Any]:
    """Returns what the teacher was shown on a rollout: the problem's prepared prompt unless hints were drawn."""
    found: dict[str, Any] = {"teacher_prompt": problem.teacher_prompt}
    if sampled.hints is not None:
        hint = sampled.hints[index]
        found = {"teacher_prompt": hint.prompt, "hint_kind": hint.kind, "hint_sibling": hint.sibling}
    if sampled.contrasts is not None:
        first, *others = (hints[index] for hints in sampled.contrasts)
        found |= {"contrast_prompt": first.prompt, "contrast_sibling": first.sibling}
        if others:
            found["contrast_others"] = [hint.sibling for hint in others if hint.sibling is not None]
    return found


def token_columns(step: Step, pieces: TokenPieces) -> dict[str, pa.ListArray]:
    """Returns the columns per token of the same rows, (B) lists each; the schema's other columns per token are null."""
    responses = [np.array(ids, np.int32) for ids in step.experience.responses]
    lengths = np.array([len(ids) for ids in responses])
    tokens, starts, ends = pieces.spans(responses, step.sampled.texts)
    found = {
        "completion_ids": _lists(lengths, pa.array(np.concatenate(responses))),
        "tokens": _lists(lengths, tokens),
        "token_starts": _lists(lengths, starts),
        "token_ends": _lists(lengths, ends),
    }
    updated, diagnosed = step.columns
    signals = {name: column for name, column in diagnosed.items() if name in TOKEN_SIGNALS}
    for name in TRAINED:
        if name in updated:
            signals[name] = _over(updated[name], signals.get(name))
    signals["rollout_logprob"] = step.rollout_logprob
    found |= {name: _signal_lists(column, len(responses)) for name, column in signals.items()}
    for name in TOP_TOKENS:
        found |= _top_lists(name, diagnosed, len(responses), pieces)
    return found


def _top_lists(
    name: str, columns: Mapping[str, TokenColumn], count: int, pieces: TokenPieces
) -> dict[str, pa.ListArray]:
    """Returns the lists of a name's most probable tokens and of their log-probs; nothing where none were recorded."""
    ids = [columns[f"{name}_{place}"] for place in range(_ranks(name, columns))]
    if not ids:
        return {}
    logprobs = [columns[f"{name}_logprob_{place}"] for place in range(len(ids))]
    texts = [pieces.piece(token) for token in torch.stack([each.values for each in ids], 1).flatten().int().tolist()]
    values = torch.stack([each.values for each in logprobs], 1).flatten()
    wide = TokenColumn(ids[0].rows, [length * len(ids) for length in ids[0].lengths], values)
    lengths, absent = _where(wide, count)
    return {
        name: _lists(lengths, pa.array(texts, pa.string()), absent),
        f"{name}_logprob": _signal_lists(wide, count),
    }


def _ranks(name: str, columns: Mapping[str, TokenColumn]) -> int:
    """Returns k: how many columns there are of a name's most probable tokens."""
    return sum(each.startswith(f"{name}_logprob_") for each in columns)


def _over(first: TokenColumn, second: TokenColumn | None) -> TokenColumn:
    """Returns the first column, and the second one's values of rollouts that the first lacks."""
    rest = set(second.rows) - set(first.rows) if second else set()
    if second is None or not rest:
        return first
    return join_columns([{"": first}, {"": second.only(rest)}])[""]


def _signal_lists(column: TokenColumn, count: int) -> pa.ListArray:
    """Returns one list for each of ``count`` rollouts; it is null where the column lacks the rollout."""
    lengths, absent = _where(column, count)
    return _lists(lengths, pa.array(column.values.numpy()), absent)


def _where(column: TokenColumn, count: int) -> tuple[NDArray[np.int64], pa.Array]:
    """Returns the length of each of ``count`` rollouts, 0 where the column lacks it, and whether it lacks it."""
    lengths, absent = np.zeros(count, np.int64), np.ones(count, bool)
    lengths[column.rows], absent[column.rows] = column.lengths, False
    return lengths, pa.array(absent)


def _lists(lengths: NDArray[np.int64], values: pa.Array, absent: pa.Array | None = None) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values, mask=absent)
