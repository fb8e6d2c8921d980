r"""Judges an answer against a gold answer: first what kind the gold is, then a comparison within that kind.

A worker process imports this module, so it must import neither torch nor transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
import re

from sdpg.rewards.answers.arithmetic import TooHardError, UndefinedError
from sdpg.rewards.answers.comparing import WrongError, compare
from sdpg.rewards.answers.kinds import Kind, Value, Words, has_words, kind_of
from sdpg.rewards.answers.kinds import variables as variables_of
from sdpg.rewards.answers.names import check_name, normal_words
from sdpg.rewards.answers.packaging import unpack
from sdpg.rewards.answers.readings import Reader, is_choice
from sdpg.rewards.answers.tokens import NotUnderstoodError, Token, tokenise

GOLDS = 4_096
"""Gold answers that are kept as they were read: the same problem comes again with every sibling and every step."""
_STRUCTURE = frozenset({"frac", "sqrt", "text", "{", "}", "(", ")", "+", "-", "*", "/", "^", "=", "_", ","})


@dataclass(frozen=True)
class Judgement:
    """Whether an answer is right, and why."""

    correct: bool
    reason: str
    """The gold answer's kind and the rule that decided: ``quantity: another unit``."""


@dataclass(frozen=True)
class Gold:
    """A gold answer as it was read once."""

    tokens: tuple[Token, ...]
    value: Value | None
    kind: Kind
    variables: frozenset[str]
    words: frozenset[str]


@lru_cache(GOLDS)
def read_gold(text: str) -> Gold:
    """Returns a gold answer with its kind; one that cannot be read is of the kind ``other``."""
    unpacked = _thousands_joined(unpack(text))
    try:
        tokens = tuple(tokenise(unpacked))
    except NotUnderstoodError:
        return Gold((), None, Kind.OTHER, frozenset(), frozenset())
    words = frozenset(token.text.lower() for token in tokens if token.kind in ("word", "run") and len(token.text) > 1)
    try:
        value = Reader().read(tokens)
    except (NotUnderstoodError, RecursionError):
        return Gold(tokens, None, Kind.OTHER, frozenset(), words)
    return Gold(tokens, value, kind_of(value, tokens), variables_of(value), words)


def judge(gold: str, answer: str, hard: bool = False) -> Judgement:
    """Returns the verdict on an answer.

    Args:
        gold: the gold answer.
        answer: what the response's box holds, neither empty nor deeply nested.
        hard: whether unbounded arithmetic is allowed, as in a worker that can be killed.

    Raises:
        TooHardError: without ``hard``, if bounded exact arithmetic does not tell.
    """
    wanted = read_gold(gold)
    try:
        tokens = tokenise(_thousands_joined(unpack(answer)))
        if [(token.text, token.kind) for token in tokens] == [(token.text, token.kind) for token in wanted.tokens]:
            return Judgement(True, f"{wanted.kind}: the same text")
        if wanted.value is None:
            return _judge_other(gold, wanted, answer, tokens, hard)
        if isinstance(wanted.value, Words):
            _compare_words(wanted.value, _spoken(tokens, wanted), wanted)
        else:
            value = Reader(wanted.variables, wanted.words, has_words(wanted.value)).read(tokens)
            compare(wanted.value, value, hard)
    except NotUnderstoodError as error:
        return Judgement(False, f"{wanted.kind}: not understood: {error}")
    except RecursionError:
        return Judgement(False, f"{wanted.kind}: not understood: deep nesting")
    except WrongError as error:
        return Judgement(False, f"{wanted.kind}: {error}")
    except UndefinedError as error:
        return Judgement(False, f"{wanted.kind}: no value: {error}")
    return Judgement(True, f"{wanted.kind}: equal")


def judge_hard(gold: str, answer: str) -> Judgement:
    """Returns the verdict on an answer that needs a worker."""
    return judge(gold, answer, hard=True)


def _judge_other(gold: str, wanted: Gold, answer: str, tokens: Sequence[Token], hard: bool) -> Judgement:
    """Judges by math-verify, which drops what it does not know: an answer may hold only what the gold does."""
    known = {token.text.lstrip("\\") for token in wanted.tokens} | _STRUCTURE
    for token in tokens:
        if token.kind != "num" and token.text.lstrip("\\") not in known:
            return Judgement(False, f"{wanted.kind}: not understood: {token.text!r}")
    if any(token.kind == "word" for token in (*wanted.tokens, *tokens)):
        return Judgement(False, f"{wanted.kind}: another text")
    if not hard:
        raise TooHardError
    from sdpg.rewards.math_verify_pool import math_verify_equal

    same = math_verify_equal(gold, answer)
    return Judgement(same, f"{wanted.kind}: {'equal' if same else 'unequal'} for math-verify")


_GROUPED = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])")


def _thousands_joined(text: str) -> str:
    """Returns a text whose numbers outside all brackets have no marks of thousands."""
    found, depth, at = [], 0, 0
    for match in re.finditer(rf"[(\[]|\\\{{|[)\]]|\\\}}|{_GROUPED.pattern}", text):
        if match[0] in ("(", "[", r"\{"):
            depth += 1
        elif match[0] in (")", "]", r"\}"):
            depth -= 1
        elif depth == 0:
            found += [text[at : match.start()], match[0].replace(",", "")]
            at = match.end()
    return "".join([*found, text[at:]])


def _spoken(tokens: list[Token], gold: Gold) -> Sequence[Token]:
    """Returns an answer's words without a name or a label before them."""
    if is_choice(tokens):
        Reader(frozenset(), gold.words).read(tokens[3:])
        return tokens[:3]
    for at in range(len(tokens) - 1, 0, -1):
        if tokens[at].text in ("=", ":", "is") and at < len(tokens) - 1:
            check_name(tokens[:at], gold.words)
            return tokens[at + 1 :]
    return tokens


def _compare_words(gold: Words, tokens: Sequence[Token], wanted: Gold) -> None:
    said = normal_words(tokens)
    folded = [tuple(word.lower() for word in words) for words in (gold.words, said)]
    letters = len(gold.words) == 1 and gold.words[0].isupper()
    # Letters stand for themselves: ix is not IX. The letter of a choice in brackets may be small.
    bracketed = wanted.tokens[0].text == "("
    if said != gold.words and not (folded[0] == folded[1] and (not letters or bracketed)):
        raise WrongError("another text")
