"""The section ``watch`` of params.yaml: what counts as a leak, and when an alarm rings."""

from typing import Annotated

from pydantic import AfterValidator, Field

from sdpg.params.section import Fraction, Positive, Section


def _usable(pattern: str) -> str:
    # Importing these takes longer than all of the parameters, which others read without patterns.
    import pyarrow as pa
    import pyarrow.compute as pc

    # RE2 itself compiles the pattern: it refuses what could not be searched in linear time.
    options = pc.MatchSubstringOptions(pattern, ignore_case=True)
    try:
        matches_nothing = pc.call_function("match_substring_regex", [pa.array([""])], options)[0].as_py()
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"{pattern!r} is no RE2 pattern ({error}): correct it; RE2 has no look-around and no back-references"
        ) from None
    if matches_nothing:
        raise ValueError(f"{pattern!r} matches the empty text and so every completion: name what must be there")
    return pattern


Mention = Annotated[str, AfterValidator(_usable)]


class WatchParams(Section):
    """Limits that show leakage and collapse. They raise alarms and never change the training; ``None`` turns one off.

    A limit is compared with the moving mean of its metric over ``window`` steps, and rings once it has been crossed for
    ``patience`` steps in a row. "Start" is the moving mean of the first ``window`` steps.
    """

    mentions: list[Mention]
    """RE2 patterns, matched in any case; a completion that matches one says that it was given an answer. Runs of
    whitespace count as one space."""
    span_words: Positive | None = 30
    """The number of words of the privileged solution, repeated in a row, that are a leak; see
    :func:`sdpg.training.leakage.copied_words`. Formulas fall into many short words, so that right derivations share
    some; where a right response *is* the solution, as in the tiny world, this has no meaning and is None."""
    top_k: Annotated[int, Field(ge=0, le=100)] = 0
    """The number of most probable tokens of the student and of the teacher that the records hold at each token of the
    ``train.record_rows`` rollouts; 0 for none. It costs another forward pass of those rollouts by the student."""
    window: Positive = 5
    patience: Positive = 5
    min_entropy: Annotated[float, Field(ge=0)] | None = 0.02
    """The lowest entropy, in nats per token."""
    min_entropy_fraction: Fraction | None = 0.1
    """The lowest entropy, as a fraction of the entropy at the start."""
    min_length_fraction: Fraction | None = 0.5
    max_length_fraction: Annotated[float, Field(ge=1)] | None = 3.0
    """The bounds of the mean length, as fractions of the mean length at the start."""
    max_truncated: Fraction | None = 0.5
    max_reward_drop: Annotated[float, Field(gt=0)] | None = 0.3
    """The largest fall below the best moving mean so far, in units of the reward."""
    max_leak_mentions: Fraction | None = 0.01
    max_leak_spans: Fraction | None = 0.05
    min_gate_rate: Fraction | None = 0.01
    max_zero_variance: Fraction | None = 0.95
    """The largest share of prompts whose rewards are all equal, which give no learning signal."""
