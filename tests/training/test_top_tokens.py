"""Tests the most probable tokens of student and teacher in the records, against the whole distribution by hand."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from sdpg.problems.token_pieces import TokenPieces
from sdpg.problems.tokenizer import train_tokenizer
from sdpg.records.schemas import TOP_TOKENS, read_rollouts, write_rollouts
from sdpg.training.diagnostics import diagnose
from sdpg.training.rollout_rows import rollout_rows, token_columns
from tests.helpers.tiny import tiny_experience, tiny_method, tiny_policies, tiny_train
from tests.training.test_recording import IDENTITY, odd_step

ROWS, K, TEMPERATURE = list(range(12)), 4, 0.7


def by_hand(model: Any, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """log π (T, V) of the response's places."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1)


@pytest.mark.parametrize(("teacher", "teacher_temperature"), [("current", "same"), ("reference", "one")])
@pytest.mark.parametrize("head_bytes", [1, 64 << 20])
def test_they_are_those_of_the_whole_distribution(teacher: Any, teacher_temperature: Any, head_bytes: int) -> None:
    policies, experience = tiny_policies(torch.float64, TEMPERATURE), tiny_experience()
    policies = dataclasses.replace(policies, head_bytes=head_bytes)
    method = tiny_method(distillation="kl_student_teacher", teacher=teacher)
    train = tiny_train(teacher_temperature=teacher_temperature)
    # The teacher reads the rollouts of a pass in another order than the student.
    batch = next(policies.rounds(experience, ROWS, experience.student_prompts, train.tokens_per_micro_batch))
    places = experience.token_places(batch.rows, "cpu")
    read = policies.privileged(experience, places, batch.everyone, method, train)
    assert read is not None and not torch.equal(read.tokens, read.tokens.sort().values)
    plain = diagnose(policies, experience, ROWS, method, train)
    found = diagnose(policies, experience, ROWS, method, train, K)
    assert {name: column.lists() for name, column in found.items() if "_top" not in name} == {
        name: column.lists() for name, column in plain.items()
    }
    models = {
        "student_top": (policies.student, experience.student_prompts, TEMPERATURE),
        "teacher_top": (policies.student if teacher == "current" else policies.reference, experience.teacher_prompts,
                        TEMPERATURE if teacher_temperature == "same" else 1.0),
    }  # fmt: skip
    for name, (model, prompts, temperature) in models.items():
        columns = [(found[f"{name}_{at}"].lists(), found[f"{name}_logprob_{at}"].lists()) for at in range(K)]
        for row in ROWS:
            expected = by_hand(model, prompts[row], experience.responses[row], temperature).topk(K)
            for at, (ids, logprobs) in enumerate(columns):
                assert ids[row] == expected.indices[:, at].tolist()
                assert logprobs[row] == pytest.approx(expected.values[:, at].tolist(), abs=1e-6)


def test_a_rollout_without_a_hint_has_the_students_alone() -> None:
    policies, experience = tiny_policies(torch.float64), tiny_experience()
    method = tiny_method(distillation="kl_student_teacher", teacher="current")
    whole = diagnose(policies, experience, ROWS, method, tiny_train(), K)
    prompts = [[] if row in (2, 7) else prompt for row, prompt in enumerate(experience.teacher_prompts)]
    found = diagnose(
        policies, dataclasses.replace(experience, teacher_prompts=prompts), ROWS, method, tiny_train(), K
    )  # fmt: skip
    hinted = [row for row in ROWS if row not in (2, 7)]
    for name, rows in (("student_top_1", ROWS), ("teacher_top_1", hinted), ("teacher_top_logprob_1", hinted)):
        assert found[name].rows == rows
        own, expected = found[name].lists(), whole[name].lists()
        assert all(own[row] == pytest.approx(expected[row], abs=1e-6) for row in rows)


def test_more_than_the_vocabulary_is_the_vocabulary() -> None:
    policies, method = tiny_policies(), tiny_method(distillation="kl_student_teacher", teacher="current")
    found = diagnose(policies, tiny_experience(), [3], method, tiny_train(), 10_000)
    vocabulary = policies.student.config.vocab_size
    ranks = [name for name in found if name.startswith("teacher_top_logprob_")]
    assert len(ranks) == vocabulary
    total = torch.stack([found[name].values for name in ranks]).exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_the_record_holds_texts_and_log_probs_of_each_token(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["so the sum is 12", "a=46 b=37"], 280)
    pieces, step = TokenPieces(tokenizer), odd_step(tokenizer)
    lengths = [len(ids) for ids in step.experience.responses]
    rows = [1, 3, 6]  # the first has no token at all
    column = step.diagnosed["logprob"]
    assert column.rows == rows
    count = sum(lengths[row] for row in rows)
    ids = torch.arange(2 * count).reshape(count, 2) % len(tokenizer)
    diagnosed = dict(step.diagnosed)
    for name, shift in zip(TOP_TOKENS, (0, 1), strict=True):
        for at in range(2):
            values = (ids[:, at] + shift) % len(tokenizer)
            diagnosed[f"{name}_{at}"] = dataclasses.replace(column, values=values.float())
            diagnosed[f"{name}_logprob_{at}"] = dataclasses.replace(column, values=-values.float() - at)
    step = dataclasses.replace(step, diagnosed=diagnosed)
    path = tmp_path / "r.parquet"
    columns = token_columns(step, pieces)
    write_rollouts(path, rollout_rows(step, IDENTITY), columns)
    found = read_rollouts(path).to_pylist()
    assert [at for at, row in enumerate(found) if row["student_top"] is not None] == rows
    for name, shift in zip(TOP_TOKENS, (0, 1), strict=True):
        flat = [token for row in rows for token in found[row][name]]
        expected = ((ids + shift) % len(tokenizer)).flatten().tolist()
        assert flat == [pieces.piece(token) for token in expected]
        logprobs = [value for row in rows for value in found[row][f"{name}_logprob"]]
        assert logprobs == [-token - at % 2 for at, token in enumerate(expected)]
        assert len(found[3][name]) == 2 * lengths[3] and found[1][name] == []
    wrong = pa.array([None if each is None else each[1:] for each in columns["student_top"].to_pylist()])
    with pytest.raises(ValueError, match="student_top does not have as many tokens as log-probs"):
        write_rollouts(path, rollout_rows(step, IDENTITY), columns | {"student_top": wrong.cast(pa.list_(pa.string()))})
