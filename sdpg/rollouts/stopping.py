"""Says which tokens end a response."""

from typing import Any

from sdpg.problems.tokenizer import pad_and_eos


def stop_ids(model: Any, tokenizer: Any) -> list[int]:
    """Returns the ids of the tokens that end a response, in ascending order.

    They are the tokenizer's end-of-sequence token and those that the model's generation settings name: Qwen3 ends
    turns with <|im_end|>, but may end a text with <|endoftext|> too, after which nothing sensible comes.
    """
    _, eos = pad_and_eos(tokenizer)
    named = model.generation_config.eos_token_id
    return sorted({eos, *(named if isinstance(named, list) else [] if named is None else [named])})
