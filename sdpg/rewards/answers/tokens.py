r"""Cuts an unpacked answer into tokens: numbers, commands, letters, words of texts, signs."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
import re

_MAX_EXPONENT = 10_000

_TOKEN = re.compile(
    r"(?P<text>\\text\{)"
    r"|(?P<repeating>[0-9]*\.[0-9]{0,40}(?:\\(?:overline|bar|dot)\s*(?:\{[0-9]+\}|[0-9])(?:[0-9]*\\dot\s*(?:\{[0-9]\}|[0-9]))?"
    r"|(?:(?P<again>[0-9]{1,6})(?P=again){2,40}(?:\s*\\ldots(?![a-zA-Z])|\s*\.\.\.)|(?<=\.)\([0-9]+\))))"
    r"|(?P<num>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+(?![0-9.a-zA-Z]))?)"
    r"|(?P<cmd>\\(?:begin|end)\{[a-z]+\*?\}|\\(?:[a-zA-Z]+|.))"
    r"|(?P<run>[a-zA-Z]+)"
    r"|(?P<sym>\S)",
    re.DOTALL,
)
CLOSING = {
    "(": ")", "{": "}", "[": "]", r"\{": r"\}", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil", r"\langle": r"\rangle"
}  # fmt: skip
"""Brackets and what closes them."""


class NotUnderstoodError(ValueError):
    """A part of an answer has no meaning here; the message names it."""


@dataclass(frozen=True)
class Token:
    """A number, command, run of letters, word of a text, or sign."""

    kind: str
    """num, repeating, cmd, run, word or sym."""
    text: str
    block: int = 0
    """Which text block holds it; 0 is none."""


def tokenise(text: str, block: int = 0) -> list[Token]:
    """Returns the tokens of an unpacked text; letters in text blocks are words."""
    found, at = [], 0
    blocks = block
    while match := _TOKEN.search(text, at):
        kind, at = str(match.lastgroup), match.end()
        if match["repeating"]:
            kind = "repeating"
        if kind != "text":
            found.append(Token("word" if block and kind == "run" else kind, match[0], block))
            continue
        depth, begin = 1, at
        while depth:
            if at >= len(text):
                raise NotUnderstoodError("a text that does not end")
            depth += {"{": 1, "}": -1}.get(text[at], 0) if text[at - 1] != "\\" else 0
            at += 1
        blocks += 1
        inner = re.sub(r"(?<![a-zA-Z])([ap])\.?\s*m\.?(?![a-zA-Z])", r"\1m", text[begin : at - 1], flags=re.IGNORECASE)
        inner = re.sub(r"\\mu\s*(?=[a-zA-Z])", "u", re.sub(r"\\Omega(?![a-zA-Z])", "ohm", inner))
        found += tokenise(re.sub(r"(?<=[a-zA-Z])\.(?!\s*\.)", " ", inner), max(blocks, block + 1))
        blocks = max([blocks, *(token.block for token in found)])
    return found


def split(tokens: Sequence[Token], *separators: str) -> tuple[list[list[Token]], list[str]]:
    """Returns the stretches between separators outside all brackets, and the separators.

    Raises:
        NotUnderstoodError: if brackets do not close.
    """
    parts: list[list[Token]] = [[]]
    found: list[str] = []
    depth = 0
    for token in tokens:
        if token.kind in ("sym", "cmd"):
            if token.text in CLOSING or token.text.startswith(r"\begin"):
                depth += 1
            elif token.text in CLOSING.values() or token.text.startswith(r"\end"):
                depth -= 1
        if depth < 0:
            break
        if depth == 0 and token.text in separators:
            parts.append([])
            found.append(token.text)
        else:
            parts[-1].append(token)
    if depth:
        raise NotUnderstoodError("brackets that do not close")
    return parts, found


def number(token: Token) -> Fraction:
    """Returns the exact value of a number as written."""
    if token.kind == "repeating":
        whole, fixed, again = _repeating(token.text)
        least = Fraction(int(again), 10 ** len(again) - 1)
        return int(whole or "0") + (int(fixed or "0") + least) / Fraction(10 ** len(fixed))
    exponent = re.search(r"[eE]([-+]?[0-9]+)$", token.text)
    if exponent and (len(exponent[1]) > 8 or abs(int(exponent[1])) > _MAX_EXPONENT):
        raise NotUnderstoodError(f"the exponent {exponent[1]!r}")
    return Fraction(token.text)


def _repeating(text: str) -> tuple[str, str, str]:
    whole, _, rest = text.partition(".")
    if match := re.fullmatch(r"([0-9]*)(?:\\(?:overline|bar)\s*\{?|\()([0-9]+)[})]?", rest):
        return whole, match[1], match[2]
    if match := re.fullmatch(r"([0-9]*)\\dot\s*\{?([0-9]+)\}?(?:([0-9]*)\\dot\s*\{?([0-9])\}?)?", rest):
        return whole, match[1], match[2] + (match[3] or "") + (match[4] or "")
    match = re.match(r"([0-9]*?)([0-9]+?)\2{2,}(?:\s|\\|\.)", rest)
    if match is None:
        raise NotUnderstoodError(f"the number {text!r}")
    return whole, match[1], match[2]


def closes_at_end(tokens: Sequence[Token]) -> bool:
    """Returns whether the first token's bracket closes with the last token."""
    depth = 0
    for at, token in enumerate(tokens):
        if token.text in CLOSING:
            depth += 1
        elif token.text in CLOSING.values():
            depth -= 1
            if depth == 0:
                return at == len(tokens) - 1
    return False
