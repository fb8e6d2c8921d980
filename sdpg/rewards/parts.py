"""Rewards beside the verifier's: for an answer in the required form, and for a length within bounds.

Each is a value per response times its weight. They are added to the verifier's reward before advantages are taken, and
logged and recorded apart from it. Both are off unless params.yaml gives them a weight.
"""

from collections.abc import Sequence

from sdpg.params import RewardParams
from sdpg.rewards.verifiers import Verdict

PARTS = ("format", "length")
"""The names of the parts: fields of the section ``reward``, ``reward_<name>`` in metrics and records."""


def format_value(verdict: Verdict) -> float:
    """Returns 1 for a response that holds an answer in the form of ``reward.answer_format``, right or wrong, else 0."""
    return float(verdict.extracted_answer is not None)


def length_value(tokens: int, limit: int, free: float) -> float:
    """Returns 0 up to a share ``free`` of the limit, and from there a straight line down to -1 at the limit.

    It is the soft overlong punishment of DAPO (arXiv 2503.14476, equation 13): with L = ``limit`` and F = ``free`` · L,
    min(0, (F - tokens) / (L - F)).
    """
    begin = free * limit
    return min(0.0, (begin - tokens) / (limit - begin))


def reward_parts(
    params: RewardParams, verdicts: Sequence[Verdict], lengths: Sequence[int], limit: int
) -> dict[str, list[float]]:
    """Returns each part that is on, weighted, for each response.

    Args:
        params: the section ``reward``.
        verdicts: (B) the verdicts.
        lengths: (B) the tokens of the responses.
        limit: the largest number of tokens of a response, ``rollout.max_tokens``.
    """
    parts: dict[str, list[float]] = {}
    if params.format is not None:
        weight = params.format.weight
        parts["format"] = [weight * format_value(verdict) for verdict in verdicts]
    if params.length is not None:
        weight, free = params.length.weight, params.length.free
        parts["length"] = [weight * length_value(tokens, limit, free) for tokens in lengths]
    return parts
