"""Defines gates: the rollouts, and their tokens, that a term of the loss counts. Each name has one entry.

This module imports no torch, so that the app and the planner can use it too; a gate of tokens calls only the methods of
the tensors that it gets. A new gate of rollouts is an entry of :data:`GATES`, a new gate of tokens one of
:data:`TOKEN_GATES`, and its name in :class:`sdpg.params.MethodParams`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sdpg.objective.methods import TokenInputs


@dataclass(frozen=True)
class RowCredit:
    """What the verifier and the group say of one rollout.

    Attributes:
        advantage: A, the rollout's advantage.
        reward: R, the verifier's reward.
        correct: whether the verifier found the answer right.
        accuracy: p, the share of right answers in the rollout's group.
    """

    advantage: float
    reward: float
    correct: bool
    accuracy: float


def group_credits(
    advantages: Sequence[float], rewards: Sequence[float], correct: Sequence[bool], siblings: int
) -> list[RowCredit]:
    """Returns the credit of each rollout; siblings of a prompt stand side by side."""
    starts = range(0, len(advantages), siblings)
    shares = [sum(correct[at : at + siblings]) / siblings for at in starts for _ in range(siblings)]
    return [RowCredit(*each) for each in zip(advantages, rewards, correct, shares, strict=True)]


EXAMPLES = (
    RowCredit(1.0, 1.0, True, 0.5), RowCredit(-1.0, -1.0, False, 0.5),
    RowCredit(0.0, 1.0, True, 1.0), RowCredit(0.0, -1.0, False, 0.0),
)  # fmt: skip
"""A rollout above and one below its group's mean, and one of a group that is all right, and all wrong."""


@dataclass(frozen=True)
class Gate:
    """A rule that weights the distillation term.

    Attributes:
        formula: the gate m in the paper's letters, for people.
        row: a function from the rollout's credit to its gate m_i; a rollout with a gate of 0 costs no teacher pass.
        token: a function from the inputs of the loss to a further factor for each token of the rollouts with an open
            gate, (N,) without gradient; None where all tokens of a rollout count alike.
        reads_teacher_entropy: whether ``token`` reads the entropy of the teacher's distribution, which takes one more
            pass over the teacher's logits.
        whole_responses: whether ``token`` reads other tokens of a response, such as their mean; see
            :class:`sdpg.objective.outcomes.Outcome`.
    """

    formula: str
    row: Callable[[RowCredit], float]
    token: "Callable[[TokenInputs], Tensor] | None" = None
    reads_teacher_entropy: bool = False
    whole_responses: bool = False


GATES: dict[str, Gate] = {
    "positive": Gate("1[A > 0]", lambda row: float(row.advantage > 0)),
    "all": Gate("1", lambda row: 1.0),
    "negative": Gate("1[A < 0]", lambda row: float(row.advantage < 0)),
    "correct": Gate("1[right]", lambda row: float(row.correct)),
    "wrong": Gate("1[wrong]", lambda row: float(not row.correct)),
    "difficulty": Gate("4p(1−p)", lambda row: 4 * row.accuracy * (1 - row.accuracy)),
}
"""Name → gate of rollouts. ``positive`` is the paper's (section 3.2), ``all`` the public code's default (D1);
``difficulty`` weights a group by the share p of its right answers, most where half are right."""


@dataclass(frozen=True)
class TokenGate:
    """A factor for each token of the distillation term, beside the gate of its rollout.

    Attributes:
        formula: the factor, for people.
        weight: a function from the inputs of the loss and the method to the factors, (N,); no gradient is taken.
        options: the fields of the method that ``weight`` reads.
        reads_teacher_entropy: as in :class:`Gate`.
        whole_responses: as in :class:`Gate`.
    """

    formula: str
    weight: "Callable[[TokenInputs, Any], Tensor]"
    options: tuple[str, ...]
    reads_teacher_entropy: bool = False
    whole_responses: bool = False


def _gain(inputs: "TokenInputs") -> "Tensor":
    """Returns Δ = log q(y_t) - log p(y_t), (N,)."""
    return inputs.teacher_logprobs - inputs.logprobs.detach()


TOKEN_GATES: dict[str, TokenGate] = {
    "sigmoid": TokenGate(
        "σ(κΔ)", lambda inputs, method: (method.gate_kappa * _gain(inputs)).sigmoid(), ("gate_kappa",)
    ),
    "certainty": TokenGate(
        "exp(−κH(q)), of mean 1",
        lambda inputs, method: (-method.gate_kappa * inputs.teacher_entropy).exp() / inputs.certainty,
        ("gate_kappa",), reads_teacher_entropy=True,
    ),
    "divergence_quantile": TokenGate(
        "1[D ≥ quantile]",
        lambda inputs, method: inputs.responses.at_least(inputs.divergence.detach(), method.gate_quantile),
        ("gate_quantile",), whole_responses=True,
    ),
    "teacher_entropy_quantile": TokenGate(
        "1[H(q) ≤ quantile]",
        lambda inputs, method: inputs.responses.at_least(-inputs.teacher_entropy, 1 - method.gate_quantile),
        ("gate_quantile",), reads_teacher_entropy=True, whole_responses=True,
    ),
}  # fmt: skip
"""Name → gate of tokens. Quantiles are those of the token's own response; the mean of ``certainty`` is taken over all
tokens that are distilled at a step, as in SRPO (arXiv 2604.02288)."""
