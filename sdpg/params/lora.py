"""The section ``train.lora`` of params.yaml: a small adapter is trained, and the base's weights stay as they are."""

from typing import Annotated, Literal

from pydantic import Field

from sdpg.params.section import Positive, Section


class LoraParams(Section):
    """LoRA (arXiv 2106.09685): W + (alpha / rank)·B·A in place of a weight W; only A and B are trained.

    There is no dropout: student, current teacher and sampler must be one policy, and a random mask in the student's
    passes alone would make each update off-policy.
    """

    rank: Positive
    """The number of rows of A and of columns of B."""
    alpha: Positive
    """The numerator of the factor alpha / rank by which the adapter's product is multiplied."""
    target_modules: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    """The linear modules that get an adapter, by the end of their names, such as ``q_proj`` or ``mlp.up_proj``;
    all-linear: all but the head."""
