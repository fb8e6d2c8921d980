"""How prompts are shared out among ranks."""

from sdpg.rollouts.shared import shares


def test_siblings_stay_on_one_rank() -> None:
    assert shares([[1], [1], [2], [3], [3], [3]], 2) == [[0, 1, 3, 4, 5], [2]]
    assert shares([[1], [1], [2]], 1) == [[0, 1, 2]]
    assert shares([[1]], 3) == [[0], [], []]
