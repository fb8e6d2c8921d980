"""Tries a method's own gate and own terms on made-up values, before a run depends on them."""

import math

import torch
from torch import Tensor

from sdpg.errors import UserError
from sdpg.objective.gates import Gate
from sdpg.objective.methods import TokenInputs
from sdpg.objective.responses import Responses
from sdpg.params import Imported, MethodParams
from sdpg.params.imported import check_call, load_part

LENGTHS = (1, 3, 2)
"""The number of tokens of each made-up response."""


def check_own_parts(method: MethodParams, field: str) -> None:
    """Calls the method's own gate and own terms once.

    Args:
        method: a method whose own parts can be imported.
        field: the method's path in params.yaml, which errors name.

    Raises:
        UserError: if a part cannot be called as training calls it, or returns something of another form.
    """
    if isinstance(method.gate, Imported):
        _check_gate(method.gate, f"{field}.gate")
    for name, term in method.terms.items():
        where = f"{field}.terms.{name}"
        function = load_part(term, where)
        check_call(function, term, where, "inputs")
        inputs = example_inputs()
        values = function(inputs, **term.options)
        _check_values(values, where, term.path)
        if not values.requires_grad:
            raise UserError(
                f"{where}: {term.path} returns values without a gradient, which teach nothing: let it read logprobs, "
                "entropy or divergence without detaching them"
            )


def example_inputs() -> TokenInputs:
    """Returns inputs of the loss for six tokens of three responses; the first has a closed gate and no teacher."""
    draw = torch.Generator().manual_seed(0)
    count = sum(LENGTHS)
    scored = torch.tensor([False] + [True] * (count - 1))

    def random(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draw)

    logprobs = random(-3.0, -0.1)
    return TokenInputs(
        logprobs=logprobs.clone().requires_grad_(),
        entropy=random(0.1, 2.0).requires_grad_(),
        divergence=(random(0.0, 2.0) * scored).requires_grad_(),
        old_logprobs=logprobs,
        advantages=torch.tensor([-1.0, 1.0, 1.0, 1.0, 0.5, 0.5]),
        gates=scored.float(),
        ref_logprobs=random(-3.0, -0.1),
        gain_logprobs=logprobs,
        gain_teacher_logprobs=None,
        teacher_logprobs=random(-3.0, -0.1).where(scored, math.nan),
        teacher_entropy=random(0.1, 2.0).where(scored, math.nan),
        responses=Responses.of(torch.tensor(LENGTHS)),
    )


def _check_gate(part: Imported, field: str) -> None:
    function = load_part(part, field)
    check_call(function, part, field)
    gate = function(**part.options)
    if not isinstance(gate, Gate):
        raise UserError(
            f"{field}: {part.path} returns {type(gate).__name__}: let it return a sdpg.objective.gates.Gate; "
            "see docs/own_parts.md"
        )
    for advantage in (-1.0, 0.0, 1.0):
        weight = gate.row(advantage)
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise UserError(
                f"{field}: row of {part.path} gives {weight!r} for an advantage of {advantage}: let it give a number "
                "that is not negative, 0 where the rollout is not distilled"
            )
    if gate.token is not None:
        _check_values(gate.token(example_inputs()), field, part.path)


def _check_values(values: object, field: str, path: str) -> None:
    expected = (sum(LENGTHS),)
    if not isinstance(values, Tensor) or tuple(values.shape) != expected:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"{field}: {path} returns {shape} for {expected[0]} tokens: let it return one value per token")
