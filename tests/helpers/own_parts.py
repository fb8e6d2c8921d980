"""Loss terms with and without the teacher, as somebody would write them beside params.yaml."""

from torch import Tensor

from sdpg.objective.methods import TokenInputs


def likely(inputs: TokenInputs) -> Tensor:
    """Returns the log-prob of each sampled token."""
    return inputs.logprobs


def taught(inputs: TokenInputs) -> Tensor:
    """Returns how far the teacher's log-prob is from the student's."""
    return inputs.teacher_logprobs - inputs.logprobs


def evidence(inputs: TokenInputs) -> Tensor:
    """Returns the log-prob times how far a right hint speaks for the token, less how far a wrong one does, if any."""
    wrong = 0.0 if inputs.contrast_logprobs is None else inputs.contrast_logprobs.nan_to_num(0.0)
    return inputs.logprobs * (inputs.teacher_logprobs - wrong).detach()
