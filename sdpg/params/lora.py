"""The section ``train.lora`` of params.yaml: a small adapter is trained, and the base's weights stay as they are."""

from typing import Annotated, Literal

from pydantic import Field

from sdpg.params.section import Positive, Section


class LoraParams(Section):
    """LoRA (arXiv 2106.09685): W + (alpha / rank)·B·A in place of a weight W, of which A and B alone are trained.

    There is no dropout: student, current teacher and sampler are to be one policy, and a random mask in the student's
    passes alone would make each update off-policy.
    """

    rank: Positive
    """Rows of A and columns of B."""
    alpha: Positive
    """The adapter's product is multiplied by alpha / rank."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """Which linear modules get an adapter, by the end of their names, such as ``q_proj`` or ``mlp.up_proj``.
    all-linear: all but the head."""
