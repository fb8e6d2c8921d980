"""A loss term with and one without the teacher, as somebody would write them beside params.yaml."""

from torch import Tensor

from sdpg.objective.methods import TokenInputs


def likely(inputs: TokenInputs) -> Tensor:
    """Returns the log-prob of each sampled token."""
    return inputs.logprobs


def taught(inputs: TokenInputs) -> Tensor:
    """Returns how far the teacher's log-prob is from the student's."""
    return inputs.teacher_logprobs - inputs.logprobs
