"""Says which tokens end a response."""

from typing import Any

from sdpg.problems.tokenizer import pad_and_eos, turn_end


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Returns the ids of the tokens that end a response, in ascending order.

    They are the tokenizer's end-of-sequence token, the one by which its chat template ends a turn, and those that the
    model's generation settings name: Qwen3 ends turns with <|im_end|>, but may end a text with <|endoftext|> too, after
    which nothing sensible comes.
    """
    _, eos = pad_and_eos(tokenizer)
    named = model.generation_config.eos_token_id
    end = turn_end(tokenizer)
    return sorted({
        eos, *([] if end is None else [end]), *(named if isinstance(named, list) else [] if named is None else [named]),
    })  # fmt: skip
