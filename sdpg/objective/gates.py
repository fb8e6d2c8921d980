"""Defines gates: the rollouts, and their tokens, that the distillation term counts. Each name has one entry.

This module imports no torch, so that the app and the planner can use it too; a gate per token calls only the methods of
the tensors that it gets. A new gate is an entry of :data:`GATES` and its name in
:class:`sdpg.params.MethodParams`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sdpg.errors import UserError
from sdpg.params import Imported
from sdpg.params.imported import load_part

if TYPE_CHECKING:
    from torch import Tensor

    from sdpg.objective.methods import TokenInputs


@dataclass(frozen=True)
class Gate:
    """A rule that weights the distillation term.

    Attributes:
        formula: the gate m in the paper's letters, for people.
        row: a function from the rollout's advantage to its gate m_i; a rollout with a gate of 0 costs no teacher pass.
        token: a function from the inputs of the loss to a further factor for each token of the rollouts with an open
            gate, (N,) without gradient; None where all tokens of a rollout count alike.
        reads_teacher_entropy: whether ``token`` reads the entropy of the teacher's distribution, which takes one more
            pass over the teacher's logits.
        whole_responses: whether ``token`` reads other tokens of a response, such as their mean; see
            :class:`sdpg.objective.outcomes.Outcome`.
    """

    formula: str
    row: Callable[[float], float]
    token: "Callable[[TokenInputs], Tensor] | None" = None
    reads_teacher_entropy: bool = False
    whole_responses: bool = False


GATES: dict[str, Gate] = {
    "positive": Gate("m = 1[A > 0]", lambda advantage: float(advantage > 0)),
    "all": Gate("m = 1", lambda advantage: 1.0),
}
"""Name → gate. ``positive`` is the paper's (section 3.2); ``all`` is the public code's default (D1)."""


def find_gate(gate: str | Imported) -> Gate:
    """Returns the gate of a name, or the gate that a user's own function returns for its options.

    Raises:
        UserError: if the function does not exist or does not return a :class:`Gate`.
    """
    return GATES[gate] if isinstance(gate, str) else _own_gate(gate.model_dump_json())


def gate_formula(gate: str | Imported) -> str:
    """Returns the text that describes a gate to people; unlike :func:`find_gate`, it runs no own code."""
    return GATES[gate].formula if isinstance(gate, str) else f"m = {gate.path}"


@lru_cache(maxsize=64)
def _own_gate(part: str) -> Gate:
    imported = Imported.model_validate_json(part)
    made = load_part(imported, "gate")(**imported.options)
    if not isinstance(made, Gate):
        raise UserError(
            f"gate.path is {imported.path!r}, which returns {type(made).__name__}: let it return a "
            "sdpg.objective.gates.Gate; see docs/own_parts.md"
        )
    return made
