"""A tokenizer's vocabulary as a table of text pieces, made once, so that no token has to be decoded by itself.

With byte-level BPE (GPT-2's, Llama 3's, Qwen's and this project's own) a text is the bytes of its tokens, one after
another: whole steps are then decoded and cut into pieces by looking them up. Other tokenizers decode every text.

Axes: R responses, N tokens of them all, V ids of the vocabulary.
"""

import codecs
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pyarrow as pa
import pyarrow.compute as pc
from transformers.convert_slow_tokenizer import bytes_to_unicode

Spans = tuple[list[str], list[int], list[int]]
"""The pieces, starts and ends of one response's tokens."""
REPLACED = "\ufffd"
"""The character that decoding shows for bytes that are no valid UTF-8."""
BYTE_OF = {character: byte for byte, character in bytes_to_unicode().items()}
"""The character by which byte-level BPE writes a byte in its vocabulary, and the byte."""


class TokenPieces:
    """The text that each token of a vocabulary stands for.

    Args:
        tokenizer: a tokenizer of transformers, or whatever has its ``decode`` and ``all_special_ids``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special = frozenset(tokenizer.all_special_ids)
        self.bytes = _token_bytes(tokenizer)
        """Token → its bytes in a text; no bytes for special tokens, and for ids that the tokenizer does not know."""
        self.piece: Callable[[int], str] = cache(lambda token: tokenizer.decode([token]))
        """Returns what a token decodes to by itself."""
        if self.bytes is not None:
            # Ids past the table, such as those of an embedding's padding rows, share its last entry.
            size = max(self.bytes, default=-1) + 2
            parts = [self.bytes[token] for token in range(size)]
            pieces = [part.decode("utf-8", "replace") for part in parts]
            self.parts = pa.array(parts, pa.binary())
            self.lengths = np.array([len(part) for part in parts], np.int32)
            self.widths = np.array([len(piece) for piece in pieces], np.int32)
            self.odd = np.array([REPLACED in piece for piece in pieces])
            for token in self.special:
                pieces[token] = tokenizer.decode([token])
            self.pieces = pa.array(pieces, pa.string())
            self.piece = defaultdict(str, enumerate(pieces)).__getitem__

    def text(self, ids: Sequence[int]) -> str:
        """Returns what ``tokenizer.decode`` makes of a response without its special tokens."""
        if self.bytes is None:
            return self.tokenizer.decode(list(ids), skip_special_tokens=True)
        joined = self.parts.take(pa.array(self._known(np.array(ids, np.int32)))).buffers()[2]
        return "" if joined is None else str(joined, "utf-8", "replace")

    def _known(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.minimum(ids, len(self.widths) - 1)

    def spans(
        self, responses: Sequence[NDArray[np.int32]], texts: Sequence[str]
    ) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Returns the piece, start and end of each token in the text of its response, (N,) each.

        Args:
            responses: (R) arrays of token ids.
            texts: (R) what they decode to.
        """
        parts = [self._spans(ids, text) for ids, text in zip(responses, texts, strict=True)]
        tokens = pa.concat_arrays([pa.array([], pa.string()), *(part[0] for part in parts)])
        starts, ends = (
            pa.array(np.concatenate([np.zeros(0, np.int32), *(part[at] for part in parts)])) for at in (1, 2)
        )
        return tokens, starts, ends

    def _spans(self, ids: NDArray[np.int32], text: str) -> tuple[pa.Array, NDArray[np.int32], NDArray[np.int32]]:
        if self.bytes is None or REPLACED in text:
            tokens, starts, ends = token_spans(self, ids.tolist(), text)
            return pa.array(tokens, pa.string()), np.array(starts, np.int32), np.array(ends, np.int32)
        known = self._known(ids)
        odd, tokens = self.odd[known], self.pieces.take(pa.array(known))
        if not odd.any():
            ends = np.cumsum(self.widths[known], dtype=np.int32)
            return tokens, ends - self.widths[known], ends
        # Some tokens are parts of characters, and no character of the text is broken: those are counted that have ended
        # with the token, which are those that have begun, but for the one that goes on where the next byte begins none.
        first = (np.frombuffer(text.encode() + b" ", np.uint8) & 0xC0) != 0x80
        places = np.cumsum(self.lengths[known])
        ends = (np.cumsum(first) - 1)[places].astype(np.int32)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
        shown = [text[starts[place] : ends[place]] for place in np.flatnonzero(odd)]
        return pc.replace_with_mask(tokens, pa.array(odd), pa.array(shown, pa.string())), starts, ends  # pyright: ignore[reportAttributeAccessIssue]

    def whole_characters(self, ids: Sequence[int]) -> Callable[[int], int]:
        """Returns place → how many characters of the text are certain after the token at that place.

        Bytes that are no valid UTF-8, or not yet, may still become part of a character: they do not count at the end.
        """
        if self.bytes is None:
            return lambda place: len(
                self.tokenizer.decode(list(ids[: place + 1]), skip_special_tokens=True).rstrip(REPLACED)
            )
        decoder, certain, counts = codecs.getincrementaldecoder("utf-8")("replace"), 0, []
        decoded = 0
        for token in ids:
            found = decoder.decode(self.bytes[token])
            if kept := found.rstrip(REPLACED):
                certain = decoded + len(kept)
            decoded += len(found)
            counts.append(certain)
        return counts.__getitem__


def token_spans(pieces: TokenPieces, ids: Sequence[int], text: str) -> Spans:
    """Returns each token's piece of the completion, its start and its end; a special token has a name and zero width.

    A character whose bytes are spread over several tokens belongs to the last of them.
    """
    special, piece_of, whole_characters = pieces.special, pieces.piece, pieces.whole_characters(ids)
    tokens, starts, ends, cursor = [], [], [], 0
    for index, token in enumerate(ids):
        piece = piece_of(token)
        end = cursor
        if token not in special:
            if REPLACED not in piece and text.startswith(piece, cursor):
                end = cursor + len(piece)
            else:
                end = max(cursor, min(whole_characters(index), len(text)))
            piece = text[cursor:end]
        tokens.append(piece)
        starts.append(cursor)
        ends.append(end)
        cursor = end
    if cursor < len(text):
        # The response ends inside a character; the replacement that decoding shows belongs to the last ordinary token.
        last = max((index for index, token in enumerate(ids) if token not in special), default=len(ids) - 1)
        tokens[last], ends[last] = text[starts[last] :], len(text)
        starts[last + 1 :] = ends[last + 1 :] = [len(text)] * (len(ids) - last - 1)
    return tokens, starts, ends


def _token_bytes(tokenizer: Any) -> defaultdict[int, bytes] | None:
    """Returns token → its bytes in a text, or None if the tokenizer does not join bytes: then texts must be decoded."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    found: defaultdict[int, bytes] = defaultdict(bytes)
    hidden = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    for token in range(max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1):
        name = "" if token in hidden else backend.id_to_token(token) or ""
        # A name with another character, such as a space in an added token, stands for itself.
        in_bytes = set(name) <= BYTE_OF.keys()
        found[token] = bytes(map(BYTE_OF.__getitem__, name)) if in_bytes else name.encode()
    everything = list(found)
    joined = b"".join(found.values()).decode("utf-8", "replace")
    # One look at the whole vocabulary tells, whatever the kind of the tokenizer and its settings are.
    if not hidden.issuperset(tokenizer.all_special_ids):
        return None
    return found if tokenizer.decode(everything, skip_special_tokens=True) == joined else None
