"""Names and words: what may stand before an equals sign, and how words are compared."""

from collections.abc import Sequence
import re

from sdpg.rewards.answers.expressions import ONE_ARGUMENT
from sdpg.rewards.answers.tokens import NotUnderstoodError, Token
from sdpg.rewards.answers.units import MULTIPLES
from sdpg.rewards.answers.vocabulary import CHANGES, COUNTED, DENIALS, NAMES, OPERATORS, WORDS

FUNCTIONS = ONE_ARGUMENT | {"pi", "sqrt"}
"""Letters that are no words."""
_PRODUCTS = ("abcd", "ijk", "klmn", "mnk", "pqrst", "rst", "uvw", "xyzw")
_MARKS = frozenset("(){}[],\"'`")
_DERIVED = re.compile(r"^(?:the |an? )?((?:square|cube)(?: root)?|quarter|multiple|factor|divisor)s? of\b")


def check_name(tokens: Sequence[Token], words: frozenset[str]) -> None:
    """Checks what stands before an equals sign: variables, calculations, and words that name a quantity.

    Args:
        tokens: the name.
        words: words that the gold answer holds, in lower case.

    Raises:
        NotUnderstoodError: if it takes something back, or says another number of what it names.
    """
    text = " ".join(token.text for token in tokens if token.kind == "word").lower()
    if derived := _DERIVED.match(text):
        raise NotUnderstoodError(f"the name {derived[1]!r} of something")
    for at, token in enumerate(tokens):
        if token.kind in ("word", "run"):
            known = _may_name(token, tokens, at, words)
        elif token.kind == "cmd":
            known = token.text[1:] in OPERATORS or token.text.startswith((r"\begin{", r"\end{")) \
                or not token.text[1:2].isalpha()  # fmt: skip
        else:
            known = token.kind != "sym" or token.text in "+-*/=<>()[]{}^_.,:;|!'$%&"
        if not known:
            kind = {"cmd": "command", "sym": "sign"}.get(token.kind, "word")
            raise NotUnderstoodError(f"the {kind} {token.text!r}")


def _may_name(token: Token, tokens: Sequence[Token], at: int, words: frozenset[str]) -> bool:
    word, small = token.text, token.text.lower()
    if small in words:
        return True
    bare = token.kind == "run"
    # Capitals side by side are points or variables; a text in capitals is a text.
    if small in DENIALS and not (bare and (word.isupper() or len(word) < 3)):
        return False
    if small in WORDS or small in NAMES or len(word) == 1 or (bare and word.isupper()):
        return True
    if small in MULTIPLES and any(other.kind == "num" for other in tokens):
        return True
    alone = sum(other.block == token.block for other in tokens) == 1
    proper = not bare and word[0].isupper() and word[1:].islower() and (
        alone or (at + 1 < len(tokens) and tokens[at + 1].text == "'")
    )  # fmt: skip
    # Short runs of letters are products of variables.
    return (proper or (bare and len(word) <= 3)) and small not in CHANGES


def is_word(run: str) -> bool:
    """Returns whether letters side by side are a word or a row of letters, and no product of variables."""
    if run in FUNCTIONS:
        return False
    ordered = run.islower() and list(run) == sorted(run)
    return not (ordered and any(set(run) <= set(family) for family in _PRODUCTS))


def normal_words(tokens: Sequence[Token]) -> tuple[str, ...]:
    """Returns words for comparing: without brackets and articles; in lower case unless all are capitals."""
    words = [token.text for token in tokens if token.text not in _MARKS]
    said = {"the", "an", "a", "there", "is", "are", "it", "answer", "option", "choice", "so", "final", "The", "An",
            "There", "It", "Option", "Choice", "Answer", "So"}  # fmt: skip
    kept = [COUNTED.get(word.lower(), word) for word in words if word not in said] or words
    if all(len(word) == 1 and word.isupper() for word in kept):
        return ("".join(kept),)
    return tuple(word if word.isupper() else word.lower() for word in kept)
