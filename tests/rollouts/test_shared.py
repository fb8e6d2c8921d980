"""How prompts are shared out among ranks."""

from itertools import chain

from sdpg.rollouts.shared import shares


def test_siblings_stay_on_one_rank() -> None:
    assert shares([[1], [1], [2]], 1) == [[0, 1, 2]]
    assert shares([[1]], 3) == [[0], [], []]
    # A step's: eight siblings of each of six prompts, in turn.
    step = [[prompt] for prompt in range(6) for _ in range(8)]
    assert shares(step, 4) == [[*range(8), *range(32, 40)], [*range(8, 16), *range(40, 48)], [*range(16, 24)],
                               [*range(24, 32)]]  # fmt: skip


def test_ranks_get_as_many_prompts_as_siblings_allow() -> None:
    assert shares([[1], [1], [2], [3], [3], [3]], 2) == [[0, 1], [2, 3, 4, 5]]
    # Small and large groups by turns: in turn, one rank would get all large ones.
    prompts = [[group] for group in range(12) for _ in range(8 if group % 2 else 1)]
    dealt = shares(prompts, 2)
    assert sorted(chain.from_iterable(dealt)) == [*range(len(prompts))]
    assert abs(len(dealt[0]) - len(dealt[1])) <= 8
    for group in range(12):
        assert len({rank for rank in (0, 1) for at in dealt[rank] if prompts[at] == [group]}) == 1
