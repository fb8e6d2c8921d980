"""Tests the table of token pieces against decoding every token by itself, for several kinds of tokenizers."""

from collections.abc import Sequence
from functools import cache
import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from benchmarks import plain_records
from sdpg.problems.token_pieces import TokenPieces, token_spans
from sdpg.problems.tokenizer import train_tokenizer

TEXTS = ["a=46 b=37 \\boxed{37}", "∫ é 数 🙂 x", "🙂🙂 naïve ≈ √2", "so the sum is 12 , he said ."]


def bundled() -> Any:
    return train_tokenizer(TEXTS * 3, 300)


def byte_level() -> Any:
    """Byte-level BPE with pieces that are parts of characters, holes in its ids, and added tokens of all kinds."""
    written = bytes_to_unicode()
    parts = [b" so", b"\xe2\x89", b"\xf0\x9f\x99", b"\x82 x", b"\xef\xbf\xbd", b"a\xef\xbf\xbdb", "é".encode(),
             b"\xed\xa0", b"\xc3", "数学".encode(), b" .", b"\xff\xfe", b"\x00", b"\n\n", "≈".encode(),
             b"\x88\xe2"]  # fmt: skip
    names = ["".join(written[byte] for byte in part) for part in [*(bytes([byte]) for byte in range(256)), *parts]]
    vocab = {name: token for token, name in reversed(list(enumerate(names)))}
    vocab["Ġlast"] = 300
    backend = Tokenizer(models.BPE(vocab, []))
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens([AddedToken("<think>", special=False), AddedToken("two words", special=False)])
    # It is hidden from texts, but transformers does not know it as special.
    backend.add_special_tokens([AddedToken("<|unnamed|>", special=True), AddedToken("<|end|>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def metaspace() -> Any:
    """Pieces that lose their space where they begin a text, and bytes by name, as Gemma's and Mistral's."""
    names = ["<unk>", "</s>", "▁so", "▁the", "sum", "▁", ".", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE({name: token for token, name in enumerate(names)}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", clean_up_tokenization_spaces=False)


def word_piece() -> Any:
    """Spaces that decoding puts in and takes out again."""
    names = ["[UNK]", "[SEP]", "so", "##me", "the", ",", ".", "n", "##'", "sum"]
    backend = Tokenizer(models.WordPiece({name: token for token, name in enumerate(names)}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", clean_up_tokenization_spaces=True)


def visible_end() -> Any:
    """Byte-level BPE whose end of a text is an ordinary token, which texts show."""
    tokenizer = byte_level()
    tokenizer.eos_token = "Ġlast"
    return tokenizer


KINDS = {"bundled": bundled, "byte-level": byte_level, "metaspace": metaspace, "word piece": word_piece,
         "visible end": visible_end}  # fmt: skip
JOINED = ("bundled", "byte-level")


@cache
def made(kind: str) -> tuple[Any, TokenPieces]:
    tokenizer = KINDS[kind]()
    return tokenizer, TokenPieces(tokenizer)


def largest(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_shown_as_decoded_by_itself(kind: str) -> None:
    tokenizer, pieces = made(kind)
    assert (pieces.bytes is not None) == (kind in JOINED)
    # Ids past the tokenizer are padding rows of an embedding.
    for token in range(largest(tokenizer) + 70):
        text = tokenizer.decode([token], skip_special_tokens=True)
        assert pieces.text([token]) == text, token
        found = pieces.spans(as_arrays([[token]]), [text])
        assert tuple(map(pa.Array.to_pylist, found)) == plain_records.token_spans(tokenizer, [token], text), token


def responses_of(tokenizer: Any, seed: int) -> list[list[int]]:
    """Odd responses first, then random ones, most of which are no valid UTF-8 with a byte-level tokenizer."""
    source, size, end = random.Random(seed), largest(tokenizer) + 1, tokenizer.eos_token_id

    def encoded(text: str) -> list[int]:
        # The tokenizers made here have no merges: their own pieces stand for themselves.
        return [*tokenizer(text, add_special_tokens=False)["input_ids"]]

    odd = [[end], [], [size + 5], [3], [7] * 300, [end, 4, end, 5, 6], [size, 4, size + 66, end], [end] * 3]
    whole = [[*encoded(text), end] for text in (*TEXTS, "�", "a�", "�🙂�", "🙂" * 40)]
    cut = [encoded("a🙂")[:-1], [*encoded("数")[:1], end], [*encoded("🙂")[:2], *encoded("b≈")]]
    drawn = [
        [source.randrange(source.choice([size, 300, 8])) for _ in range(source.randrange(1, 40))] for _ in range(300)
    ]
    return [*odd, *whole, *cut, *drawn]


def as_arrays(responses: Sequence[list[int]]) -> list[Any]:
    return [np.array(ids, np.int32) for ids in responses]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_their_places_are_those_of_the_plain_way(kind: str) -> None:
    tokenizer, pieces = made(kind)
    responses = responses_of(tokenizer, 0)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in responses]
    assert [pieces.text(ids) for ids in responses] == texts
    expected = [plain_records.token_spans(tokenizer, ids, text) for ids, text in zip(responses, texts, strict=True)]
    assert [token_spans(pieces, ids, text) for ids, text in zip(responses, texts, strict=True)] == expected
    found = pieces.spans(as_arrays(responses), texts)
    for at, values in enumerate(found):
        assert values.to_pylist() == [value for each in expected for value in each[at]]
    assert sum("�" in text for text in texts) > 100 or kind not in JOINED
    assert [len(values) for values in pieces.spans([], [])] == [0, 0, 0]


def test_a_long_response_of_broken_characters_is_read_once() -> None:
    tokenizer, pieces = made("byte-level")
    calls = []
    decode, pieces.tokenizer = pieces.tokenizer, type("Never", (), {"decode": lambda *_, **__: calls.append(1)})()
    ids = [tokenizer.convert_tokens_to_ids("Ł")] * 5000
    try:
        tokens, starts, ends = pieces.spans(as_arrays([ids]), [pieces.text(ids)])
    finally:
        pieces.tokenizer = decode
    assert not calls and (starts[0].as_py(), ends[-1].as_py(), tokens[4999].as_py()) == (0, 5000, "�" * 5000)
