from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
import pytest

from sdpg.batches import micro_batches, token_batch


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
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 0], [8, 2, 3, 4, 9]]
    assert batch.rows.tolist() == [0, 1, 1, 1, 1]
    assert batch.targets.tolist() == [1, 2, 3, 4, 9]
    # The state at a position predicts the token after it.
    assert batch.positions.tolist() == [2, 0, 1, 2, 3]


ids = st.lists(st.integers(1, 50), min_size=1, max_size=6)


@given(st.lists(st.tuples(ids, ids), min_size=1, max_size=6))
def test_every_target_stands_one_place_after_its_position(pairs: list[tuple[list[int], list[int]]]) -> None:
    prompts, responses = [prompt for prompt, _ in pairs], [response for _, response in pairs]
    batch = token_batch(prompts, responses, pad_id=0)
    assert (batch.input_ids[batch.rows, batch.positions + 1] == batch.targets).all()
    assert batch.targets.tolist() == [token for response in responses for token in response]
    assert [batch.rows.tolist().count(row) for row in range(len(pairs))] == [len(response) for response in responses]


def test_prompts_and_responses_must_pair_up() -> None:
    with pytest.raises(ValueError, match="argument"):
        token_batch([[1], [2]], [[3]], pad_id=0)
