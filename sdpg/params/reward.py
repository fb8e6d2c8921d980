"""The section ``reward`` of params.yaml: the verifier, the reward of each verdict, and rewards beside it."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from sdpg.params.section import Imported, Positive, Section, name_or_import

VerifierName = Literal["math_verify", "math_verify_only", "exact", "string_match", "reasoning_gym"]


class FormatReward(Section):
    """A reward for responses that hold an answer in the form of ``reward.answer_format``, right or wrong."""

    weight: Annotated[float, Field(gt=0)]
    """What such a response gets."""


class LengthReward(Section):
    """A penalty for responses that come near ``rollout.max_tokens``: DAPO's soft overlong punishment."""

    weight: Annotated[float, Field(gt=0)]
    """What a response of ``rollout.max_tokens`` loses."""
    free: Annotated[float, Field(ge=0, lt=1)] = 0.75
    """The share of ``rollout.max_tokens`` up to which nothing is lost; from there the loss grows evenly."""


class RewardParams(Section):
    """The verifier, and the reward of each verdict."""

    verifier: Annotated[
        Annotated[VerifierName, Tag("(name)")] | Annotated[Imported, Tag("(import)")], Discriminator(name_or_import)
    ] = "math_verify"
    """D18: exact match and then math-verify on the last balanced \\boxed; either of the two alone; the public code's
    normalised string match; or reasoning-gym's scorers of its own problems. See docs/verifiers.md, and
    docs/own_parts.md for an own function or class."""
    answer_format: Literal["boxed", "answer_line"] = "boxed"
    """D14: the form of an answer: \\boxed{…}, or a line ``Answer: …``."""
    correct: float = 1.0
    wrong: float = -1.0
    """D8: the reward of a wrong answer: -1 as in the runs behind the paper's figures; its text has 0."""
    timeout: Annotated[float, Field(gt=0)] = 5.0
    """Seconds after which the verification of one answer is killed."""
    workers: Positive = 1
    on_failure: Literal["drop", "wrong"] = "drop"
    """What a training rollout without a verdict (status ``timeout``) counts as: nothing, so that its group's mean and
    standard deviation are those of the rest and its advantage is 0, or a wrong answer."""
    format: FormatReward | None = None
    length: LengthReward | None = None
    """Further rewards in training, which are added to the verifier's and logged apart; see docs/metrics.md. ``None``:
    off."""

    @model_validator(mode="after")
    def _ordered(self) -> "RewardParams":
        if not self.correct > self.wrong:
            raise ValueError(f"correct ({self.correct}) must be larger than wrong ({self.wrong})")
        return self

    @property
    def verifier_name(self) -> str:
        """Returns the verifier's name in records; an own verifier is named by its path."""
        return self.verifier.path if isinstance(self.verifier, Imported) else self.verifier

    def override(self, values: dict[str, Any]) -> "RewardParams":
        """Replaces some values; an own verifier that is named again keeps its options."""
        named = values.get("verifier")
        if isinstance(named, Imported) and named.path == self.verifier_name:
            values = values | {"verifier": self.verifier}
        return self.model_copy(update=values)
