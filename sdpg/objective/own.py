"""Tries a method's own gate and own terms on made-up values, before a run depends on them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
import math
from typing import Any

import torch
from torch import Tensor

from sdpg.errors import UserError
from sdpg.objective.coefficients import coefficients, distils, reads_reference
from sdpg.objective.gates import EXAMPLES, Gate
from sdpg.objective.methods import TokenInputs
from sdpg.objective.responses import Responses
from sdpg.params import Imported, MethodParams
from sdpg.params.imported import check_call, load_part

LENGTHS = (1, 3, 2)
"""The number of tokens of each made-up response."""


def check_own_parts(method: MethodParams, field: str) -> None:
    """Calls the method's own gate and own terms on what they will be given, as far as their declarations say.

    Args:
        method: a method whose own parts can be imported.
        field: the method's path in params.yaml, which errors name.

    Raises:
        UserError: if one cannot be called as it will be, returns something else than it has to, or reads what it does
            not declare: the teacher, other tokens of a response, or a reference that the method does not read.
    """
    if isinstance(method.gate, Imported):
        _check_gate(method, method.gate, f"{field}.gate")
    for name, term in method.terms.items():
        where = f"{field}.terms.{name}"
        function = load_part(term, where)
        check_call(function, term, where, "inputs")
        call = partial(function, **term.options)
        inputs = example_inputs(method, taught=torch.full((sum(LENGTHS),), term.reads_teacher))
        values = _checked_values(call, inputs, where, term.path, term.whole_responses)
        if not values.requires_grad:
            raise UserError(
                f"{where}: {term.path} returns values without a gradient, which teach nothing: let it read logprobs, "
                "entropy or divergence without detaching them"
            )
        if not bool(values.isfinite().all()):
            raise UserError(
                f"{where}: {term.path} returns values that are not finite, such as {values.detach().tolist()[0]}. "
                "Where it reads teacher_logprobs or teacher_entropy, set reads_teacher: true; they are NaN otherwise"
            )


def example_inputs(method: MethodParams, taught: Tensor) -> TokenInputs:
    """Makes what the loss of a method reads, for six tokens of three responses of which the first has a closed gate.

    Args:
        method: says whether there is a reference and a distillation.
        taught: (6,) bool, the tokens that the teacher scored; its values are NaN elsewhere.
    """
    draw = torch.Generator().manual_seed(0)
    count = sum(LENGTHS)
    gates = torch.tensor([0.0] + [1.0] * (count - 1))

    def random(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=draw)

    logprobs, referred = random(-3.0, -0.1), random(-3.0, -0.1)
    return TokenInputs(
        logprobs=logprobs.clone().requires_grad_(),
        entropy=random(0.1, 2.0).requires_grad_(),
        divergence=(random(0.0, 2.0) * taught * distils(method)).requires_grad_(),
        old_logprobs=logprobs,
        advantages=torch.tensor([-1.0, 1.0, 1.0, 1.0, 0.5, 0.5]),
        gates=gates,
        ref_logprobs=referred if reads_reference(method, coefficients(method, 1, 1)) else None,
        gain_logprobs=logprobs,
        gain_teacher_logprobs=None,
        teacher_logprobs=random(-3.0, -0.1).where(taught, math.nan),
        teacher_entropy=random(0.1, 2.0).where(taught, math.nan),
        responses=Responses.of(torch.tensor(LENGTHS)),
    )


def _check_gate(method: MethodParams, part: Imported, field: str) -> None:
    function = load_part(part, field)
    check_call(function, part, field)
    gate = function(**part.options)
    if not isinstance(gate, Gate):
        raise UserError(
            f"{field}: {part.path} returns {type(gate).__name__}: let it return a sdpg.objective.gates.Gate; "
            "see docs/own_parts.md"
        )
    for row in EXAMPLES:
        weight = gate.row(row)
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise UserError(
                f"{field}: row of {part.path} gives {weight!r} for {row}: let it give a number that is not negative, "
                "0 where the rollout is not distilled"
            )
    if gate.token is None:
        return
    inputs = example_inputs(method, taught=torch.arange(sum(LENGTHS)) > 0)
    if not gate.reads_teacher_entropy:
        inputs = replace(inputs, teacher_entropy=torch.full_like(inputs.teacher_entropy, math.nan))
    factors = _checked_values(gate.token, inputs, field, part.path, gate.whole_responses)[inputs.gates > 0]
    if not bool((factors >= 0).all()):
        raise UserError(
            f"{field}: token of {part.path} gives {factors.tolist()}: let it give numbers that are not negative. "
            "teacher_entropy is NaN unless the gate says reads_teacher_entropy=True"
        )


def _checked_values(
    call: Callable[[TokenInputs], Any], inputs: TokenInputs, field: str, path: str, whole_responses: bool
) -> Tensor:
    """Calls a part with all tokens and, unless it reads whole responses, in two pieces, which must not matter."""
    try:
        values = call(inputs)
    # Whatever an own part raises is its author's to read, with the field that named it.
    except Exception as error:
        hint = " (ref_logprobs is None, as the method reads no reference)" if inputs.ref_logprobs is None else ""
        raise UserError(f"{field}: {path} raises {type(error).__name__}: {error}{hint}") from error
    expected = tuple(inputs.logprobs.shape)
    if not isinstance(values, Tensor) or tuple(values.shape) != expected:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise UserError(f"{field}: {path} returns {shape} for {expected[0]} tokens: let it return one value per token")
    if not whole_responses:
        pieces = torch.arange(expected[0]).split(expected[0] // 2)
        apart = torch.cat([call(_taken(inputs, tokens)) for tokens in pieces])
        if not torch.allclose(values, apart, equal_nan=True):
            raise UserError(
                f"{field}: {path} gives a token another value where it sees fewer tokens of its response: set "
                "whole_responses: true, so that it always sees all of them"
            )
    return values


def _taken(inputs: TokenInputs, tokens: Tensor) -> TokenInputs:
    parts = {name: part[tokens] for name, part in vars(inputs).items() if isinstance(part, Tensor)}
    return replace(inputs, **parts, responses=inputs.responses.take(tokens))
