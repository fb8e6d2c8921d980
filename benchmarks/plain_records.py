"""The former way of what a step does around its passes: one token, one Python number at a time.

It is the rival of ``python -m benchmarks step_overhead``, and what tests compare the faster way with.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sdpg.models.columns import TokenColumn
from sdpg.problems.prompts import PreparedRow
from sdpg.records.schemas import ROLLOUT_SCHEMA, TOKEN_SIGNALS
from sdpg.training.leakage import WordRuns, copied_words, words
from sdpg.training.rollout_rows import TRAINED, rollout_rows
from sdpg.training.steps import Step

Lists = Mapping[int, list[float]]


def token_spans(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[list[str], list[int], list[int]]:
    """Returns each token's piece of the text, its start and its end; every token is decoded by itself."""
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
        last = max((index for index, token in enumerate(ids) if token not in special), default=len(ids) - 1)
        tokens[last], ends[last] = text[starts[last] :], len(text)
        starts[last + 1 :] = ends[last + 1 :] = [len(text)] * (len(ids) - last - 1)
    return tokens, starts, ends


def rows_with_tokens(step: Step, identity: dict[str, Any], tokenizer: Any) -> list[dict[str, Any]]:
    """Returns the rows of a step's records, with a Python list for each column per token."""
    updated, diagnosed = ({name: column.lists() for name, column in columns.items()} for columns in step.columns)
    rows = rollout_rows(step, identity)
    for index, (row, ids) in enumerate(zip(rows, step.experience.responses, strict=True)):
        signals: dict[str, Any] = {name: diagnosed.get(name, {}).get(index) for name in TOKEN_SIGNALS}
        signals["rollout_logprob"] = step.experience.rollout_logprobs[index]
        for name in TRAINED:
            signals[name] = updated.get(name, {}).get(index, signals[name])
        tokens, starts, ends = token_spans(tokenizer, ids, row["completion"])
        row |= {"completion_ids": ids, "tokens": tokens, "token_starts": starts, "token_ends": ends} | signals
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows."""
    table = pa.Table.from_pylist(rows, schema=ROLLOUT_SCHEMA)
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def token_metrics(step: Step) -> dict[str, float | None]:
    """Returns the metrics of a step that are means and counts over tokens."""
    columns, sampled = step.update.columns, step.experience.rollout_logprobs
    values = {name: column.lists() for name, column in columns.items()}
    exact, trained, reference = (values.get(name, {}) for name in ("entropy", "logprob", "ref_logprob"))
    entropies = [v for row, numbers in enumerate(sampled) for v in exact.get(row) or [-value for value in numbers]]
    mismatch = [abs(a - b) for row in trained for a, b in zip(trained[row], sampled[row], strict=True)]
    log_w = [a - b for row in reference for a, b in zip(trained[row], reference[row], strict=True)]
    found = {
        "entropy": mean(entropies), "sampler_mismatch": mean(mismatch),
        "sampler_mismatch_max": max(mismatch, default=None),
        "kl_to_reference_k1": mean(log_w), "kl_to_reference_k3": mean([math.expm1(-v) + v for v in log_w]),
        "kl_to_teacher_gated": column_mean(columns, "kl_gated"), "ratio": column_mean(columns, "ratio"),
        "kl_to_teacher_sampled": column_mean(step.diagnosed, "kl_to_teacher"),
    }  # fmt: skip
    if "clipped" not in values:
        return found
    advantages = step.experience.advantages.tolist()
    tokens = [
        (a, rho)
        for row, cuts in values["clipped"].items()
        for cut, a, rho in zip(cuts, [advantages[row]] * len(cuts), values["ratio"][row], strict=True)
        if cut
    ]
    kinds = Counter("high" if a > 0 else "low" if rho < 1 else "dual" for a, rho in tokens)
    count = len(columns["ratio"].values)
    shares = {f"clip_fraction_{kind}": kinds[kind] / count for kind in ("low", "high", "dual")}
    return found | {"clip_fraction": kinds.total() / count} | shares


def repeats(texts: Sequence[str], problem: PreparedRow, span_words: int) -> list[bool]:
    """Says of each response whether it repeats so many words of the problem's solution; all are read word by word."""
    solution, prompt = WordRuns(words(problem.solution)), WordRuns(words(problem.student_prompt))
    return [copied_words(words(text), solution, prompt) >= span_words for text in texts]


def column_mean(columns: Mapping[str, TokenColumn], name: str) -> float | None:
    """Returns the mean of a column, or None where there is none."""
    return mean(columns[name].values.tolist()) if name in columns else None


def mean(values: Sequence[float]) -> float | None:
    """Returns the mean of numbers, or None of none."""
    return math.fsum(values) / len(values) if values else None


def merged(parts: Sequence[Lists]) -> dict[int, list[float]]:
    """Returns the lists of several ranks together, through one tensor of float64 for each."""
    found: dict[int, list[float]] = {}
    for part in parts:
        lengths = [len(values) for values in part.values()]
        joined = torch.tensor([value for values in part.values() for value in values], dtype=torch.float64)
        pieces = [piece.tolist() for piece in joined.split(lengths)]
        found.update(zip(part, pieces, strict=True))
    return found
