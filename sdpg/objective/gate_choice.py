"""Finds the gate that a method names: one of :mod:`sdpg.objective.gates`, a product of several, or a user's own rule.

The module imports no torch.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce
from math import prod
from operator import mul

from sdpg.errors import UserError
from sdpg.objective.gates import GATES, Gate
from sdpg.params import Imported
from sdpg.params.imported import load_part

GateChoice = str | Sequence[str] | Imported
"""A value of ``methods.*.gate``: a name, names whose product is meant, or a user's own rule."""


def find_gate(gate: GateChoice) -> Gate:
    """Returns the gate of a name, of a product of names, or the one that a user's own function returns.

    Raises:
        UserError: if the function does not exist or does not return a :class:`Gate`.
    """
    if isinstance(gate, Imported):
        return _own_gate(gate.model_dump_json())
    return _named_gate((gate,) if isinstance(gate, str) else tuple(gate))


def gate_formula(gate: GateChoice) -> str:
    """Returns the text that describes a gate to people; unlike :func:`find_gate`, it runs no own code."""
    return f"m = {gate.path}" if isinstance(gate, Imported) else find_gate(gate).formula


def _named_gate(names: tuple[str, ...]) -> Gate:
    gates = [GATES[name] for name in names]
    tokens = [gate.token for gate in gates if gate.token]
    return Gate(
        f"m = {' · '.join(gate.formula for gate in gates)}",
        lambda row: prod(gate.row(row) for gate in gates),
        (lambda inputs: reduce(mul, [token(inputs) for token in tokens])) if tokens else None,
        any(gate.reads_teacher_entropy for gate in gates),
        any(gate.whole_responses for gate in gates),
    )


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
