"""Tests padded batches, shared lines and micro-batches, by hand and over random lengths."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sdpg.models.batches import deal, micro_batches, shared_lines, token_batch
from tests.helpers.tiny import tiny_experience


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 1000))
def test_micro_batches_take_every_index_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = micro_batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert group
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= budget
    # Similar lengths share a batch: no later group holds a longer sequence.
    for before, after in pairwise(groups):
        assert min(lengths[index] for index in before) >= max(lengths[index] for index in after)


def test_micro_batches_by_hand() -> None:
    assert micro_batches([4, 10, 3, 5], 10) == [[1], [3, 0], [2]]
    assert micro_batches([4, 10, 3, 5], 40) == [[1, 3, 0, 2]]
    assert micro_batches([4, 10, 3, 5], 1) == [[1], [3], [0], [2]]
    assert micro_batches([2, 2, 2], 4) == [[0, 1], [2]]
    assert micro_batches([], 10) == []


def test_token_batch_by_hand() -> None:
    batch = token_batch([[5, 6, 7], [8]], [[1], [2, 3, 4, 9]], pad_id=0)
    # The last token of a response is read by nobody.
    assert batch.input_ids.tolist() == [[5, 6, 7, 0], [8, 2, 3, 4]]
    assert batch.rows.tolist() == batch.owners.tolist() == [0, 1, 1, 1, 1]
    assert batch.targets.tolist() == [1, 2, 3, 4, 9]
    # The state at a position predicts the token after it.
    assert batch.positions.tolist() == [2, 0, 1, 2, 3]
    assert batch.mask is batch.position_ids is None


def test_a_shared_line_by_hand() -> None:
    prompts, responses = [[5, 6], [5, 6], [8]], [[1, 2, 3], [4, 9], [7]]
    batch = token_batch(prompts, responses, pad_id=0, lines=[[0, 1], [2]])
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 4], [8, 0, 0, 0, 0]]
    assert batch.owners.tolist() == [0, 0, 0, 1, 1, 2]
    assert batch.rows.tolist() == [0, 0, 0, 0, 0, 1]
    assert batch.targets.tolist() == [1, 2, 3, 4, 9, 7]
    assert batch.positions.tolist() == [1, 2, 3, 1, 4, 0]
    assert batch.position_ids is not None and batch.mask is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 2], [0, 0, 0, 0, 0]]
    assert batch.mask.shape == (2, 1, 5, 5)
    seen = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert batch.mask[0, 0].int().tolist() == seen
    assert batch.mask[1, 0, 0].int().tolist() == [1, 0, 0, 0, 0]
    assert batch.mask.any(-1).all(), "a token that sees nothing makes attention NaN"


def test_neighbours_with_one_prompt_share_lines_up_to_the_limit() -> None:
    prompts, responses = [[1, 2]] * 3 + [[3]] * 2, [[7] * 4, [7] * 3, [7], [7] * 2, [7] * 2]
    assert shared_lines(prompts, responses, 0) == [[0], [1], [2], [3], [4]]
    assert shared_lines(prompts, responses, 6) == [[0], [1, 2], [3, 4]]
    assert shared_lines(prompts, responses, 7) == [[0, 1, 2], [3, 4]]
    assert shared_lines([[1], [2], [1]], [[7]] * 3, 100) == [[0], [1], [2]]
    assert shared_lines([], [], 5) == []


ids = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@given(st.lists(st.tuples(ids, st.lists(ids, min_size=1, max_size=4)), min_size=1, max_size=4), st.integers(0, 30))
def test_every_position_is_that_of_the_token_before_in_its_own_sequence(
    groups: list[tuple[list[int], list[list[int]]]], limit: int
) -> None:
    prompts = [prompt for prompt, responses in groups for _ in responses]
    responses = [response for _, group in groups for response in group]
    lines = shared_lines(prompts, responses, limit)
    assert [index for line in lines for index in line] == list(range(len(responses)))
    batch = token_batch(prompts, responses, pad_id=0, lines=lines)
    assert batch.targets.tolist() == [token for response in responses for token in response]
    for owner, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        own = batch.owners == owner
        for place, (row, at) in enumerate(zip(batch.rows[own].tolist(), batch.positions[own].tolist(), strict=True)):
            # What the state at this position sees, in the order of its positions, is the sequence up to there.
            line = batch.input_ids[row]
            if batch.mask is None or batch.position_ids is None:
                visible = line[: at + 1].tolist()
            else:
                mask, order = batch.mask[row, 0, at], batch.position_ids[row]
                assert order[mask].tolist() == list(range(int(mask.sum())))
                visible = line[mask].tolist()
            assert visible == prompt + response[:place]


def test_prompts_and_responses_must_pair_up() -> None:
    with pytest.raises(ValueError, match="argument"):
        token_batch([[1], [2]], [[3]], pad_id=0)


def test_shared_lines_stay_within_the_budget_of_a_micro_batch() -> None:
    experience = tiny_experience()
    for budget in (24, 40, 200):
        for group in experience.micro_batches(range(12), experience.student_prompts, budget, line_tokens=1000):
            lines = [
                len(experience.student_prompts[line[0]]) + sum(len(experience.responses[i]) - 1 for i in line)
                for line in group
            ]
            assert len(lines) * max(lines) <= budget


def test_lines_are_dealt_by_their_tokens() -> None:
    assert deal([5, 9, 2, 1], 2) == [[1], [0, 2, 3]]
    assert deal([3, 3, 3], 2) == [[0, 2], [1]]
    assert deal([4, 1, 7], 1) == [[0, 1, 2]]
    assert deal([], 2) == [[], []]
    assert deal([1], 3) == [[0], [], []]
