"""Gates: which rollouts, and which of their tokens, the distillation term counts. One entry for each name.

This module imports no torch, so that the app and the planner can ask it too; a gate per token works on the tensors that
it is given by their own methods. A new gate is an entry of :data:`GATES` and its name in
:class:`sdpg.params.MethodParams`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sdpg.objective.methods import TokenInputs


@dataclass(frozen=True)
class Gate:
    """A rule that weights the distillation term.

    Attributes:
        formula: m in the paper's letters, for people.
        row: the rollout's advantage → its gate m_i; a rollout with a gate of 0 costs no teacher pass.
        token: what the loss reads per token → a further factor for each token of the rollouts with an open gate, (N,)
            without gradient; None where all tokens of a rollout count alike.
        reads_teacher_entropy: whether ``token`` reads the entropy of the teacher's distribution, which takes one more
            pass over the teacher's logits.
    """

    formula: str
    row: Callable[[float], float]
    token: "Callable[[TokenInputs], Tensor] | None" = None
    reads_teacher_entropy: bool = False


GATES: dict[str, Gate] = {
    "positive": Gate("m = 1[A > 0]", lambda advantage: float(advantage > 0)),
    "all": Gate("m = 1", lambda advantage: 1.0),
}
"""Name → gate. ``positive`` is the paper's (section 3.2); ``all`` is the public code's default (D1)."""
